"""The grid of a search space: every set of hyperparameters that its choices and steps make."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tuner.spec.space import Choice, Dimension, Scalar, is_active, ordered

MOST_POINTS = 100_000
"""More of them take seconds to list, and no study tries so many."""


def points(space: dict[str, Dimension]) -> list[dict[str, Scalar]]:
    """Each set of active hyperparameters once. No range may be continuous."""
    found: list[dict[str, Scalar]] = [{}]
    for name in ordered(space):
        values = _values(space[name])
        found = [
            longer
            for point in found
            for longer in ([{**point, name: value} for value in values] if is_active(space[name], point) else [point])
        ]
    return found


def grid_problems(space: dict[str, Dimension], trials: int, first_trials: int) -> Iterable[str]:
    """Why the grid sampler can't have this space, one sentence each: place, rule, value, fix."""
    continuous = [name for name, dimension in space.items() if _count(dimension) is None]
    for name in continuous:
        fix = 'type = "choice"' if getattr(space[name], "log", False) else 'a step, or type = "choice"'
        yield (
            f'space.{name}: sampler = "grid" needs values to try, got a continuous range ({space[name]}); give it {fix}'
        )
    if continuous:
        return
    most = math.prod(_count(dimension) or 1 for dimension in space.values())
    if most > MOST_POINTS:
        yield (
            f"search.sampler: a grid of at most {MOST_POINTS:,} points is needed, got {most:,}; use larger steps, or "
            'sampler = "random"'
        )
    elif (size := len(points(space))) < trials - first_trials:
        firsts = f" after {first_trials} first trials" if first_trials else ""
        yield (
            f"budget.trials: the grid has {size} points, got {trials - first_trials} trials{firsts}; "
            f"set it to {size + first_trials} or fewer, or use smaller steps"
        )


def _count(dimension: Dimension) -> int | None:
    """How many values it has; None for a continuous range."""
    if isinstance(dimension, Choice):
        return len(dimension.choices)
    step = dimension.step or (1 if dimension.type == "int" else None)
    return None if step is None else round((dimension.high - dimension.low) / step) + 1


def _values(dimension: Dimension) -> list[Scalar]:
    if isinstance(dimension, Choice):
        return list(dimension.choices)
    if dimension.type == "int":
        return list(range(dimension.low, dimension.high + 1, dimension.step or 1))
    assert dimension.step is not None
    # The last one is high itself, and not beside it by rounding.
    steps = round((dimension.high - dimension.low) / dimension.step)
    return [min(dimension.low + place * dimension.step, dimension.high) for place in range(steps + 1)]
