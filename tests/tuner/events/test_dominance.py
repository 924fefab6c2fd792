"""Dominance and the knee."""

from __future__ import annotations

import random

import pytest

from tuner.events.dominance import dominated_by, dominates, knee


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1.0, 2.0), (1.0, 1.0), True),
        ((1.0, 1.0), (1.0, 1.0), False),
        ((2.0, 0.0), (1.0, 1.0), False),
        ((0.0, 0.0), (1.0, 1.0), False),
        ((1.0, 1.0), (float("-inf"), float("-inf")), True),
    ],
)
def test_values_dominate_that_are_as_good_in_all_objectives_and_better_in_one(
    one: tuple[float, ...], other: tuple[float, ...], expected: bool
) -> None:
    assert dominates(one, other) is expected


@pytest.mark.parametrize("objectives", [2, 3])
def test_how_many_dominate_each_trial_is_what_all_pairs_say(objectives: int) -> None:
    draw = random.Random(objectives)
    values = [tuple(float(draw.randrange(5)) for _ in range(objectives)) for _ in range(60)]
    assert dominated_by(values) == [sum(dominates(other, own) for other in values) for own in values]


def test_no_trials_are_dominated_by_none() -> None:
    assert dominated_by([]) == []


def test_the_knee_is_nearest_to_the_best_of_every_objective_whatever_their_units() -> None:
    front = [(0.9, -100.0), (0.85, -20.0), (0.5, -10.0)]
    assert knee(front) == 1
    assert knee([(a * 1000, b / 1000) for a, b in front]) == 1


@pytest.mark.parametrize("front", [[(0.3, 0.7)], [(0.3, 0.7), (0.7, 0.3)]])
def test_of_equally_near_trials_the_first_is_the_knee(front: list[tuple[float, ...]]) -> None:
    assert knee(front) == 0
