"""What trials that were trained in part would come to at full length, and how sure that is.

From rung to rung, a ridge regression over the trials that have passed both says what is gained between the two; a trial
is taken from the last rung it reached to the end by one after the other, and what each leaves unsure adds up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from tuner.search.gaussian_process import Array

_RIDGE = 0.3
_PRIOR_SPREAD, _PRIOR_COUNT = 0.15, 2.0
_UNSEEN_SPREAD = 0.4


def at_rungs(
    curves: Sequence[Mapping[int, float]], rungs: Sequence[int], sign: float = 1.0, changes: Sequence[int] = ()
) -> Array:
    """The best so far of each curve at each rung (N, K), greater is better; NaN from the first that it doesn't reach.

    curves: the value by epoch. sign: -1 where less is better, by which values are multiplied. A workload that reports
    every few epochs has passed a rung with what it had before, or with its first report if that came after the rung.
    changes: epochs after which the fidelity changes. A value from before the last one doesn't count at a rung.
    """
    lengths = [len(curve) for curve in curves]
    owners = np.repeat(np.arange(len(curves)), lengths)
    epochs = np.fromiter(chain.from_iterable(curves), np.int_, sum(lengths))
    values = sign * np.fromiter(chain.from_iterable(curve.values() for curve in curves), np.float64, sum(lengths))
    first, last = np.full(len(curves), np.iinfo(np.int_).max), np.full(len(curves), -1)
    np.minimum.at(first, owners, epochs)
    np.maximum.at(last, owners, epochs)
    found = np.full((len(curves), len(rungs)), np.nan)
    for place, rung in enumerate(rungs):
        change = max((each for each in changes if each < rung), default=0)
        counts = (last[owners] >= rung) & (epochs > change) & ((epochs <= rung) | (epochs == first[owners]))
        np.fmax.at(found[:, place], owners[counts], values[counts])
    return found


def without_falls(values: Array, rungs: Sequence[int], changes: Sequence[int]) -> Array:
    """values (N, K): at_rungs, with those before a change of fidelity lowered by what trials lose in it, if they do.

    With larger images, for example, the same networks may measure worse. Without this, trials that were stopped before
    the change would look better than all that went through it. A gain needs no correction: `extrapolate` expects one.
    """
    values = values.copy()
    for place in range(len(rungs) - 1, 0, -1):
        if any(rungs[place - 1] <= change < rungs[place] for change in changes):
            gains = values[:, place] - values[:, place - 1]
            if np.isfinite(gains).any():
                values[:, :place] += min(0.0, float(np.nanmedian(gains)))
    return values


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


def normal_scores(means: Array, variances: Array) -> tuple[Array, Array]:
    """Of values (N,) of these means and variances, their ranks as quantiles of the normal distribution.

    Returns these (N,), and as their variances (N,) how far a standard deviation reaches among the others. A process
    over them sees what makes the best settings better and bad ones worse, whatever the distances between the values.
    Source: Salinas, Shen, Perrone, A Quantile-based Approach for Hyperparameter Transfer Learning, ICML 2020.
    """
    ordered, deviations, count = np.sort(means), np.sqrt(variances), len(means)

    def scores(values: Array) -> Array:
        twice = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        found: Array = scipy.special.ndtri(np.clip(twice / (2 * count), 0.5 / count, 1 - 0.5 / count))
        return found

    return scores(means), ((scores(means + deviations) - scores(means - deviations)) / 2) ** 2


def _features(values: Array, gains: Array) -> Array:
    return np.stack([np.ones(len(values)), values, gains], axis=1)
