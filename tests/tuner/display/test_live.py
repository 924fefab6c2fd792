"""What a running study says of its control trials, and of the nodes that it loses."""

from __future__ import annotations

import io
import re
import time

from rich.console import Console

from tests.studies import study_spec
from tests.written_event import event
from tuner.display.live import Progress
from tuner.events.event import Event
from tuner.events.state import StudyRecord

GOING, OTHER = "host1 (10.0.0.1)", "host2 (10.0.0.2)"
BEGUN = [
    event("start", trial=1, params={"x": 0.5}),
    event("start", trial=2, params={"x": 0.6}),
    event("start", trial=3, params={"x": 0.7}),
    event("begin", trial=1, nodes=[GOING]),
    event("begin", trial=2, nodes=[OTHER]),
    event("begin", trial=3, nodes=[OTHER, GOING]),
]


def said(*events: Event, terminal: bool = False) -> str:
    """What is on the screen after these events; in a terminal, the table of that moment."""
    record = StudyRecord(study_spec())
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal, color_system=None)
    progress = Progress(record, console, lambda: None, lambda: None)
    for each in events:
        record.apply(each)
        progress.event(each)
    if terminal:
        console.print(progress._table())
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # a StringIO


def test_a_node_that_is_drained_is_named_with_the_trials_that_move() -> None:
    until = time.time() + 150
    text = said(*BEGUN, event("draining", node=GOING, until=until))
    assert re.search(rf"node {re.escape(GOING)} will be gone in 1[345]\d s: trial 1, trial 3 move at their next", text)
    alone = said(
        *BEGUN,
        event("end", trial=3, value=None, best_epoch=None, state="stopped", reason=None),
        event("draining", node=GOING),
    )
    assert f"node {GOING} will be gone: trial 1 moves at its next report, with a checkpoint" in alone


def test_the_table_says_so_until_the_trials_have_moved_and_the_node_has_gone() -> None:
    drained = [*BEGUN, event("draining", node=GOING), event("left_out", node=OTHER, reason="no data")]
    assert f"node {GOING} will be gone: trial 1, trial 3 move" in said(*drained, terminal=True)
    moved = [event("begin", trial=number, nodes=[OTHER]) for number in (1, 3)]
    assert f"node {GOING} will be gone: no trial runs there" in said(*drained, *moved, terminal=True)
    gone = said(*drained, *moved, event("lost", node=GOING), terminal=True)
    assert "will be gone" not in gone
    assert f"node {GOING} has gone; no trial runs there now" in gone


def test_a_node_that_is_lost_is_named_with_the_trials_that_start_again() -> None:
    text = said(*BEGUN, event("lost", node=GOING))
    assert f"node {GOING} was lost, where trial 1, trial 3 ran: started again elsewhere, from the newest" in text


def test_a_control_trial_is_named_with_what_early_stopping_would_have_done() -> None:
    begun = [
        event("start", trial=1, params={"x": 0.5}),
        event("start", trial=2, params={"x": 0.5}, control=True),
        event("report", trial=2, epoch=3, metrics={"score": 0.1}),
    ]
    spared = event("spared", trial=2, epoch=3)
    lines = said(*begun, spared)
    assert "trial 1   starts  x 0.5" in lines
    assert "trial 2   starts as a control trial,  x 0.5" in lines
    assert "trial 2   early stopping would have stopped it at epoch 3: a control trial, it trains on" in lines
    assert "kept" in said(*begun, terminal=True)
    assert "stop at 3" in said(*begun, spared, terminal=True)
    assert "control" not in said(*BEGUN, terminal=True)


def test_a_paused_trial_continues_and_one_whose_process_died_starts_again() -> None:
    begun = [
        event("start", trial=1, params={"x": 0.5}),
        event("report", trial=1, epoch=3, metrics={"score": 0.1}),
    ]
    again = event("start", trial=1, params={"x": 0.5})
    assert "trial 1   continues after epoch 3  x 0.5" in said(*begun, event("pause", trial=1), again)
    assert "trial 1   starts again after epoch 3,  x 0.5" in said(*begun, again)
    twice = said(*begun, event("pause", trial=1), again, again)
    assert twice.index("continues after epoch 3") < twice.index("starts again after epoch 3")


def test_a_trial_that_was_paused_before_the_study_was_resumed_continues() -> None:
    record, console = StudyRecord(study_spec()), Console(file=io.StringIO(), width=160)
    for each in (*BEGUN, event("report", trial=2, epoch=3, metrics={"score": 0.1}), event("pause", trial=2)):
        record.apply(each)
    progress = Progress(record, console, lambda: None, lambda: None)
    again = event("start", trial=2, params={"x": 0.6})
    record.apply(again)
    progress.event(again)
    assert "trial 2   continues after epoch 3  x 0.6" in console.file.getvalue()  # type: ignore[attr-defined]


def test_without_a_terminal_an_outage_of_mlflow_is_said_once_and_once_more_when_it_comes_back() -> None:
    record, errors = StudyRecord(study_spec()), ["401: not authenticated", "401", None, "refused", "refused"]
    console = Console(file=io.StringIO(), width=160)
    progress = Progress(record, console, lambda: errors[0], lambda: None)
    began = [event("start", trial=trial, params={"x": 0.5}) for trial in range(1, len(errors) + 1)]
    for each in began:
        record.apply(each)
        progress.event(each)
        errors.pop(0)
    text = str(console.file.getvalue())  # type: ignore[attr-defined]  # a StringIO
    outages = [line.partition("  ")[2] for line in text.splitlines() if "MLflow" in line]
    assert outages == [
        "MLflow takes nothing at present; events are kept and sent later: 401: not authenticated",
        "MLflow takes nothing at present; events are kept and sent later: refused",
    ]
