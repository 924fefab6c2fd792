"""How much of the objective each hyperparameter decides, on studies of which that is known."""

from __future__ import annotations

import random
from pathlib import Path

from tests.written_study import Line, end, report, run, start, write_study
from tuner.events.state import StudyRecord, load_record
from tuner.search.importance import importances


def study_of(folder: Path, trials: int) -> StudyRecord:
    """The score is x alone, whatever the batch size."""
    draw, lines = random.Random(3), [run()]
    for trial in range(1, trials + 1):
        x = draw.uniform(0.1, 1.0)
        lines += [
            start(trial, x=x, batch_size=draw.randint(1, 64), optimizer="adam"),
            report(trial, 1, x),
            end(trial, value=x),
        ]
    return load_record(write_study(folder, f"roads-{trials}", *lines))


def test_what_decides_the_score_is_the_most_important_and_surer_the_more_trials_there_are(tmp_path: Path) -> None:
    few, many = (importances(study_of(tmp_path, trials)) for trials in (15, 150))
    best = many[0]
    assert best.name == "x"
    assert best.share > 0.7
    assert all(0 <= one.low <= one.high <= 1 for one in many)
    assert sum(one.share for one in many) > 0.999
    unsure = next(one for one in few if one.name == "x")
    assert unsure.high - unsure.low > best.high - best.low
    assert importances(study_of(tmp_path, 150)) == many, "a report that is made again says the same"


def test_no_importance_is_told_of_three_trials_or_of_trials_that_scored_alike(tmp_path: Path) -> None:
    assert importances(study_of(tmp_path, 3)) == []
    alike: list[Line] = [run()]
    for trial in range(1, 9):
        alike += [start(trial, x=trial / 10, batch_size=trial), report(trial, 1, 0.5), end(trial, value=0.5)]
    assert importances(load_record(write_study(tmp_path, "alike", *alike))) == []
