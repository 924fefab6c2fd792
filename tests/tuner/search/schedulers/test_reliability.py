"""Whether early stopping can be believed, said of curves whose truth is known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tests.replayed_curves import EPOCHS, steady, train
from tests.studies import study_spec
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.events.log import Journal
from tuner.events.state import StudyRecord
from tuner.search.schedulers.control_trials import control_trials
from tuner.search.schedulers.reliability import control_correlations, rank_correlation, reliability, warning
from tuner.storage.storage import Storage

SCHEDULERS = ("asha", "promotion", "hyperband", "median")
EPOCH_RANGE = range(1, EPOCHS + 1)
LATE = 7
"""The epoch at which curves of `unrelated` and `reversed_` begin to tell their ends."""


def unrelated(number: int) -> list[float]:
    """A curve whose first epochs say nothing of its end."""
    early, final = random.Random(f"early {number}").random(), random.Random(number).random()
    return [0.3 * early * epoch / EPOCHS if epoch < LATE else 0.3 + final * epoch / EPOCHS for epoch in EPOCH_RANGE]


def reversed_(number: int) -> list[float]:
    """A curve that is the further behind in its first epochs the further ahead it is at its end."""
    final = random.Random(number).random()
    return [
        0.3 * (1 - final) * epoch / EPOCHS if epoch < LATE else 0.3 + final * epoch / EPOCHS for epoch in EPOCH_RANGE
    ]


def recorded(
    folder: Path, scheduler: str, curve: Callable[[int], list[float]], seed: int = 0, control: int = 6, trials: int = 30
) -> StudyRecord:
    table = {"name": scheduler, "grace_epochs": 2, "control_trials": control}
    spec = study_spec(budget={"trials": trials}, search={"seed": seed}, scheduler=table)
    with Journal(Storage(str(folder)) / f"{seed}") as journal:
        recorder = Recorder(StudyRecord(spec), journal, StudyControl(), [])
        train(recorder, range(1, trials + 1), lambda number: curve(1000 * seed + number))
    return recorder.record


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_space_whose_first_epochs_tell_the_end_gets_no_warning(tmp_path: Path, scheduler: str) -> None:
    for seed in range(10):
        record = recorded(tmp_path, scheduler, steady, seed)
        assert warning(record) is None
        assert all(found.value == pytest.approx(1.0) for found in control_correlations(record).values())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_space_whose_first_epochs_say_nothing_of_the_end_gets_one_in_most_studies(
    tmp_path: Path, scheduler: str
) -> None:
    warned = [warning(recorded(tmp_path, scheduler, unrelated, seed)) for seed in range(20)]
    assert sum(said is not None for said in warned) >= 12, warned


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_space_whose_first_epochs_tell_the_opposite_gets_one_in_nearly_all(tmp_path: Path, scheduler: str) -> None:
    warned = [warning(recorded(tmp_path, scheduler, reversed_, seed)) for seed in range(20)]
    assert sum(said is not None for said in warned) >= 18, warned


def test_the_warning_names_the_epoch_from_which_on_the_ranks_tell_the_end(tmp_path: Path) -> None:
    record = recorded(tmp_path, "asha", reversed_)
    assert warning(record) == (
        "Early stopping would have lost the study's best value. The control trials' rank correlation with the end is "
        "-1.00 (-1.00 to -0.63) at epoch 2, and 1.00 (0.63 to 1.00) at 7: set scheduler.grace_epochs = 7 for the next "
        "study"
    )
    first, correlations, last = reliability(record)
    assert first.startswith("Early stopping would have stopped ")
    assert "also the best of them" in first
    assert correlations == (
        "The control trials' rank correlation with the end: -1.00 (-1.00 to -0.63) at epoch 2, -1.00 (-1.00 to "
        "-0.63) at epoch 6"
    )
    assert last == f"warning: {warning(record)}"


def test_a_winner_that_would_have_been_lost_is_told_without_a_correlation_too(tmp_path: Path) -> None:
    seed = next(
        s
        for s in itertools.count()
        if control_trials(study_spec(budget={"trials": 4}, search={"seed": s}, scheduler={"control_trials": 1})) == {4}
    )
    late = [0.0] * (LATE - 1) + [1.0] * (EPOCHS + 1 - LATE)
    record = recorded(
        tmp_path, "asha", lambda n: late if n == 1000 * seed + 4 else [0.5] * EPOCHS, seed, control=1, trials=4
    )
    assert reliability(record) == [
        "Early stopping would have stopped 1 of 1 control trials. The best that it would have stopped, trial 4 at "
        "epoch 2, ended at score 1; the best that it would have left is 0.5",
        "warning: Early stopping would have lost the study's best value. Set scheduler.grace_epochs above 2 for the "
        "next study; 4 control trials that run to their end say how far",
    ]


def test_where_no_epoch_tells_the_end_no_early_stopping_is_advised(tmp_path: Path) -> None:
    def to_the_last(number: int) -> list[float]:
        final = random.Random(number).random()
        return [*(0.3 * (1 - final) for _ in range(EPOCHS - 1)), 0.3 + final]

    said = warning(recorded(tmp_path, "asha", to_the_last))
    assert said is not None
    assert said.endswith('not good enough up to the end: set scheduler.name = "none" for the next study')


def test_a_study_without_control_trials_says_nothing(tmp_path: Path) -> None:
    record = recorded(tmp_path, "asha", unrelated, control=0)
    assert reliability(record) == []
    assert warning(record) is None


def test_fewer_than_four_control_trials_have_no_correlation(tmp_path: Path) -> None:
    assert control_correlations(recorded(tmp_path, "asha", steady, control=3)) == {}
    assert set(control_correlations(recorded(tmp_path / "four", "asha", steady, control=4))) == {2, 6}


@pytest.mark.parametrize("count", [4, 5, 9, 20])
def test_the_correlation_is_scipys_with_ties_too(count: int) -> None:
    draw = random.Random(count)
    for _ in range(20):
        first, last = ([draw.randrange(6) / 8 for _ in range(count)] for _ in range(2))
        found = rank_correlation(first, last)
        if len(set(first)) == 1 or len(set(last)) == 1:
            assert found is None
            continue
        assert found is not None
        assert found.value == pytest.approx(scipy.stats.spearmanr(first, last).statistic)
        assert found.low <= found.value + 1e-12
        assert found.high >= found.value - 1e-12


@pytest.mark.parametrize("count", [4, 6, 10])
@pytest.mark.parametrize("pearson", [0.0, 0.5, 0.9])
def test_the_interval_holds_the_truth_in_nineteen_of_twenty(count: int, pearson: float) -> None:
    draw = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(pearson / 2)  # of ranks, of two normal variables of this correlation
    held = 0
    for _ in range(1000):
        first, noise = draw.normal(size=(2, count))
        found = rank_correlation(first.tolist(), (pearson * first + np.sqrt(1 - pearson**2) * noise).tolist())
        held += found is not None and found.low <= truth <= found.high
    assert held >= 930


def test_a_perfect_order_of_four_trials_is_no_certainty() -> None:
    found = rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])
    assert found is not None
    assert found.value == pytest.approx(1.0)
    assert found.high == 1.0
    assert found.low < 0, "one in 24 orders is perfect by chance"
