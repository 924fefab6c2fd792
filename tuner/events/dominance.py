"""Several objectives: which values are better than others, and which are a good compromise.

One trial dominates another if it is at least as good in every objective, and better in one. In all values here greater
is better: those of StudySpec.signed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether these values dominate the others."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def dominated_by(values: Sequence[Sequence[float]]) -> list[int]:
    """Of each trial's values, how many of the other trials dominate it."""
    import numpy as np  # here, since most commands need none of it

    array = np.asarray(values, dtype=float)
    # Row by row: of 10,000 trials, all pairs at once would take gigabytes.
    return [int(((array >= own).all(axis=1) & (array > own).any(axis=1)).sum()) for own in array]


def knee(front: Sequence[Sequence[float]]) -> int:
    """The place of the values that are nearest to the ideal ones, the best of each objective, on the front's own scale:
    its best value of an objective counts as 0, its worst as 1. Of equally near ones the first. front: not empty.
    """
    columns = list(zip(*front, strict=True))
    best, worst = [max(column) for column in columns], [min(column) for column in columns]

    def distance(values: Sequence[float]) -> float:
        spans = zip(values, best, worst, strict=True)
        return math.hypot(*((top - value) / (top - low) if top > low else 0.0 for value, top, low in spans))

    return min(range(len(front)), key=lambda place: distance(front[place]))
