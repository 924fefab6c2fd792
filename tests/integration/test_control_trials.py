"""A study with control trials, killed while some are to come."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.study_process import curves, events, mlflow_runs, new_storage, running, show, truth, tuner
from tests.studies import study_spec, write_study
from tests.waiting import wait_for
from tuner.search.schedulers.control_trials import control_trials

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]

EPOCHS, TRIALS = 6, 12
STUDY: dict[str, Any] = {
    "budget": {"trials": TRIALS},
    "search": {"sampler": "random", "seed": 3},
    "scheduler": {"grace_epochs": 2, "control_trials": 5},
    "resources": {"max_concurrent_trials": 1},
}


def test_control_trials_train_to_their_end_and_the_study_says_what_was_spared(tmp_path: Path, database: Path) -> None:
    storage = new_storage(tmp_path, database)
    fixed = {"epochs": EPOCHS, "step_seconds": 0.1, "snapshots": True}
    file = write_study(tmp_path / "roads.toml", **STUDY, fixed=fixed)
    control = control_trials(study_spec(**STUDY))
    study = storage / "roads"
    with running("run", file, "--storage", storage) as process:
        wait_for(lambda: any(event["event"] == "start" and event["trial"] == 6 for event in events(study)), 120)
        process.kill()
        assert process.left_behind() == []
    assert len(control - {event["trial"] for event in events(study) if event["event"] == "start"}) > 1

    resumed = tuner("resume", "roads", "--storage", storage)

    trials = {trial["id"]: trial for trial in show(storage, "roads")["trials"]}
    assert {number for number, trial in trials.items() if trial["control"]} == control
    # The score rises to x, so that the order at epoch 2 is that at the end: ASHA stops a trial whose x is below the
    # best third of those before it.
    for number, trial in trials.items():
        before = [other["params"]["x"] for other in trials.values() if other["id"] < number]
        stops = bool(before) and trial["params"]["x"] < np.percentile(before, 100 * 2 / 3)
        assert trial["would_stop_at"] == (2 if stops and number in control else None), number
        assert trial["epochs"] == (2 if stops and number not in control else EPOCHS), number
        assert curves(study)[number] == truth(trial["params"]["x"], EPOCHS)[: trial["epochs"]]
    spared = [number for number in control if trials[number]["would_stop_at"] == 2]
    assert 0 < len(spared) < len(control)
    sentence = f"Early stopping would have stopped {len(spared)} of 5 control trials. The best that it would have "
    correlation = "The control trials' rank correlation with the end: 1.00 (0.16 to 1.00) at epoch 2"
    for said in (resumed.output, tuner("show", "roads", "--storage", storage).output):
        assert sentence in said
        assert correlation in said
        assert "warning: " not in said
    assert sentence in html.unescape((study / "report.html").read_text())
    runs = mlflow_runs(storage, "roads")
    assert {int(number) for number, run in runs.items() if run.data.tags.get("tuner.control") == "true"} == control
    assert runs["study"].data.tags["tuner.control.outcome"].startswith(sentence)
    assert runs[str(spared[0])].data.tags["tuner.control.would_stop_at"] == "2"
