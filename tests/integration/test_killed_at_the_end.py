"""A study whose process was killed when its last trial had ended, and the study had not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.integration.study_process import events, show, tuner
from tests.studies import write_study
from tests.workloads import replay
from tuner.storage.checkpoints import Progress, TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]

XS = [0.9, 0.1, 0.5]


def statuses(storage: Path, name: str) -> list[str]:
    """What MLflow says of a study's runs."""
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def test_resume_finishes_the_end_of_a_study_that_a_kill_cut_off(tmp_path: Path, storage: Path, shared_ray: str) -> None:
    file = write_study(
        tmp_path / "end.toml",
        budget={"trials": len(XS)},
        scheduler={"name": "none"},
        checkpoints={"keep": 1},
        fixed={"epochs": 2},
        first_trials=[{"x": x} for x in XS],
        resources={"max_concurrent_trials": 1},
    )
    tuner("run", file, "--storage", storage, "--address", shared_ray)
    folder = storage / "end"
    whole = events(folder)
    assert [event["event"] for event in whole[-2:]] == ["end", "stop"]

    # As a kill between these two leaves it: the last trial's end is known, and nothing that follows from it was done.
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    (folder / "events.jsonl").write_text("".join(lines[:-1]) + lines[-1][:9])
    config = replay.Config(x=XS[2], epochs=2)
    for trial in (2, 3):
        progress = Progress(2, {"score": 0.0}, replay.score(config, 2), 2)
        checkpoint = TrialCheckpoints(trial_folder(Storage(str(storage)) / "end", trial))
        checkpoint.publish(replay.write_checkpoint(config, 2), progress)
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("end")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        client.update_run(run.info.run_id, status="RUNNING")
    (folder / "tracking.json").unlink()

    finished = tuner("resume", "end", "--storage", storage)
    assert "has all its" not in finished.output
    found = show(storage, "end")
    assert found["state"] == "finished"
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * len(XS)
    assert events(folder)[: len(whole) - 1] == whole[:-1]
    assert [event["event"] for event in events(folder)[len(whole) - 1 :]] == ["run", "stop"]
    assert {int(path.parent.parent.name) for path in folder.glob("trials/*/epoch-*/weights.bin")} == {1}
    assert not list(folder.rglob("resume"))
    assert statuses(storage, "end") == ["FINISHED"] * (len(XS) + 1)

    # A finished study stays as it is, and so does one that was stopped when there was nothing left to run.
    again = tuner("resume", "end", "--storage", storage)
    assert "has all its 3 trials" in again.output
    assert len(events(folder)) == len(whole) + 1
    shutil.copytree(storage, tmp_path / "other")
    with (tmp_path / "other" / "end" / "events.jsonl").open("a") as stream:
        stream.write('{"event": "stop", "time": 2000000000.0, "state": "interrupted", "reason": "SIGINT"}\n')
    tuner("resume", "end", "--storage", tmp_path / "other")
    assert show(tmp_path / "other", "end")["state"] == "finished"
