"""A storage that refuses a trial's checkpoint: the trial waits, and isn't blamed."""

from __future__ import annotations

import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import replay
from tests.workloads.bucket import KEYS, bucket_server, bucket_uri
from tests.workloads.small_disk import fill, small_disk
from tuner import snapshots
from tuner.assignment import Answer, Assignment
from tuner.storage import Storage
from tuner.study import StudySpec
from tuner.trial import run_trial


@pytest.fixture(autouse=True)
def no_experience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_experience", snapshots._Experience())


class Runner:
    """Answers a trial as the study's runner would. at_refusal: called with how often it has been told of one."""

    def __init__(self, study: Storage, at_refusal: Callable[[int], None] = lambda _: None, *, give_up: bool = False):
        self._study, self._at_refusal, self._give_up = study, at_refusal, give_up
        self.refusals: list[str | None] = []
        self.epochs: list[int] = []
        self.told: list[dict[str, Any]] = []

    def post(self, report: dict[str, Any]) -> Answer:
        if "refusal" in report:
            self.refusals.append(report["refusal"])
            self._at_refusal(len(self.refusals))
            return Answer(ask_tune=self._give_up, keep=False)
        self.epochs.append(report["epoch"])
        return Answer(ask_tune=False, keep=True)

    def run(self, **settings: Any) -> None:
        spec = StudySpec.model_validate(
            {
                "name": "s",
                "workload": "tests.workloads.replay",
                "objective": {"metric": "score"},
                "budget": {"trials": 1},
                "fixed": settings,
                "space": {"x": {"type": "float", "low": 0, "high": 1}},
            }
        )
        assignment = Assignment(1, {"x": 0.5}, time.time())
        run_trial(assignment, spec, self._study, device=None, rank=0, post=self.post, tell=self.told.append)

    @property
    def end(self) -> Any:
        return self.told[-1].get("end")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", megabytes=4) as folder:
        yield folder


@pytest.mark.parametrize("as_snapshots", [True, False])
def test_a_full_disk_holds_a_trial_until_there_is_room(disk: Path, as_snapshots: bool) -> None:
    study = Storage(str(disk)) / "s"
    filler = fill(disk, left=500_000)

    def make_room(times: int) -> None:
        if times == 2:
            filler.unlink()

    runner = Runner(study, make_room)
    runner.run(epochs=2, checkpoint_bytes=1_000_000, snapshots=as_snapshots)
    assert runner.end == {"state": "finished", "reason": None}
    assert runner.epochs == [1, 2]
    assert runner.refusals[-1] is None, "that it is over is said too"
    first = runner.refusals[0]
    assert first is not None
    assert str(disk) in first
    assert "No space left on device" in first or "needs 1.0 MB, and the disk is full; make room" in first
    assert (disk / "s" / "trials" / "1" / "epoch-000002" / "weights.bin").stat().st_size == 1_000_000
    assert not list((disk / "s" / "trials" / "1").glob(".incoming-*"))
    assert not (disk / "s" / "trials" / "1" / "error.txt").exists()


def test_a_trial_that_waits_ends_without_blame_when_the_study_stops(disk: Path) -> None:
    fill(disk, left=500_000)
    for as_snapshots in (True, False):
        runner = Runner(Storage(str(disk)) / "s", give_up=True)
        runner.run(epochs=2, checkpoint_bytes=1_000_000, snapshots=as_snapshots)
        (last,) = runner.told[-1:]
        assert last["refused"]
        assert "end" not in last
        assert str(disk) in last["lost"]
    assert not list(disk.rglob("error.txt"))


def test_a_disk_that_is_full_where_the_workload_writes_costs_an_attempt_and_no_blame(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    fill(disk, left=500_000)
    runner = Runner(Storage(str(tmp_path)) / "s", give_up=True)
    runner.run(epochs=2, checkpoint_bytes=1_000_000)
    assert runner.refusals, "it says so before the attempt ends"
    assert runner.told == [{"lost": runner.refusals[0], "refused": True}]
    assert "No space left on device" in str(runner.refusals[0])


def test_a_bucket_that_answers_errors_holds_a_trial_until_it_takes_what_it_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    with bucket_server(tmp_path / "moto.log") as server:

        def to_server(path: str, method: str) -> None:
            urllib.request.urlopen(urllib.request.Request(f"http://{server}{path}", method=method), timeout=30).close()

        def make_bucket(times: int) -> None:
            if times == 2:
                to_server("/bucket", "PUT")

        study = Storage(bucket_uri(server, "studies")) / "s"
        to_server("/moto-api/reset", "POST")  # no bucket any more: every request is answered with an error
        runner = Runner(study, make_bucket)
        runner.run(epochs=2)
        assert runner.end == {"state": "finished", "reason": None}
        assert len(runner.refusals) >= 3
        assert "NO_SUCH_BUCKET" in str(runner.refusals[0])
        assert (study / "trials/1").names() == ["epoch-000002", "images"]


def test_a_mistake_in_a_workloads_snapshot_is_not_the_storages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(self: replay.SnapshotCopy, directory: Path) -> None:
        raise TypeError("no such argument")

    monkeypatch.setattr(replay.SnapshotCopy, "write", mistaken)
    runner = Runner(Storage(str(tmp_path)) / "s")
    runner.run(epochs=2, snapshots=True)
    assert runner.refusals == []
    assert runner.end == {"state": "failed", "reason": "TypeError: no such argument"}


def test_a_checkpoint_that_is_not_there_is_the_workloads_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "write_checkpoint", lambda config, epoch: tmp_path / "nothing")
    runner = Runner(Storage(str(tmp_path)) / "s")
    runner.run(epochs=2)
    assert runner.refusals == []
    assert "the checkpoint must be a directory that is there" in runner.end["reason"]
