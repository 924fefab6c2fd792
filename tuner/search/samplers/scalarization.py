"""Several objectives as one: each trial's values become one number, by weights that are drawn anew for each proposal.

The augmented Chebyshev function of Knowles, ParEGO, IEEE Transactions on Evolutionary Computation 2006. What is best by
it is on the front, where its weights point to; the proposals of a study, each with its own weights, look for all of the
front.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuner.search.gaussian_process import Array

_SUM_SHARE = 0.05  # of the weighted sum, so that of two trials with the same worst part the better one counts
_LOWEST = -1.5  # values are 1 for the best, 0 for the middle; lower ones count as this


def draw_weights(objectives: int, rng: np.random.Generator) -> Array:
    """(objectives,): weights that add up to 1, all equally probable."""
    return rng.dirichlet(np.ones(objectives))


def scale(values: Array) -> tuple[Array, Array]:
    """The middle and the best of each objective (M,). values (N, M): of N trials, greater is better."""
    return np.median(values, axis=0), values.max(axis=0)


def scalarize(values: Array, weights: Array, middle: Array, best: Array) -> Array:
    """(N,): values (N, M), greater is better, as one number each, at most 0. middle, best: of `scale`."""
    spread = np.where(best > middle, best - middle, 1.0)
    short = weights * (1 - np.maximum((values - middle) / spread, _LOWEST))
    found: Array = -short.max(axis=1) - _SUM_SHARE * short.sum(axis=1)
    return found


def best_so_far(points: Sequence[tuple[int, Sequence[float]]], sign: float) -> tuple[list[int], list[Sequence[float]]]:
    """The epochs of a trial's reports, and after each the values at its best epoch by the first objective up to then.

    points: (epoch, values) by rising epoch. sign: -1 where less of the first objective is better.
    """
    standing: list[Sequence[float]] = []
    for _, values in points:
        better = not standing or sign * values[0] > sign * standing[-1][0]
        standing.append(values if better else standing[-1])
    return [epoch for epoch, _ in points], standing
