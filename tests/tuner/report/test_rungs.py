"""What the report says of the epochs at which early stopping compares trials."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests.written_study import Line, end, report, run, start, stop, write_study
from tuner.report.rungs import Rung, rungs
from tuner.report.study_page import study_page


def trial(number: int, curve: list[float], state: str = "finished") -> list[Line]:
    reports = [report(number, epoch, score) for epoch, score in enumerate(curve, start=1)]
    best = max(curve) if curve else None
    return [start(number, learning_rate=0.1), *reports, end(number, state, value=best)]


def found(storage: Path, *trials: list[Line], **changes: Any) -> list[Rung]:
    write_study(storage, "roads", run(), *(line for lines in trials for line in lines), stop(), **changes)
    return rungs(tuner.load("roads", storage).record)


def rising(order: list[int]) -> list[list[Line]]:
    """Trials of four epochs that end in the order of their numbers, and stand in this order at the first three."""
    return [trial(number, [0.0, 0.0, place / 100, 0.5 + number / 100]) for number, place in enumerate(order, start=1)]


@pytest.mark.parametrize(
    ("order", "correlation", "place"), [([1, 2, 3, 4, 5, 6], 1.0, 1), ([6, 5, 4, 3, 2, 1], -1.0, 6)]
)
def test_a_rung_says_how_well_it_ordered_the_ends_and_where_the_winner_was(
    tmp_path: Path, order: list[int], correlation: float, place: int
) -> None:
    [rung] = found(tmp_path, *rising(order))
    assert (rung.epoch, rung.came, rung.finished, rung.kept) == (3, 6, 6, 2)
    assert rung.correlation == pytest.approx(correlation)
    assert rung.winner_place == place
    assert rung.misses_winner == (place > 2)


@pytest.mark.parametrize(
    ("scheduler", "kept"),
    [
        ({"name": "asha"}, 2),
        ({"name": "asha", "reduction_factor": 6}, 1),
        ({"name": "promotion"}, 3),
        ({"name": "median"}, 3),
    ],
)
def test_a_rung_keeps_the_share_that_the_studys_scheduler_keeps(
    tmp_path: Path, scheduler: dict[str, Any], kept: int
) -> None:
    [rung] = found(tmp_path, *rising([1, 2, 3, 4, 5, 6]), scheduler=scheduler)
    assert rung.kept == kept


def test_the_best_so_far_counts_and_not_the_value_at_the_epoch(tmp_path: Path) -> None:
    dipped = trial(1, [0.9, 0.1, 0.1, 0.95])
    [rung] = found(tmp_path, dipped, trial(2, [0.2, 0.3, 0.8, 0.8]))
    assert rung.winner_place == 1


def test_trials_that_were_stopped_came_there_and_have_no_end_and_failed_ones_are_left_out(tmp_path: Path) -> None:
    [rung] = found(
        tmp_path, *rising([1, 2, 3, 4, 5]), trial(6, [0.0, 0.0, 0.3], "stopped"), trial(7, [1.0, 1.0, 1.0], "failed")
    )
    assert (rung.came, rung.finished, rung.winner_place) == (6, 5, 2)
    assert rung.correlation == pytest.approx(1.0)


def test_the_least_value_is_the_best_where_the_study_minimizes(tmp_path: Path) -> None:
    objective = {"metric": "score", "direction": "minimize"}
    [rung] = found(tmp_path, trial(1, [0.9, 0.8, 0.7, 0.2]), trial(2, [0.5, 0.5, 0.5, 0.5]), objective=objective)
    assert rung.winner_place == 2


def test_few_ends_or_equal_ones_have_no_correlation(tmp_path: Path) -> None:
    assert [rung.correlation for rung in found(tmp_path / "few", *rising([1, 2, 3, 4]))] == [None]
    assert [rung.correlation for rung in found(tmp_path / "equal", *rising([1] * 6))] == [None]


def test_a_study_without_a_trial_that_ran_to_its_end_has_no_rungs(tmp_path: Path) -> None:
    assert found(tmp_path, trial(1, [0.1, 0.2, 0.3], "stopped")) == []


@pytest.mark.parametrize(
    ("scheduler", "said"), [("asha", "might have been stopped there, had it come later"), ("none", "by asha")]
)
def test_the_report_warns_where_the_winner_was_behind(tmp_path: Path, scheduler: str, said: str) -> None:
    found(tmp_path, *rising([6, 5, 4, 3, 2, 1]), scheduler={"name": scheduler})
    page = study_page(tuner.load("roads", tmp_path))
    assert "At epoch 3 the winner was number 6 of 6, not among the best 2: it " in page
    assert said in page
    found(tmp_path / "good", *rising([1, 2, 3, 4, 5, 6]))
    assert "not among the best" not in study_page(tuner.load("roads", tmp_path / "good"))


def controlled(order: list[int], spared: dict[int, int]) -> list[list[Line]]:
    """`rising`, of control trials. spared: the epoch at which early stopping would have stopped a trial, by trial."""
    trials = rising(order)
    for number, lines in enumerate(trials, start=1):
        lines[0]["control"] = True
        if number in spared:
            lines.insert(1 + spared[number], {"event": "spared", "trial": number, "epoch": spared[number]})
    return trials


def test_control_trials_have_their_own_correlation_with_its_interval(tmp_path: Path) -> None:
    others = [trial(number, [0.0, 0.0, number / 100, 0.1 + number / 100]) for number in range(11, 16)]
    [rung] = found(tmp_path, *controlled([6, 5, 4, 3, 2, 1], {}), *others)
    assert str(rung.control) == "-1.00 (-1.00 to -0.63)"
    assert rung.correlation is not None
    assert -1 < rung.correlation < 0, "of all that ran to their end"
    [rung] = found(tmp_path / "none", *rising([1, 2, 3, 4, 5, 6]))
    assert rung.control is None


def test_the_report_says_what_early_stopping_would_have_done_to_control_trials(tmp_path: Path) -> None:
    found(tmp_path, *controlled([6, 5, 4, 3, 2, 1], dict.fromkeys(range(2, 7), 3)))
    page = html.unescape(study_page(tuner.load("roads", tmp_path)))
    assert (
        "Early stopping would have stopped 5 of 6 control trials, also the best of them. The best that it would" in page
    )
    assert (
        "Early stopping would have lost the study's best value. The control trials' rank correlation with the end is"
        in page
    )
    assert 'set scheduler.name = "none" for the next study.' in page
    assert "of the control trials (95 %)" in page
    assert "-1.00 (-1.00 to -0.63)" in page
    assert "stop at 3" in page
    assert "Early stopping left the control trials alone: trial 1, trial 2, " in page
    assert "might have been stopped there" not in page, "it is known what would have happened"
    found(tmp_path / "without", *rising([1, 2, 3, 4, 5, 6]))
    page = html.unescape(study_page(tuner.load("roads", tmp_path / "without")))
    assert "of the control trials (95 %)" not in page
    assert "would have stopped" not in page
