"""While the storage fails, a trial waits and doesn't fail."""

from __future__ import annotations

import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tuner.worker.trial_runner import TrialRunner
from tests.workloads import replay
from tests.workloads.bucket import bucket_uri
from tests.workloads.small_disk import fill, small_disk
from tuner.storage.storage import Storage
from tuner.worker import snapshot_writer as snapshots
from tuner.worker.messages import Interruption


@pytest.fixture(autouse=True)
def no_experience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "last_write", snapshots.LastWrite())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", megabytes=4) as folder:
        yield folder


@pytest.mark.parametrize("as_snapshots", [True, False])
def test_a_trial_waits_on_a_full_disk_until_there_is_room(disk: Path, as_snapshots: bool) -> None:
    study = Storage(str(disk)) / "s"
    filler = fill(disk, left=500_000)

    def make_room(times: int) -> None:
        if times == 2:
            filler.unlink()

    runner = TrialRunner(study, keep=True, at_wait=make_room)
    runner.run(epochs=2, checkpoint_bytes=1_000_000, snapshots=as_snapshots)
    assert runner.end == ("finished", None)
    assert [report.epoch for report in runner.reports] == [1, 2]
    assert runner.waits[-1] is None, "the trial notifies that it is resolved"
    first = runner.waits[0]
    assert first is not None
    assert str(disk) in first
    assert "No space left on device" in first or "needs 1.0 MB, and the disk is full; make room" in first
    assert (disk / "s" / "trials" / "1" / "epoch-000002" / "weights.bin").stat().st_size == 1_000_000
    assert not list((disk / "s" / "trials" / "1").glob(".incoming-*"))
    assert not (disk / "s" / "trials" / "1" / "error.txt").exists()


def test_a_trial_that_waits_ends_without_blame_when_the_study_stops(disk: Path) -> None:
    fill(disk, left=500_000)
    for as_snapshots in (True, False):
        runner = TrialRunner(Storage(str(disk)) / "s", keep=True, cancel=True)
        runner.run(epochs=2, checkpoint_bytes=1_000_000, snapshots=as_snapshots)
        assert runner.interruption is not None
        assert runner.interruption.storage
        assert str(disk) in runner.interruption.reason
    assert not list(disk.rglob("error.txt"))


def test_a_disk_that_is_full_where_the_workload_writes_costs_an_attempt_and_no_blame(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    fill(disk, left=500_000)
    runner = TrialRunner(Storage(str(tmp_path)) / "s", keep=True, cancel=True)
    runner.run(epochs=2, checkpoint_bytes=1_000_000)
    assert runner.waits, "it says so before the attempt ends"
    assert runner.messages[-1:] == [Interruption(str(runner.waits[0]), storage=True)]
    assert "No space left on device" in str(runner.waits[0])


def test_a_bucket_that_answers_errors_holds_a_trial_until_it_takes_what_it_gets(
    bucket: str,
) -> None:
    def make_bucket(times: int) -> None:
        if times == 2:
            urllib.request.urlopen(urllib.request.Request(f"http://{bucket}/late", method="PUT"), timeout=30).close()

    study = Storage(bucket_uri(bucket, "studies", "late")) / "s"  # until then every request is answered with an error
    runner = TrialRunner(study, keep=True, at_wait=make_bucket)
    runner.run(epochs=2)
    assert runner.end == ("finished", None)
    assert len(runner.waits) >= 3
    assert "NO_SUCH_BUCKET" in str(runner.waits[0])
    assert (study / "trials/1").names() == ["epoch-000002", "images"]


def test_a_mistake_in_a_workloads_snapshot_is_not_the_storages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(self: replay.SnapshotCopy, directory: Path) -> None:
        raise TypeError("no such argument")

    monkeypatch.setattr(replay.SnapshotCopy, "write", mistaken)
    runner = TrialRunner(Storage(str(tmp_path)) / "s", keep=True)
    runner.run(epochs=2, snapshots=True)
    assert runner.waits == []
    assert runner.end == ("failed", "TypeError: no such argument")


def test_a_checkpoint_that_is_not_there_is_the_workloads_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "write_checkpoint", lambda config, epoch: tmp_path / "nothing")
    runner = TrialRunner(Storage(str(tmp_path)) / "s", keep=True)
    runner.run(epochs=2)
    assert runner.waits == []
    assert "the checkpoint must be a directory that is there" in str(runner.end)
