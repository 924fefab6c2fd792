"""A trial's checkpoints: published whole, read only if whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.workloads.replay import Config, write_checkpoint
from tuner.errors import StorageUnavailableError
from tuner.storage.checkpoints import Progress, TrialCheckpoints
from tuner.storage.storage import Storage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trials" / "1"


@pytest.fixture
def checkpoints(folder: Path) -> TrialCheckpoints:
    return TrialCheckpoints(Storage(str(folder)))


def publish(checkpoints: TrialCheckpoints, epoch: int, best_epoch: int) -> list[str]:
    progress = Progress(epoch=epoch, metrics={"score": 0.1 * epoch}, best_value=0.1 * best_epoch, best_epoch=best_epoch)
    return checkpoints.publish(write_checkpoint(Config(), epoch), progress)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_published_checkpoint_is_the_newest_with_its_progress(checkpoints: TrialCheckpoints) -> None:
    assert checkpoints.newest() is None
    publish(checkpoints, 1, 1)
    publish(checkpoints, 2, 2)
    found = checkpoints.newest()
    assert found is not None
    assert found[0] == Progress(epoch=2, metrics={"score": 0.2}, best_value=0.2, best_epoch=2)
    assert found[1] == "epoch-000002"


def test_a_checkpoint_without_its_report_is_never_read(checkpoints: TrialCheckpoints, folder: Path) -> None:
    publish(checkpoints, 1, 1)
    publish(checkpoints, 2, 1)
    (folder / "epoch-000002" / "report.json").unlink()
    found = checkpoints.newest()
    assert found is None or found[0].epoch == 1
    assert checkpoints.fetch(2, folder) is None


def test_a_checkpoint_that_cannot_be_resumed_from_is_not_the_newest(
    checkpoints: TrialCheckpoints, folder: Path
) -> None:
    publish(checkpoints, 1, 1)
    shutil.rmtree(folder / "epoch-000001" / "resume")
    assert checkpoints.newest() is None
    assert checkpoints.fetch(1, folder) is not None


def test_a_running_trial_keeps_its_newest_checkpoint_and_its_best_weights(
    checkpoints: TrialCheckpoints, folder: Path
) -> None:
    for epoch, best_epoch in enumerate((1, 2, 2, 2), start=1):
        publish(checkpoints, epoch, best_epoch)
    assert [name for name in names(folder) if name != "images"] == ["epoch-000002", "epoch-000004"]
    assert not (folder / "epoch-000002" / "resume").exists()
    assert (folder / "epoch-000002" / "weights.bin").exists()
    assert (folder / "epoch-000004" / "resume").exists()


def test_only_epochs_that_are_the_best_so_far_leave_images(checkpoints: TrialCheckpoints, folder: Path) -> None:
    assert publish(checkpoints, 1, 1) == ["images/epoch-000001/frame_a.png"]
    assert publish(checkpoints, 2, 1) == []
    assert publish(checkpoints, 3, 3) == ["images/epoch-000003/frame_a.png"]
    assert names(folder / "images") == ["epoch-000001", "epoch-000003"]
    assert checkpoints.images(3) == ["images/epoch-000003/frame_a.png"]
    assert checkpoints.images(2) == []


def test_an_ended_trial_keeps_its_best_weights_and_nothing_to_resume_from(
    checkpoints: TrialCheckpoints, folder: Path
) -> None:
    for epoch, best_epoch in enumerate((1, 2, 2), start=1):
        publish(checkpoints, epoch, best_epoch)
    checkpoints.strip(2)
    assert [name for name in names(folder) if name != "images"] == ["epoch-000002"]
    assert not list(folder.rglob("resume"))


def test_an_ended_trial_that_is_none_of_the_best_keeps_no_weights(checkpoints: TrialCheckpoints, folder: Path) -> None:
    publish(checkpoints, 1, 1)
    (folder / ".incoming-abc").mkdir()
    checkpoints.strip(None)
    assert names(folder) == ["images"]


def test_the_report_arrives_last_in_a_bucket(checkpoints: TrialCheckpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    last: list[str | None] = []
    monkeypatch.setattr(
        Storage, "put", lambda self, folder, path, last_=None, **named: last.append(named.get("last", last_))
    )
    publish(checkpoints, 1, 1)
    assert last[-1] == "report.json"


def test_a_full_disk_is_reported_with_path_and_size_and_keeps_earlier_checkpoints(
    checkpoints: TrialCheckpoints, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(checkpoints, 1, 1)

    def full(source: str, target: str) -> None:
        (Path(target) / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "move", full)
    with pytest.raises(
        StorageUnavailableError, match=rf"{folder}: the checkpoint of epoch 2 needs 0\.\d MB, and the disk is full"
    ):
        publish(checkpoints, 2, 1)
    found = checkpoints.newest()
    assert found is not None
    assert found[0].epoch == 1
    assert names(folder) == ["epoch-000001", "images"], "half a checkpoint would fill the disk further"


def test_progress_reads_back_as_it_was(checkpoints: TrialCheckpoints, folder: Path) -> None:
    publish(checkpoints, 1, 1)
    written = json.loads((folder / "epoch-000001" / "report.json").read_text())
    assert Progress(**written) == Progress(epoch=1, metrics={"score": 0.1}, best_value=0.1, best_epoch=1)


def test_a_disk_that_fails_at_the_last_step_leaves_the_checkpoint_for_a_retry(
    checkpoints: TrialCheckpoints, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems say only when it is synced that they have no room; the one that was there stays until then."""
    publish(checkpoints, 1, 1)
    directory = write_checkpoint(Config(x=0.9), 1)
    progress = Progress(epoch=1, metrics={}, best_value=0.1, best_epoch=7)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageUnavailableError, match="the disk is full"):
            checkpoints.publish(directory, progress)
    kept = checkpoints.fetch(1, folder)
    assert kept is not None
    assert Config.model_validate_json((kept / "config.json").read_text()).x == Config().x
    checkpoints.publish(directory, progress)
    assert Config.model_validate_json((kept / "config.json").read_text()).x == 0.9
    assert names(folder) == ["epoch-000001", "images"]
