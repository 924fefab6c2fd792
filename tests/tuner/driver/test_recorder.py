"""What becomes of a message in the events, and what is decided on it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.studies import study_spec
from tests.workloads.small_disk import fill, small_disk
from tuner.checks.nodes import Placement
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Outcome, Recorder
from tuner.errors import StorageError
from tuner.events.event import EpochReported, Event, RunEnded, to_line
from tuner.events.log import Journal, read_events
from tuner.events.state import StudyRecord
from tuner.storage.storage import Storage
from tuner.worker.messages import Action, Begun, Decision, End, Interruption, Paused, Report, StorageWait


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(Storage(str(tmp_path)) / "s") as journal:
        yield journal


@pytest.fixture
def control() -> StudyControl:
    return StudyControl()


@pytest.fixture
def recorder(journal: Journal, control: StudyControl) -> Recorder:
    spec = study_spec(budget={"trials": 9}, scheduler={"name": "asha", "grace_epochs": 2, "reduction_factor": 3})
    recorder = Recorder(StudyRecord(spec), journal, control, [])
    recorder.trial_started(1, {"x": 0.5})
    return recorder


def report(
    epoch: int,
    score: float = 0.5,
    *,
    resumable: bool = False,
    resumed: bool = False,
    images: tuple[str, ...] = (),
    best: tuple[int, tuple[float, ...]] | None = None,
) -> Report:
    return Report(
        epoch, {"epoch": float(epoch), "score": score}, images, 0.1, resumable=resumable, resumed=resumed, best=best
    )


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    """The journal without the start, and without what doesn't matter here."""
    events = read_events(Storage(str(tmp_path / "s")))
    written = [json.loads(to_line(event)) for event in events]
    return [{k: v for k, v in e.items() if k in ("event", "epoch", "again", "images")} for e in written][1:]


def begin(recorder: Recorder, number: int) -> None:
    recorder.trial_started(number, {"x": 0.5})


def test_a_trial_that_is_worse_on_a_rung_is_stopped_with_the_reason(recorder: Recorder) -> None:
    begin(recorder, 2)
    for epoch in (1, 2, 3):
        assert recorder.receive(1, report(epoch, 0.9)) == Decision(Action.CONTINUE, keep=True)
    assert recorder.receive(2, report(1, 0.1)) == Decision(Action.CONTINUE, keep=True)
    stop = Decision(Action.STOP, "asha stopped it at epoch 2", keep=True)
    assert recorder.receive(2, report(2, 0.1)) == stop
    assert recorder.receive(2, report(2, 0.1, resumed=True)) == stop, "its process died before it knew"


def two_epochs(recorder: Recorder, number: int, scores: tuple[float, float], loss: float = 1.0) -> Decision:
    """The decision at the rung. The seconds differ in every trial."""
    for epoch, score in enumerate(scores, start=1):
        metrics = {"score": score, "train/loss": loss / epoch, "time/epoch": number / 7}
        decision = recorder.receive(number, Report(epoch, metrics, (), 0.1))
    return decision


def test_a_trial_that_repeats_another_metric_by_metric_is_stopped_at_the_first_rung(recorder: Recorder) -> None:
    two_epochs(recorder, 1, (0.4, 0.5))
    begin(recorder, 2)
    repeats = two_epochs(recorder, 2, (0.4, 0.5))
    assert repeats == Decision(Action.STOP, "its metrics have been those of trial 1 in each epoch so far", keep=True)
    begin(recorder, 3)
    assert two_epochs(recorder, 3, (0.4, 0.5), loss=1.1).action is Action.CONTINUE, "another metric differs"
    begin(recorder, 4)
    assert two_epochs(recorder, 4, (0.3, 0.5)).action is Action.CONTINUE, "the first epoch differs"


def test_a_trial_that_started_again_repeats_itself_and_no_other(recorder: Recorder) -> None:
    begin(recorder, 2)
    two_epochs(recorder, 1, (0.4, 0.5))
    two_epochs(recorder, 2, (0.4, 0.3))
    assert two_epochs(recorder, 1, (0.4, 0.5)).action is Action.CONTINUE
    assert two_epochs(recorder, 2, (0.4, 0.5)).reason == "its metrics have been those of trial 1 in each epoch so far"


