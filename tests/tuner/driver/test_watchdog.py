"""Which silent trials the watchdog ends, when, and in which state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.studies import study_spec
from tests.workloads import replay
from tuner.driver import watchdog
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Outcome, Recorder
from tuner.driver.watchdog import Watchdog
from tuner.events.log import Journal
from tuner.events.state import StudyRecord
from tuner.storage.checkpoints import Progress, TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage
from tuner.worker.messages import Begun, Report, StorageWait


class Study:
    """A study with a clock that the test sets. A killed trial ends at once."""

    def __init__(
        self, folder: Path, journal: Journal, workers: int = 1, time_seconds: float | None = None, **failures: Any
    ):
        spec = study_spec(budget={"trials": 9}, failures=failures, resources={"workers": workers})
        self.storage = Storage(str(folder)) / "s"
        control = StudyControl(time_seconds)
        self.recorder = Recorder(StudyRecord(spec), journal, control, [])
        self.outcomes: list[Outcome] = []
        self.notes: list[str] = []
        self.running: list[int] = []
        source: Any = SimpleNamespace(running=lambda: list(self.running), kill=self.kill)
        self.watchdog = Watchdog(self.recorder, source, control, self.storage, self.notes.append)

    def kill(self, number: int) -> None:
        self.running.remove(number)
        self.outcomes.append(self.recorder.trial_done(number))

    def start(self, number: int) -> None:
        self.running.append(number)
        self.recorder.trial_started(number, {"x": 0.5})

    def report(self, number: int, epoch: int, score: float, *, checkpoint: bool = False) -> None:
        self.recorder.receive(number, Report(epoch, {"epoch": float(epoch), "score": score}))
        if checkpoint:
            progress = Progress(epoch, {"score": score}, score, epoch)
            folder = replay.write_checkpoint(replay.Config(), epoch)
            TrialCheckpoints(trial_folder(self.storage, number)).publish(folder, progress)

    def ended(self, number: int) -> tuple[str, str | None]:
        trial = self.recorder.record.trials[number]
        return trial.state, trial.reason


class Clock:
    """The clock of watchdog, recorder and control."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watchdog, "time", clock)
    monkeypatch.setattr("tuner.driver.recorder.time", clock)
    monkeypatch.setattr("tuner.driver.control.time", clock)
    return clock


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(Storage(str(tmp_path)) / "s") as journal:
        yield journal


def test_a_trial_that_hangs_is_run_again_once_and_then_fails(tmp_path: Path, journal: Journal, clock: Clock) -> None:
    study = Study(tmp_path, journal, no_report_seconds=100, max_retries=0)
    study.start(1)
    clock.now += 90
    study.watchdog.check()
    study.report(1, 1, 0.5)
    clock.now += 90
    study.watchdog.check()
    assert study.outcomes == [], "each report begins the wait anew"
    clock.now += 20
    study.watchdog.check()
    assert study.outcomes == [Outcome(ended=False, slot_is_lost=True)]
    assert "trial 1 reported nothing for 100 s (failures.no_report_seconds)" in study.notes[0]
    # It waits for another slot, which may take long.
    clock.now += 1000
    study.watchdog.check()
    study.start(1)
    clock.now += 110
    study.watchdog.check()
    assert study.outcomes[1:] == [Outcome(ended=True, slot_is_lost=True)]
    assert study.ended(1)[0] == "failed"
    assert "for the second time" in str(study.ended(1)[1])


def test_nothing_is_ended_that_waits_for_the_storage_or_where_no_limit_is_set(
    tmp_path: Path, journal: Journal, clock: Clock
) -> None:
    study = Study(tmp_path, journal, no_report_seconds=100)
    study.start(1)
    study.recorder.receive(1, StorageWait("the disk is full"))
    clock.now += 1000
    study.watchdog.check()
    assert study.outcomes == []
    with Journal(Storage(str(tmp_path)) / "other") as other:
        unlimited = Study(tmp_path / "unlimited", other)
        unlimited.start(1)
        clock.now += 1e6
        unlimited.watchdog.check()
        assert unlimited.outcomes == []


@pytest.mark.parametrize(("stored", "value"), [(2, 0.9), (1, 0.5), (None, None)])
def test_a_silent_trial_counts_as_stopped_when_the_time_is_over_with_what_can_be_exported(
    tmp_path: Path, journal: Journal, clock: Clock, stored: int | None, value: float | None
) -> None:
    study = Study(tmp_path, journal, time_seconds=90)
    study.start(1)
    for epoch, score in ((1, 0.5), (2, 0.9)):
        clock.now += 40
        study.report(1, epoch, score, checkpoint=stored is not None and epoch <= stored)
    clock.now += 11
    study.watchdog.check()
    clock.now += 75
    study.watchdog.check()
    assert study.outcomes == [], "its next report may still come: its epochs take 40 s"
    clock.now += 10
    study.watchdog.check()
    assert study.outcomes == [Outcome(ended=True, slot_is_lost=True)]
    assert study.ended(1) == ("stopped", "the study's time budget of 90 s is used up")
    assert study.recorder.record.trials[1].value == value


def test_a_group_that_starts_is_not_silent(tmp_path: Path, journal: Journal, clock: Clock) -> None:
    study = Study(tmp_path, journal, workers=2, no_report_seconds=100)
    study.start(1)
    clock.now += 1000  # a machine had to come
    study.watchdog.check()
    study.recorder.receive(1, Begun(("a", "b")))
