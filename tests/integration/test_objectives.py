"""A study with two objectives, killed and resumed, and each of the trials that a person may want of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.study_process import events, mlflow_runs, new_storage, running, show, tuner
from tests.studies import write_study
from tests.waiting import wait_for
from tests.workloads.replay import Config, score
from tuner.best import export_best
from tuner.results.pick import read_pick
from tuner.storage.storage import Storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]

EPOCHS, TRIALS = 5, 14
STUDY: dict[str, Any] = {
    "objectives": [{"metric": "score"}, {"metric": "cost", "direction": "minimize"}],
    "budget": {"trials": TRIALS},
    "space": {"x": {"type": "float", "low": 0, "high": 1}, "dip_epoch": {"type": "int", "low": 1, "high": 4}},
    "search": {"seed": 3},
    "scheduler": {"grace_epochs": 2},
    "checkpoints": {"keep": 1},
    "resources": {"max_concurrent_trials": 1},  # whatever the moment of the kill, the same hyperparameters are proposed
}


def test_every_trial_of_the_front_can_be_exported_after_a_kill(tmp_path: Path, database: Path) -> None:
    storage = new_storage(tmp_path, database)
    fixed = {"epochs": EPOCHS, "step_seconds": 0.1, "snapshots": True, "cost": 10.0}
    file = write_study(tmp_path / "roads.toml", **STUDY, fixed=fixed)
    study = storage / "roads"
    with running("run", file, "--storage", storage) as process:
        wait_for(lambda: sum(event["event"] == "end" for event in events(study)) >= 4, 120)
        process.kill()
        assert process.left_behind() == []
    resumed = tuner("resume", "roads", "--storage", storage)
    shown = show(storage, "roads")
    trials = {trial["id"]: trial for trial in shown["trials"]}
    assert len(trials) == TRIALS
    for trial in trials.values():
        config = Config(**trial["params"])
        values = {"score": max(score(config, epoch) for epoch in range(1, trial["epochs"] + 1)), "cost": 10 * config.x}
        assert trial["values"] == pytest.approx(values)

    front = shown["front"]
    points = {number: trial["values"] for number, trial in trials.items()}
    beaten = {
        number
        for number, own in points.items()
        if any(
            other["score"] >= own["score"] and other["cost"] <= own["cost"] and other != own
            for other in points.values()
        )
    }
    best = points.keys() - beaten
    # Of trials with the same values, as two with x = 1 have, the front has one.
    assert set(front) <= best
    found = [tuple(points[number].values()) for number in front]
    assert sorted(found) == sorted({tuple(points[number].values()) for number in best})
    assert 1 < len(front) < TRIALS
    assert shown["best"]["trial"] in front
    assert f"knee of a front of {len(front)}: trial {shown['best']['trial']}" in resumed.output

    for pick, wanted in {
        "knee": shown["best"]["trial"],
        "max:score": max(front, key=lambda number: points[number]["score"]),
        "min:cost": min(front, key=lambda number: points[number]["cost"]),
        "within:cost=6": max((n for n in front if points[n]["cost"] <= 6), key=lambda n: points[n]["score"]),
    }.items():
        exported = export_best(Storage(str(storage)), "roads", tmp_path / pick.replace(":", "-"), read_pick(pick))
        assert exported.trial.id == wanted
        assert exported.to_json()["scores"]["score"]["rescored"] == pytest.approx(points[wanted]["score"])
    kept = {int(path.parent.name) for path in study.glob("trials/*/epoch-*")}
    assert kept == set(front), "one trial's weights are kept, and all of the front's"

    runs = mlflow_runs(storage, "roads")
    for number, values in points.items():
        assert runs[str(number)].data.metrics["best/score"] == pytest.approx(values["score"])
        assert runs[str(number)].data.metrics["best/cost"] == pytest.approx(values["cost"])
        assert runs[str(number)].data.tags.get("tuner.front") == ("true" if number in front else None)
    assert runs["study"].data.params["objective"] == "maximize score and minimize cost"
    report = (study / "report.html").read_text()
    assert "Knee of the front" in report

    refused = tuner("resume", "roads", "--storage", storage, "--set", 'objectives=[{metric = "score"}]', status=2)
    assert "objectives: can't be changed when a study is resumed" in refused.output
    assert json.loads((study / "study.json").read_text())["objectives"][1] == STUDY["objectives"][1]
