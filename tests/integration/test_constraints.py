"""A study with a constraint, killed and resumed; and one in which no trial keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.study_process import events, mlflow_runs, new_storage, running, show, tuner
from tests.studies import write_study
from tests.waiting import wait_for
from tests.workloads.replay import Config, score
from tuner.best import app as best_app
from tuner.cli.options import run_app

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]

EPOCHS, TRIALS, LEAST_LOSS = 5, 12, 0.4
STUDY: dict[str, Any] = {
    "constraints": [{"metric": "loss", "at_least": LEAST_LOSS}],  # the loss is 1 less the score
    "budget": {"trials": TRIALS},
    "space": {"x": {"type": "float", "low": 0, "high": 2}},
    "search": {"sampler": "random", "seed": 3},
    "scheduler": {"name": "none"},
}


def kept(x: float) -> dict[int, float]:
    """The score of each epoch that keeps the constraint."""
    scores = {epoch: score(Config(x=x), epoch) for epoch in range(1, EPOCHS + 1)}
    return {epoch: value for epoch, value in scores.items() if 1 - value >= LEAST_LOSS}


def test_the_best_of_each_trial_and_of_the_study_keeps_the_constraint(tmp_path: Path, database: Path) -> None:
    storage = new_storage(tmp_path, database)
    fixed = {"epochs": EPOCHS, "step_seconds": 0.1, "snapshots": True}
    file = write_study(tmp_path / "roads.toml", **STUDY, fixed=fixed)
    study = storage / "roads"
    with running("run", file, "--storage", storage) as process:
        wait_for(lambda: sum(event["event"] == "end" for event in events(study)) >= 3, 120)
        process.kill()
        assert process.left_behind() == []
    resumed = tuner("resume", "roads", "--storage", storage)

    trials = show(storage, "roads")["trials"]
    assert len(trials) == TRIALS
    runs = mlflow_runs(storage, "roads")
    values = {}
    for trial in trials:
        epochs = kept(trial["params"]["x"])
        assert trial["value"] == max(epochs.values(), default=None)
        tags = runs[str(trial["id"])].data.tags
        if epochs:
            values[trial["id"]] = trial["value"]
            assert trial["reason"] is None
        else:
            x = trial["params"]["x"]
            loss = 1 - score(Config(x=x), EPOCHS)
            assert trial["reason"] == f"loss must be at least 0.4, got {loss:g} at epoch {EPOCHS}"
            assert tags["tuner.reason"] == trial["reason"]
            assert f"trial {trial['id']} finished: {trial['reason']}" in resumed.output
    assert 0 < len(values) < TRIALS
    best = show(storage, "roads")["best"]
    assert (best["trial"], best["value"]) == max(values.items(), key=lambda pair: pair[1])
    assert best["epoch"] < EPOCHS, "later epochs have better scores, which don't count"
    assert runs["study"].data.params["constraints"] == "loss at least 0.4"
    assert "loss at least 0.4" in (study / "report.html").read_text()
    refused = tuner("resume", "roads", "--storage", storage, "--set", "constraints=[]", status=2)
    assert "constraints: can't be changed when a study is resumed" in refused.output


def test_a_study_in_which_no_trial_keeps_the_constraint_says_how_near_one_came(
    tmp_path: Path, storage: Path, shared_ray: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**STUDY, "constraints": [{"metric": "loss", "at_least": 2}], "budget": {"trials": 3}}
    file = write_study(tmp_path / "none.toml", **changes, fixed={"epochs": 2})
    said = tuner("run", file, "--storage", storage, "--address", shared_ray).output
    nearest = max(1 - score(Config(x=trial["params"]["x"]), 1) for trial in show(storage, "none")["trials"])
    sentence = (
        f"none of 3 ended trials keeps the constraints: loss at least 2 (3 broke it, the nearest with {nearest:g})"
    )
    assert sentence in said
    assert "export the winner" not in said
    monkeypatch.setattr("sys.argv", ["best", "none", "--storage", str(storage), "--output", str(tmp_path / "export")])
    with pytest.raises(SystemExit) as ended:
        run_app(best_app)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
