"""`python -m tuner report A B`: which of several studies found better, which faster, at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests.tuner.report.test_report import Page
from tests.written_study import end, report, run, start, stop, write_study
from tuner.errors import StudyError
from tuner.report.comparison_page import comparison_page, verdict
from tuner.report.figures.progress import progress


def write(storage: Path, name: str, scores: Sequence[float], **changes: Any) -> tuner.Study:
    """A study of one trial that reports these scores, a second apart, the first after two seconds."""
    lines = [report(1, epoch, score) for epoch, score in enumerate(scores, 1)]
    write_study(storage, name, run(), start(1, x=0.5), *lines, end(1, value=max(scores)), stop(), **changes)
    return tuner.load(name, storage)


def test_the_better_and_the_faster_study_are_named_with_what_each_cost(tmp_path: Path) -> None:
    slow, good = write(tmp_path, "slow", [0.1, 0.2, 0.3]), write(tmp_path, "good", [0.35, 0.4])
    assert verdict([progress(slow), progress(good)]) == [
        "Better: good, score 0.4000 against 0.3000 of slow.",
        "Faster to 0.3000: good after 2.0 seconds and 1 epoch; slow after 4.0 seconds and 3 epochs.",
        "Cost: slow 3 epochs, 4.0 seconds of trial time; good 2 epochs, 3.0 seconds of trial time.",
    ]
    page = Page(comparison_page([slow, good]))
    assert list(page.figures) == ["progress-time", "progress-epochs"]
    assert "time to score 0.3000" in page.text


def test_the_lower_value_is_the_better_where_the_objective_is_minimized(tmp_path: Path) -> None:
    objective = {"metric": "score", "direction": "minimize"}
    one, two = (
        write(tmp_path, name, scores, objective=objective) for name, scores in (("a", [0.5]), ("b", [0.9, 0.3]))
    )
    assert verdict([progress(one), progress(two)])[:2] == [
        "Better: b, score 0.3000 against 0.5000 of a.",
        "Faster to 0.5000: a after 2.0 seconds and 1 epoch; b after 3.0 seconds and 2 epochs.",
    ]


def test_a_study_without_a_winner_is_compared_as_far_as_it_has_come(tmp_path: Path) -> None:
    write_study(tmp_path, "young", run(), start(1, x=0.5))
    page = Page(comparison_page([tuner.load("young", tmp_path), write(tmp_path, "old", [0.5])]))
    assert "young has no trial yet that can win." in page.text


def test_studies_of_different_objectives_are_refused_in_a_sentence(tmp_path: Path) -> None:
    one = write(tmp_path, "a", [0.5])
    two = write(tmp_path, "b", [0.5], objective={"metric": "score", "direction": "minimize"})
    with pytest.raises(StudyError) as error:
        comparison_page([one, two])
    assert str(error.value) == (
        "report: studies of one objective are needed to compare them, got a (maximize score), b (minimize score); "
        "make a report of each instead"
    )
    with pytest.raises(StudyError, match="got one name twice"):
        comparison_page([one, one])