@pytest.mark.parametrize(
    ("scores", "change"),
    [
        ((0.5, 0.5), {}),
        ((0.4, 0.5), {"scheduler": {"name": "none"}}),
        ((0.4, 0.5), {"scheduler": {"grace_epochs": 2, "control_trials": 9}}),
    ],
    ids=["an objective that doesn't change", "no early stopping", "control trials"],
)
def test_repeats_train_on_where_they_may_tell_something(
    journal: Journal, control: StudyControl, scores: tuple[float, float], change: dict[str, Any]
) -> None:
    spec = study_spec(**{"budget": {"trials": 9}, "scheduler": {"grace_epochs": 2}, **change})
    recorder = Recorder(StudyRecord(spec), journal, control, [])
    for number in (1, 2):
        begin(recorder, number)
        assert two_epochs(recorder, number, scores).action is Action.CONTINUE


def test_a_repeat_of_a_trial_that_failed_trains_on(recorder: Recorder) -> None:
    two_epochs(recorder, 1, (0.4, 0.5))
    recorder.receive(1, End("failed", "ValueError: no more frames"))
    begin(recorder, 2)
    assert two_epochs(recorder, 2, (0.4, 0.5)).action is Action.CONTINUE


@pytest.fixture
def promoting(journal: Journal, control: StudyControl) -> Recorder:
    """Trials 1 and 2 have passed the rung at epoch 2, and the third has been told to pause there."""
    spec = study_spec(budget={"trials": 9}, scheduler={"name": "promotion", "grace_epochs": 2})
    recorder = Recorder(StudyRecord(spec), journal, control, [])
    for number, value in ((1, 0.5), (2, 0.9), (3, 0.8)):
        recorder.trial_started(number, {"x": 0.5})
        recorder.receive(number, Begun(("n",)))
        recorder.receive(number, report(1, value / 2, resumable=True))
        expected = Action.PAUSE if number == 3 else Action.CONTINUE
        assert recorder.receive(number, report(2, value, resumable=True)) == Decision(expected, keep=True)
    return recorder


def state_of(recorder: Recorder, number: int) -> str:
    return recorder.record.trials[number].state


def test_a_paused_trial_continues_when_its_slot_is_given_back_to_it(promoting: Recorder) -> None:
    promoting.receive(3, Paused())
    assert state_of(promoting, 3) == "paused"
    assert promoting.trial_done(3) == Outcome(ended=False, paused=True)
    promoting.trial_started(3, {"x": 0.5})
    assert state_of(promoting, 3) == "running"
    resumed = report(2, 0.8, resumable=True, resumed=True)
    assert promoting.receive(3, resumed) == Decision(Action.CONTINUE, keep=True)


def test_a_trial_whose_process_dies_before_it_has_paused_pauses_when_it_is_back(promoting: Recorder) -> None:
    promoting.trial_started(3, {"x": 0.5})
    resumed = report(2, 0.8, resumable=True, resumed=True)
    assert promoting.receive(3, resumed) == Decision(Action.PAUSE, keep=True)


@pytest.mark.parametrize("paused", [True, False])
def test_a_run_that_follows_a_kill_knows_who_is_paused(promoting: Recorder, journal: Journal, paused: bool) -> None:
    if paused:
        promoting.receive(3, Paused())
    promoting.record.apply(RunEnded(0.0, "interrupted", None))
    assert promoting.record.trials[3].state == ("paused" if paused else "interrupted")
    rebuilt = Recorder(promoting.record, journal, StudyControl(), [])
    rebuilt.trial_started(3, {"x": 0.5})
    resumed = report(2, 0.8, resumable=True, resumed=True)
    assert rebuilt.receive(3, resumed) == Decision(Action.CONTINUE, keep=True)


def test_a_trial_that_has_come_as_far_as_a_finished_one_is_not_paused_at_its_end(promoting: Recorder) -> None:
    promoting.receive(1, End("finished"))
    promoting.trial_started(4, {"x": 0.5})
    promoting.receive(4, report(1, 0.3, resumable=True))
    assert promoting.receive(4, report(2, 0.85, resumable=True)) == Decision(Action.CONTINUE, keep=True)


