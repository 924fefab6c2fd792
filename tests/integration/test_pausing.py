"""A study whose trials pause and resume, killed while one of them is paused."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest

from tests.integration.study_process import (
    curves,
    events,
    mlflow_curve,
    mlflow_runs,
    new_storage,
    running,
    show,
    truth,
    tuner,
)
from tests.studies import write_study
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]

EPOCHS = 12
# One trial at a time, on rungs at epochs 2 and 6: 3 and 5 pause on both, 5 resumes to the end, 4 stops on the first.
XS = [0.5, 0.9, 0.8, 0.1, 0.85]

ONE_PROCESS = {"workload": "tests.workloads.replay", "resources": {"max_concurrent_trials": 1}}
TWO_RANKS = {"workload": "tests.workloads.torch_replay", "resources": {"workers": 2, "max_concurrent_trials": 1}}


@pytest.mark.parametrize(
    ("slot", "snapshots"),
    [
        pytest.param(ONE_PROCESS, False, id="one process"),
        pytest.param(TWO_RANKS, True, id="two ranks", marks=pytest.mark.long),
    ],
)
def test_paused_trials_resume_where_they_were_and_survive_a_kill(
    slot: dict[str, Any], snapshots: bool, tmp_path: Path, database: Path
) -> None:
    storage = new_storage(tmp_path, database)
    log = tmp_path / "log"
    file = write_study(
        tmp_path / "pausing.toml",
        **slot,
        budget={"trials": len(XS)},
        scheduler={"name": "promotion", "grace_epochs": 2},
        fixed={"epochs": EPOCHS, "step_seconds": 0.1, "log": log, "snapshots": snapshots},
        first_trials=[{"x": x} for x in XS],
    )
    study = storage / "pausing"
    with running("run", file, "--storage", storage) as process:
        wait_for(lambda: collections.Counter(kinds(study, 3))["pause"] == 2 and "start" in kinds(study, 5), 120)
        process.kill()
        assert process.left_behind() == []
    assert [trial["state"] for trial in show(storage, "pausing")["trials"]][2] == "paused"
    assert list((study / "trials" / "3").glob("epoch-*/resume")), "its checkpoint waits"

    resumed = tuner("resume", "pausing", "--storage", storage)

    assert "paused after epoch 6, with a checkpoint" in resumed.output
    trials = show(storage, "pausing")["trials"]
    assert [trial["state"] for trial in trials] == ["finished", "finished", "stopped", "stopped", "finished"]
    assert trials[2]["reason"] == "others promised more when it was paused at epoch 6"
    reached = [EPOCHS, EPOCHS, 6, 2, EPOCHS]
    assert curves(study) == {
        number: truth(x, EPOCHS)[:epochs] for number, (x, epochs) in enumerate(zip(XS, reached, strict=True), start=1)
    }
    pauses = {number: kinds(study, number).count("pause") for number in range(1, 6)}
    assert pauses == {1: 0, 2: 0, 3: 2, 4: 0, 5: 2}
    # Only the trial that ran at the kill may have trained an epoch twice.
    trained = collections.Counter(tuple(line.split()[:3]) for line in log.read_text().splitlines())
    assert {x for (x, _, _), count in trained.items() if count > 1} <= {repr(XS[4])}
    assert not list(study.rglob("resume")), "no checkpoint to resume from stays"
    runs = mlflow_runs(storage, "pausing")
    assert runs["3"].info.status == "FINISHED"
    assert mlflow_curve(storage, runs["5"]) == truth(XS[4], EPOCHS)


def kinds(study: Path, trial: int) -> list[str]:
    """The kinds of a trial's events."""
    return [event["event"] for event in events(study) if event.get("trial") == trial]
