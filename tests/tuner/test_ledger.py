"""What becomes of a report in the journal, and what the trial is answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.workloads.small_disk import fill, small_disk
from tuner.assignment import Answer
from tuner.journal import Journal, read_events
from tuner.ledger import Ledger
from tuner.record import StudyRecord
from tuner.search import Outcome
from tuner.storage import Storage
from tuner.study import StudySpec


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    spec = StudySpec.model_validate(
        {
            "name": "s",
            "objective": {"metric": "score"},
            "scheduler": {"name": "asha", "grace_epochs": 2, "reduction_factor": 3},
            "budget": {"trials": 9},
            "space": {"x": {"type": "float", "low": 0, "high": 1}},
        }
    )
    with Journal(Storage(str(tmp_path)) / "s") as journal:
        ledger = Ledger(StudyRecord(spec), journal, [])
        ledger.write("start", trial=1, params={"x": 0.5})
        yield ledger


def report(
    epoch: int, score: float = 0.5, *, told_before: bool = False, images: tuple[str, ...] = ()
) -> dict[str, Any]:
    measured = {"metrics": {"epoch": float(epoch), "score": score}, "startup_seconds": 0.1, "gpu_share": None}
    return {"epoch": epoch, "report": measured, "told_before": told_before, "images": list(images)}


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    """The journal without the start, and without what doesn't matter here."""
    events = read_events(Storage(str(tmp_path / "s")))
    return [{k: v for k, v in e.items() if k in ("event", "epoch", "again", "images")} for e in events][1:]


def test_tune_is_asked_on_the_rungs_alone(ledger: Ledger) -> None:
    answers = [ledger.heard(1, report(epoch)) for epoch in range(1, 8)]
    assert [answer.ask_tune for answer in answers] == [False, True, False, False, False, True, False]


def test_tune_is_asked_at_once_when_the_study_is_to_end(ledger: Ledger) -> None:
    ledger.last_call = "time is up"
    assert ledger.heard(1, report(1)) == Answer(ask_tune=True, keep=True)


def test_a_report_that_is_told_again_is_in_the_journal_once(ledger: Ledger, tmp_path: Path) -> None:
    ledger.heard(1, report(1))
    assert ledger.heard(1, report(2)) == ledger.heard(1, report(2, told_before=True))
    assert lines(tmp_path) == [{"event": "report", "epoch": 1}, {"event": "report", "epoch": 2}]


def test_a_report_that_was_told_but_not_heard_is_heard_the_second_time(ledger: Ledger, tmp_path: Path) -> None:
    ledger.heard(1, report(1))
    ledger.heard(1, report(2, told_before=True))
    assert lines(tmp_path) == [{"event": "report", "epoch": 1}, {"event": "report", "epoch": 2}]


def test_a_trial_that_goes_on_from_an_older_checkpoint_goes_back(ledger: Ledger, tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 4):
        ledger.heard(1, report(epoch, score=0.1 * epoch))
    ledger.heard(1, report(2, score=0.2, told_before=True))
    for epoch in (3, 4, 5):
        ledger.heard(1, report(epoch, score=0.05 * epoch))
    assert lines(tmp_path)[4:] == [
        {"event": "back", "epoch": 2},
        {"event": "report", "epoch": 3, "again": True},
        {"event": "report", "epoch": 4, "again": True},
        {"event": "report", "epoch": 5},
    ]
    trial = ledger.record.trials[1]
    assert [epoch for epoch, _ in trial.curve] == [1, 2, 3, 4, 5]
    assert (trial.value, trial.best_epoch) == (0.25, 5), "what the first pass reached is void: its weights are gone"


def test_a_trial_that_had_no_checkpoint_begins_anew(ledger: Ledger, tmp_path: Path) -> None:
    for epoch in (1, 2, 1, 2):
        ledger.heard(1, report(epoch))
    assert lines(tmp_path)[2:] == [
        {"event": "back", "epoch": 0},
        {"event": "report", "epoch": 1, "again": True},
        {"event": "report", "epoch": 2, "again": True},
    ]