def test_a_trial_that_hands_over_no_checkpoint_is_never_paused(promoting: Recorder) -> None:
    promoting.trial_started(4, {"x": 0.5})
    promoting.receive(4, report(1, 0.2))
    assert promoting.receive(4, report(2, 0.85)) == Decision(Action.CONTINUE, keep=True)


def test_a_paused_trial_ends_as_stopped_with_the_reason(promoting: Recorder, control: StudyControl) -> None:
    promoting.receive(3, Paused())
    promoting.end_paused(3)
    assert promoting.record.trials[3].state == "stopped"
    assert promoting.record.trials[3].reason == "others promised more when it was paused at epoch 2"


def test_every_trial_ends_at_its_next_report_when_the_target_is_reached_and_after_a_kill_too(
    recorder: Recorder, journal: Journal
) -> None:
    recorder.record.spec = study_spec(budget={"trials": 9, "stop_when": {"value": 0.9}})
    begin(recorder, 2)
    assert recorder.receive(1, report(1, 0.89)).action is Action.CONTINUE
    stop = Decision(Action.STOP, "score has reached 0.95 (budget.stop_when.value = 0.9)", keep=True)
    assert recorder.receive(1, report(2, 0.95)) == stop
    assert recorder.receive(2, report(1, 0.1)) == stop
    again = Recorder(recorder.record, journal, StudyControl(), [])
    assert again.receive(2, report(1, 0.1, resumed=True)) == stop


def test_trials_end_at_their_next_report_when_the_time_is_over(recorder: Recorder, journal: Journal) -> None:
    recorder.receive(1, report(1))
    recorder = Recorder(recorder.record, journal, StudyControl(time_seconds=0.0), [])
    decision = recorder.receive(1, report(2))
    assert decision == Decision(Action.STOP, "the study's time budget of 0 s is used up", keep=True)
    recorder.receive(1, End("stopped", decision.reason))
    assert recorder.record.trials[1].state == "stopped"
    assert recorder.trial_done(1) == Outcome()


def test_in_a_study_that_stops_no_trial_has_ended(recorder: Recorder, control: StudyControl, tmp_path: Path) -> None:
    control.stop("interrupted", "SIGINT")
    assert recorder.receive(1, report(1)).action is Action.STOP
    recorder.receive(1, End("stopped", "SIGINT"))
    assert recorder.trial_done(1) == Outcome()
    assert recorder.record.trials[1].state == "running"
    assert [line["event"] for line in lines(tmp_path)] == ["report"]


