"""What trials that were trained in part would come to at full length, and how sure that is.

From rung to rung, a ridge regression over the trials that have passed both says what is gained between the two; a trial
is taken from the last rung it reached to the end by one after the other, and what each leaves unsure adds up.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.search.gaussian_process import Array

_RIDGE = 0.3
_PRIOR_SPREAD, _PRIOR_COUNT = 0.15, 2.0
_UNSEEN_SPREAD = 0.4


def at_rungs(curve: list[tuple[int, float]], rungs: list[int]) -> Array:
    """The best so far at each rung (K,), greater is better; NaN from the first that the curve doesn't reach.

    curve: (epoch, value), in the order of epochs.
    """
    found = np.full(len(rungs), np.nan)
    best, place = -math.inf, 0
    for epoch, value in curve:
        while place < len(rungs) and epoch > rungs[place] and best > -math.inf:
            # A workload that reports every few epochs has passed the rung with what it had before.
            found[place], place = best, place + 1
        best = max(best, value)
        while place < len(rungs) and epoch >= rungs[place]:
            found[place], place = best, place + 1
    return found


def extrapolate(values: Array) -> tuple[Array, Array]:
    """values (N, K): at_rungs of N trials, the last column at full length; about 1 is the best, 0 the middle.

    Each has at least its first. Returns the means and variances (N,) of the values in the last column.
    """
    means: Array = values[:, 0].copy()
    gains: Array = np.zeros(len(values))
    variances = np.zeros(len(values))
    step = (0.1, _UNSEEN_SPREAD**2)
    for rung in range(1, values.shape[1]):
        before, after = values[:, rung - 1], values[:, rung]
        seen = np.isfinite(after)
        earlier = values[:, rung - 2] if rung > 1 else before
        weights: NDArray[np.floating[Any]] = np.zeros(3)
        precision: NDArray[np.floating[Any]] = np.eye(3)
        noise = step[1]
        if seen.any():
            X = _features(before[seen], (before - earlier)[seen])
            y = after[seen] - before[seen]
            precision = X.T @ X + np.diag([0.1, _RIDGE, _RIDGE])
            weights = np.linalg.solve(precision, X.T @ y)
            left = ((y - X @ weights) ** 2).sum()
            free = max(len(y) - 2.0, 0.0)
            noise = float((left + _PRIOR_COUNT * _PRIOR_SPREAD**2) / (free + _PRIOR_COUNT))
            step = (float(y.mean()), noise)
        X = _features(means, gains)
        gain: Array
        spread: Array
        if seen.any():
            gain = np.clip(X @ weights, 0.0, 1.5)
            spread = noise * (1 + np.einsum("ij,jk,ik->i", X, np.linalg.inv(precision), X))
        else:
            gain, spread = np.full(len(means), 0.5 * step[0]), np.full(len(means), _UNSEEN_SPREAD**2)
        variances = np.where(seen, 0.0, (1 + weights[1]) ** 2 * variances + np.minimum(spread, 1.0))
        gains = np.where(seen, after - before, gain)
        means = np.where(seen, after, means + gain)
    return means, variances


def _features(values: Array, gains: Array) -> Array:
    return np.stack([np.ones(len(values)), values, gains], axis=1)