def test_pictures_are_in_the_journal_from_whichever_way_they_come(ledger: Ledger, tmp_path: Path) -> None:
    ledger.heard(1, report(1, images=("images/epoch-000001/a.png",)))

    ledger.on_trial_result(0, [], SimpleNamespace(config={"trial": 1}), {"images": ["images/epoch-000002/a.png"]})
    assert [line["images"] for line in lines(tmp_path) if line["event"] == "images"] == [
        ["images/epoch-000001/a.png"],
        ["images/epoch-000002/a.png"],
    ]


class Search:
    """Trials whose end hasn't come yet."""

    def __init__(self, expected: set[str]):
        self.expected = expected
        self.requeued: list[str] = []

    def expects(self, trial_id: str) -> bool:
        return trial_id in self.expected

    def requeue(self, trial_id: str) -> None:
        self.expected.remove(trial_id)
        self.requeued.append(trial_id)


def test_a_trial_that_tune_drops_is_run_again_however_many_came_after_it(ledger: Ledger) -> None:
    trials = [SimpleNamespace(trial_id=str(number), status="PENDING") for number in range(200)]
    search: Any = Search({"0", "199"})
    ledger.serve(search)
    ledger.on_step_end(1, trials[:100])
    ledger.on_step_end(2, trials)
    assert search.requeued == []
    trials[0].status = "ERROR"
    ledger.on_step_end(3, trials)
    ledger.on_step_end(4, trials)
    assert search.requeued == ["0"]


def test_a_trial_that_loses_what_it_runs_on_again_and_again_fails_with_that(ledger: Ledger, tmp_path: Path) -> None:
    for _ in range(3):
        ledger.on_trial_result(0, [], SimpleNamespace(config={"trial": 1}), {"lost": "its holder died"})
        assert ledger.trial_ended(1) == Outcome(ended=False, slot_is_lost=True)
    ledger.on_trial_result(0, [], SimpleNamespace(config={"trial": 1}), {"lost": "its holder died"})
    assert ledger.trial_ended(1) == Outcome(ended=True, slot_is_lost=True)
    assert (ledger.record.trials[1].state, ledger.record.trials[1].reason) == ("failed", "its holder died, 4 times")


def test_what_the_storage_refuses_is_never_counted_against_a_trial(ledger: Ledger) -> None:
    assert not ledger.heard(1, {"refusal": "full"}).ask_tune
    since = ledger.refusals[1].since
    for _ in range(10):
        ledger.on_trial_result(0, [], SimpleNamespace(config={"trial": 1}), {"lost": "still full", "refused": True})
        assert ledger.trial_ended(1) == Outcome(ended=False, slot_is_lost=True)
    assert ledger.refusals[1].since == since
    ledger.heard(1, report(1))
    assert ledger.refusals == {}, "the attempt after it came as far as a report"
    ledger.closed = True
    assert ledger.heard(1, {"refusal": "full"}).ask_tune, "the study stops: nobody waits any more"


def test_a_best_that_only_the_checkpoint_knows_is_told_with_it(ledger: Ledger, tmp_path: Path) -> None:
    """The machine died with the last seconds of a bucket's events; its checkpoints had arrived."""
    for epoch in (1, 2):
        ledger.heard(1, report(epoch, 0.1 * epoch))
    ledger.heard(1, {**report(6, 0.3, told_before=True), "best": (5, 0.9)})
    ledger.heard(1, {**report(6, 0.3, told_before=True), "best": (5, 0.9)})
    assert [(line["event"], line["epoch"]) for line in lines(tmp_path)] == [("report", epoch) for epoch in (1, 2, 5, 6)]
    found = ledger.record.trials[1]
    assert (found.epoch, found.value, found.best_epoch) == (6, 0.9, 5)


def test_an_event_waits_for_the_moment_that_a_checkpoint_fills_the_disk(tmp_path: Path, ledger: Ledger) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk, Journal(Storage(str(disk)) / "s") as journal:
        ledger = Ledger(StudyRecord(ledger.record.spec), journal, [])
        ledger.write("start", trial=1, params={"x": 0.5})
        checkpoint = fill(disk, left=0)
        room = threading.Timer(0.5, checkpoint.unlink)
        room.start()
        told = 200  # more than what is left of the file's last block holds
        for epoch in range(1, told + 1):
            ledger.heard(1, report(epoch))
        room.join()
        events = list(read_events(Storage(str(disk)) / "s"))
    assert [event["epoch"] for event in events if event["event"] == "report"] == list(range(1, told + 1))