def test_decisions_after_a_restart_are_those_of_the_unbroken_study(recorder: Recorder, tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(2, 30):
        begin(recorder, number)
    running = dict.fromkeys(range(1, 30), 0)

    def step() -> tuple[int, Report]:
        number = draw.choice(list(running))
        running[number] += 1
        return number, report(running[number], draw.random())

    for _ in range(200):
        number, message = step()
        if recorder.receive(number, message).action is Action.STOP:
            del running[number]
    with Journal(Storage(str(tmp_path)) / "other") as journal:
        restarted = Recorder(copy.deepcopy(recorder.record), journal, StudyControl(), [])
        decisions = []
        for _ in range(200):
            number, message = step()
            decisions.append(recorder.receive(number, message))
            assert restarted.receive(number, message) == decisions[-1]
            if decisions[-1].action is Action.STOP:
                del running[number]
    assert {decision.action for decision in decisions} == {Action.CONTINUE, Action.STOP}


def test_a_trial_that_was_ahead_when_it_came_to_a_rung_goes_on_after_a_kill(
    recorder: Recorder, journal: Journal
) -> None:
    for number in (2, 3):
        begin(recorder, number)
    for number, score in ((3, 0.4), (1, 0.8), (2, 0.9)):
        recorder.receive(number, report(1, score))
        assert recorder.receive(number, report(2, score)).action is Action.CONTINUE
    restarted = Recorder(copy.deepcopy(recorder.record), journal, StudyControl(), [])
    assert restarted.receive(3, report(2, 0.4, resumed=True)).action is Action.CONTINUE
    restarted.receive(1, report(1, 0.3))
    restarted.receive(1, report(2, 0.3))
    again = Recorder(copy.deepcopy(restarted.record), journal, StudyControl(), [])
    assert again.receive(1, report(2, 0.3, resumed=True)).action is Action.STOP, "what it trained anew was worse"


def test_a_report_that_is_sent_again_is_in_the_log_once(recorder: Recorder, tmp_path: Path) -> None:
    recorder.receive(1, report(1))
    assert recorder.receive(1, report(2)) == recorder.receive(1, report(2, resumed=True))
    assert lines(tmp_path) == [{"event": "report", "epoch": 1}, {"event": "report", "epoch": 2}]


def test_a_report_that_was_lost_is_recorded_when_it_is_sent_again(recorder: Recorder, tmp_path: Path) -> None:
    recorder.receive(1, report(1))
    recorder.receive(1, report(2, resumed=True))
    assert lines(tmp_path) == [{"event": "report", "epoch": 1}, {"event": "report", "epoch": 2}]


def test_a_trial_that_resumes_from_an_older_checkpoint_is_rewound(recorder: Recorder, tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 4):
        recorder.receive(1, report(epoch, score=0.1 * epoch))
    recorder.receive(1, report(2, score=0.2, resumed=True))
    for epoch in (3, 4, 5):
        recorder.receive(1, report(epoch, score=0.05 * epoch))
    assert lines(tmp_path)[4:] == [
        {"event": "back", "epoch": 2},
        {"event": "report", "epoch": 3, "again": True},
        {"event": "report", "epoch": 4, "again": True},
        {"event": "report", "epoch": 5},
    ]
    trial = recorder.record.trials[1]
    assert [epoch for epoch, _ in trial.curve] == [1, 2, 3, 4, 5]
    assert (trial.value, trial.best_epoch) == (0.25, 5), "what the first pass reached is void: its weights are gone"


def test_a_trial_without_a_checkpoint_restarts(recorder: Recorder, tmp_path: Path) -> None:
    for epoch in (1, 2, 1, 2):
        recorder.receive(1, report(epoch))
    assert lines(tmp_path)[2:] == [
        {"event": "back", "epoch": 0},
        {"event": "report", "epoch": 1, "again": True},
        {"event": "report", "epoch": 2, "again": True},
    ]


def test_images_are_in_the_events_whichever_message_brings_them(recorder: Recorder, tmp_path: Path) -> None:
    recorder.receive(1, report(1, images=("images/epoch-000001/a.png",)))
    recorder.receive(1, End("finished", images=("images/epoch-000002/a.png",)))
    assert [line["images"] for line in lines(tmp_path) if line["event"] == "images"] == [
        ["images/epoch-000001/a.png"],
        ["images/epoch-000002/a.png"],
    ]
    assert [line["event"] for line in lines(tmp_path)] == ["report", "images", "images", "end"]


def test_a_trial_that_keeps_losing_its_slot_fails_with_that_reason(recorder: Recorder) -> None:
    for attempt in range(1, 5):
        recorder.receive(1, Interruption("its holder died"))
        assert recorder.trial_done(1) == Outcome(ended=attempt == 4, slot_is_lost=True)
    assert (recorder.record.trials[1].state, recorder.record.trials[1].reason) == ("failed", "its holder died, 4 times")


def test_a_trial_whose_process_died_too_often_fails_with_the_cause(recorder: Recorder) -> None:
    recorder.receive(1, Begun(("node",)))
    assert recorder.trial_done(1, "its process died 4 times (SIGSEGV)") == Outcome()
    assert recorder.record.trials[1].reason == "its process died 4 times (SIGSEGV)"


def test_a_trial_that_the_watchdog_kills_ends_as_it_decided_or_is_run_again(recorder: Recorder) -> None:
    recorder.will_be_killed(1, None)
    assert recorder.trial_done(1) == Outcome(ended=False, slot_is_lost=True)
    recorder.will_be_killed(1, End("failed", "it hangs"))
    assert recorder.trial_done(1) == Outcome(ended=True, slot_is_lost=True)
    assert (recorder.record.trials[1].state, recorder.record.trials[1].reason) == ("failed", "it hangs")


def test_what_the_storage_refuses_is_never_counted_against_a_trial(recorder: Recorder, control: StudyControl) -> None:
    assert recorder.receive(1, StorageWait("full")).action is Action.CONTINUE
    since = recorder.storage_problems[1].since
    for _ in range(10):
        recorder.receive(1, Interruption("still full", storage=True))
        assert recorder.trial_done(1) == Outcome(ended=False, slot_is_lost=True)
    assert recorder.storage_problems[1].since == since
    recorder.receive(1, report(1))
    assert recorder.storage_problems == {}, "the next attempt has reported"
    control.stop("interrupted", "SIGINT")
    assert recorder.receive(1, StorageWait("full")).action is Action.STOP, "nobody waits any more"


def test_a_best_epoch_that_only_the_checkpoint_has_is_recorded_from_it(recorder: Recorder, tmp_path: Path) -> None:
    """The machine died with the last seconds of a bucket's events; its checkpoints had arrived."""
    for epoch in (1, 2):
        recorder.receive(1, report(epoch, 0.1 * epoch))
    for _ in range(2):
        recorder.receive(1, report(6, 0.3, resumed=True, best=(5, (0.9,))))
    assert [(line["event"], line["epoch"]) for line in lines(tmp_path)] == [("report", epoch) for epoch in (1, 2, 5, 6)]
    found = recorder.record.trials[1]
    assert (found.epoch, found.value, found.best_epoch) == (6, 0.9, 5)


def test_an_event_waits_for_the_moment_that_a_checkpoint_fills_the_disk(tmp_path: Path, recorder: Recorder) -> None:
    refused = 0

    class Watched(Journal):
        """Makes room when the disk has refused an event for the second time."""

        def append(self, event: Event) -> None:
            nonlocal refused
            try:
                super().append(event)
            except StorageError:
                refused += 1
                if refused == 2:
                    checkpoint.unlink()
                raise

    with small_disk(tmp_path / "disk", megabytes=1) as disk, Watched(Storage(str(disk)) / "s") as journal:
        recorder = Recorder(StudyRecord(recorder.record.spec), journal, StudyControl(), [])
        begin(recorder, 1)
        checkpoint = fill(disk, left=0)
        sent = 200  # more than what is left of the file's last block holds
        for epoch in range(1, sent + 1):
            recorder.receive(1, report(epoch))
        events = list(read_events(Storage(str(disk)) / "s"))
    assert [event.epoch for event in events if isinstance(event, EpochReported)] == list(range(1, sent + 1))
    assert refused == 2


def set_placement(recorder: Recorder, action: Action) -> None:
    """Set the answer to the recorder's question whether an attempt may begin on its nodes."""
    recorder._placement = lambda nodes: Placement(action, tuple(f"host {node}" for node in nodes))


def test_an_attempt_begins_on_a_node_that_is_checked_and_its_node_is_recorded(
    recorder: Recorder, tmp_path: Path
) -> None:
    set_placement(recorder, Action.WAIT)
    assert recorder.receive(1, Begun(("7",))).action is Action.WAIT
    assert not recorder.has_begun(1)
    set_placement(recorder, Action.CONTINUE)
    assert recorder.receive(1, Begun(("7", "8"))).action is Action.CONTINUE
    assert recorder.has_begun(1)
    assert recorder.record.trials[1].nodes == ("host 7", "host 8")
    assert [line["event"] for line in lines(tmp_path)] == ["begin"]


def test_a_trial_on_a_node_that_is_left_out_is_run_again_without_using_up_a_retry(recorder: Recorder) -> None:
    for _ in range(5):
        set_placement(recorder, Action.STOP)
        assert recorder.receive(1, Begun(("7",))).action is Action.STOP
        assert recorder.trial_done(1) == Outcome(ended=False, slot_is_lost=True)
        begin(recorder, 1)
    set_placement(recorder, Action.CONTINUE)
    recorder.receive(1, Begun(("8",)))
    for _ in range(recorder.record.spec.failures.max_retries):
        recorder.receive(1, Interruption("its node died"))
        assert not recorder.trial_done(1).ended
        begin(recorder, 1)
        recorder.receive(1, Begun(("8",)))
    recorder.receive(1, Interruption("its node died"))
    assert recorder.trial_done(1).ended


def test_a_study_whose_processes_do_not_start_is_interrupted_and_no_trial_has_failed(recorder: Recorder) -> None:
    for _ in range(5):
        outcome = recorder.trial_done(1, "its node has no tuner", suspect_node=True)
        assert not outcome.ended, "the node may be one that is being checked"
        begin(recorder, 1)
    recorder.receive(1, Interruption("the group died: rank 1 is not reached", at_start=True))
    outcome = recorder.trial_done(1)
    assert (outcome.ended, outcome.slot_is_lost) == (False, True)
    assert (
        outcome.note == "trial 1 did not start; it is run again on another slot: the group died: rank 1 is not reached"
    )
    begin(recorder, 1)
    recorder.receive(1, Begun(("7",)))  # one that starts shows that they can
    begin(recorder, 1)
    for _ in range(3):
        assert not recorder._control.stopping
        assert not recorder.trial_done(1, "rank 1 is not reached").ended
    assert recorder._control.outcome == "interrupted"
    assert "trials failed to start 3 times in a row: rank 1 is not reached" in str(recorder._control.reason)
    assert recorder.record.ended == []


def test_a_trial_that_never_had_a_process_is_not_dropped(recorder: Recorder) -> None:
    assert not recorder.trial_done(2, "its process didn't start").ended


def test_a_trial_on_a_drained_node_moves_as_often_as_that_happens_and_loses_no_retry(recorder: Recorder) -> None:
    recorder._are_draining = lambda nodes: "going" in nodes
    for epoch in range(1, 11):
        recorder.receive(1, Begun(("stays", "going")))
        assert recorder.receive(1, report(epoch, resumable=True)).action is Action.PAUSE
        recorder.receive(1, Paused(("images/epoch-000001/a.png",)))
        assert recorder.trial_done(1) == Outcome(ended=False, slot_is_lost=True)
        begin(recorder, 1)
    recorder.receive(1, Begun(("stays", "stays too")))
    assert recorder.receive(1, report(11, resumable=True)).action is Action.CONTINUE
    recorder.receive(1, End("finished"))
    assert recorder.trial_done(1) == Outcome()
    assert recorder.record.trials[1].state == "finished"


def test_a_trial_without_a_checkpoint_of_its_epoch_trains_on_while_its_node_is_there(recorder: Recorder) -> None:
    recorder._are_draining = lambda nodes: True
    recorder.receive(1, Begun(("going",)))
    assert recorder.receive(1, report(1)).action is Action.CONTINUE


def test_a_trial_whose_drained_node_went_before_its_next_report_is_run_again_however_few_retries_there_are(
    recorder: Recorder,
) -> None:
    recorder._are_draining = lambda nodes: "going" in nodes
    recorder.receive(1, Begun(("going",)))
    assert recorder.trial_done(1, "its process died once (its node died)") == Outcome(ended=False, slot_is_lost=True)


def test_a_trial_that_is_stopped_anyhow_does_not_move(recorder: Recorder, control: StudyControl) -> None:
    recorder._are_draining = lambda nodes: True
    recorder.receive(1, Begun(("going",)))
    control.stop("interrupted", "SIGINT")
    assert recorder.receive(1, report(1, resumable=True)).action is Action.STOP


def test_a_failed_trial_is_infeasible_if_its_training_failed_and_not_if_its_process_did(recorder: Recorder) -> None:
    begin(recorder, 2)
    recorder.receive(1, End("failed", "epoch 1: loss is nan"))
    recorder.receive(2, Begun(("n",)))
    recorder.trial_done(2, "its process died 4 times (SIGSEGV)")
    trials = recorder.record.trials
    assert [(trials[number].state, trials[number].infeasible) for number in (1, 2)] == [
        ("failed", True),
        ("failed", False),
    ]
