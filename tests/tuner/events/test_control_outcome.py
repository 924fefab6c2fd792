"""What early stopping would have done to control trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.written_study import Line, end, report, run, start, stop, write_study
from tuner.events.control_outcome import control_outcome, control_sentence, would_stop_at
from tuner.events.state import StudyRecord, load_record


def trial(
    number: int, final: float, *spared: tuple[int, bool], control: bool = True, epochs: int = 3, state: str = "finished"
) -> list[Line]:
    """A trial that rises to its final value. spared: epochs at which it would have been stopped, or paused (True)."""
    lines: list[Line] = [{**start(number, x=0.5), "control": control}]
    for epoch in range(1, epochs + 1):
        lines.append(report(number, epoch, final * epoch / epochs))
        lines += [
            {"event": "spared", "trial": number, "epoch": at, "paused": paused} for at, paused in spared if at == epoch
        ]
    return [*lines, end(number, state, value=final)]


def recorded(storage: Path, *trials: list[Line], scheduler: str = "asha") -> StudyRecord:
    lines = [line for found in trials for line in found]
    return load_record(write_study(storage, "s", run(), *lines, stop(), scheduler={"name": scheduler}))


def test_the_best_of_them_may_be_among_those_that_would_have_been_stopped(tmp_path: Path) -> None:
    record = recorded(
        tmp_path,
        trial(1, 0.6, control=False),
        trial(2, 0.5, (1, False)),
        trial(3, 0.8, (2, False)),
        trial(4, 0.3),
        trial(5, 0.7, control=False, epochs=1, state="stopped"),
    )
    found = control_outcome(record)
    assert found is not None
    assert [control.id for control in found.trials] == [3, 2, 4]
    assert found.stopped == {2: 1, 3: 2}
    assert found.best_stopped is not None
    assert found.best_stopped.id == 3
    assert found.left == 0.7, "a stopped trial can win too"
    assert control_sentence(record) == (
        "Early stopping would have stopped 2 of 3 control trials, also the best of them. The best that it would have "
        "stopped, trial 3 at epoch 2, ended at score 0.8; the best that it would have left is 0.7"
    )


def test_none_may_have_been_stopped(tmp_path: Path) -> None:
    record = recorded(tmp_path, trial(1, 0.6), trial(2, 0.5))
    assert control_sentence(record) == "Early stopping would have stopped none of 2 control trials"


def test_what_is_left_is_what_a_trial_had_before_it_would_have_been_stopped(tmp_path: Path) -> None:
    record = recorded(tmp_path, trial(1, 0.9, (2, False)), trial(2, 0.3, control=False))
    found = control_outcome(record)
    assert found is not None
    assert found.left == pytest.approx(0.6)


def test_to_be_stopped_at_the_last_epoch_takes_nothing(tmp_path: Path) -> None:
    record = recorded(tmp_path, trial(1, 0.6, (3, False)))
    assert would_stop_at(record, record.trials[1]) is None


def test_one_that_failed_or_ended_with_the_study_has_no_end_to_compare(tmp_path: Path) -> None:
    record = recorded(tmp_path, trial(1, 0.6, state="failed"), trial(2, 0.5, state="stopped"))
    assert control_outcome(record) is None
    assert control_sentence(record) == "No control trial has run to its end"


def test_a_study_without_control_trials_says_nothing(tmp_path: Path) -> None:
    record = recorded(tmp_path, trial(1, 0.6, control=False))
    assert control_outcome(record) is None
    assert control_sentence(record) is None


@pytest.mark.parametrize(("ahead", "stops_at"), [(1, None), (2, 1)])
def test_a_paused_trial_counts_as_stopped_if_too_many_came_ahead_of_it_to_be_resumed(
    tmp_path: Path, ahead: int, stops_at: int | None
) -> None:
    # A third resumes: of five trials that came to epoch 1 at most one may be ahead of it.
    others = [trial(number, 0.9 if number <= ahead else 0.1, control=False) for number in range(1, 5)]
    record = recorded(tmp_path, trial(9, 0.5, (1, True)), *others, scheduler="promotion")
    assert would_stop_at(record, record.trials[9]) == stops_at


def test_a_trial_that_would_have_resumed_is_stopped_at_a_later_rung(tmp_path: Path) -> None:
    others = [trial(number, 0.1, control=False) for number in range(1, 5)]
    record = recorded(tmp_path, trial(9, 0.5, (1, True), (2, False)), *others, scheduler="promotion")
    assert would_stop_at(record, record.trials[9]) == 2
