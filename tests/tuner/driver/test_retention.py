"""Which checkpoints stay on disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.studies import study_spec
from tests.workloads.replay import Config, write_checkpoint
from tests.written_event import event
from tuner.driver.retention import Retention
from tuner.events.state import StudyRecord
from tuner.storage.checkpoints import Progress, TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage


def record(keep: int, direction: str = "maximize") -> StudyRecord:
    spec = study_spec(objective={"direction": direction}, budget={"trials": 9}, checkpoints={"keep": keep})
    return StudyRecord(spec)


def report(record: StudyRecord, study: Storage, trial: int, value: float) -> None:
    """A trial's only epoch, with its checkpoint."""
    record.apply(event("start", 0.0, trial=trial, params={}))
    record.apply(event("report", 0.0, trial=trial, epoch=1, metrics={"score": value}))
    progress = Progress(epoch=1, metrics={"score": value}, best_value=value, best_epoch=1)
    TrialCheckpoints(trial_folder(study, trial)).publish(write_checkpoint(Config(), 1), progress)


def end(record: StudyRecord, trial: int, state: str = "finished") -> None:
    record.apply(event("end", 0.0, trial=trial, state=state, reason=None))


def kept(folder: Path) -> set[int]:
    return {int(path.parent.parent.name) for path in folder.glob("s/trials/*/epoch-*/weights.bin")}


def test_the_best_trials_keep_their_weights_and_nothing_to_resume_from(tmp_path: Path) -> None:
    study, found = Storage(str(tmp_path)) / "s", record(keep=2)
    retention = Retention(found, study)
    after = []
    for trial, value in enumerate((0.5, 0.3, 0.4, 0.9, 0.1), start=1):
        report(found, study, trial, value)
        end(found, trial)
        retention.trial_ended(trial)
        after.append(kept(tmp_path))
    assert after == [{1}, {1, 2}, {1, 3}, {1, 4}, {1, 4}]
    assert not list(tmp_path.rglob("resume"))


def test_the_least_values_are_kept_where_the_objective_is_minimized(tmp_path: Path) -> None:
    study, found = Storage(str(tmp_path)) / "s", record(keep=1, direction="minimize")
    retention = Retention(found, study)
    for trial, value in enumerate((0.5, 0.3, 0.4), start=1):
        report(found, study, trial, value)
        end(found, trial)
        retention.trial_ended(trial)
    assert kept(tmp_path) == {2}


def test_a_failed_trial_keeps_nothing(tmp_path: Path) -> None:
    study, found = Storage(str(tmp_path)) / "s", record(keep=3)
    report(found, study, 1, 0.9)
    end(found, 1, "failed")
    Retention(found, study).trial_ended(1)
    assert kept(tmp_path) == set()


def test_a_running_trial_is_left_alone(tmp_path: Path) -> None:
    study, found = Storage(str(tmp_path)) / "s", record(keep=1)
    report(found, study, 1, 0.1)
    report(found, study, 2, 0.9)
    end(found, 2)
    Retention(found, study).trial_ended(2)
    assert kept(tmp_path) == {1, 2}
    assert [path.parent.parent.name for path in tmp_path.rglob("resume")] == ["1"]


def killed_before_the_tidying(tmp_path: Path) -> tuple[Storage, StudyRecord]:
    """A study of three ended trials whose checkpoints are as the trials left them."""
    study, found = Storage(str(tmp_path)) / "s", record(keep=2)
    for trial, value in enumerate((0.9, 0.1, 0.8), start=1):
        report(found, study, trial, value)
        end(found, trial)
    return study, found


def test_a_resumed_study_tidies_what_a_kill_left(tmp_path: Path) -> None:
    study, found = killed_before_the_tidying(tmp_path)
    Retention(found, study).tidy()
    assert kept(tmp_path) == {1, 3}
    assert not list(tmp_path.rglob("resume"))


def test_a_trials_end_lists_no_trial_that_ended_in_a_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes under the recorder's lock, and of a thousand trials in a bucket the listing takes a minute."""
    study, found = killed_before_the_tidying(tmp_path)
    retention = Retention(found, study)
    report(found, study, 4, 0.85)
    end(found, 4)
    listed: set[str] = set()
    names = Storage.names

    def listing(self: Storage, path: str = "") -> list[str]:
        listed.add(self.name)
        return names(self, path)

    monkeypatch.setattr(Storage, "names", listing)
    retention.trial_ended(4)
    assert listed == {"4", "3"}, "the one that ended, and the one that it pushed out of the best"
    assert kept(tmp_path) == {1, 2, 4}


def test_what_a_storage_refuses_to_delete_is_deleted_when_the_study_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, found = Storage(str(tmp_path)) / "s", record(keep=1)
    retention = Retention(found, study)
    report(found, study, 1, 0.9)
    end(found, 1)

    def refuse(self: Storage, path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", refuse)
        retention.trial_ended(1)
    assert list(tmp_path.rglob("resume"))
    retention.study_ended()
    assert not list(tmp_path.rglob("resume"))
    assert kept(tmp_path) == {1}
