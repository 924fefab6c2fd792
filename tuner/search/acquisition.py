"""Where a process expects the greatest improvement over the best value so far."""

from __future__ import annotations

import math

import numpy as np
import scipy.spatial.distance
import scipy.special
from numpy.typing import NDArray

from tuner.search.encoding import Encoding
from tuner.search.gaussian_process import Array, GaussianProcess

_CANDIDATES = 150  # anywhere, as many near the leading trials, and as many again in each climb
_LEADING = 5  # trials, and then candidates, near which candidates are drawn
_CLIMBS = 6
_APART = 0.145  # 0.2 among 100 settings of seven hyperparameters
_CLOSE = 1e3  # more than the logarithms of two expected improvements differ by


def most_improving(
    process: GaussianProcess, best: float, encoding: Encoding, rows: Array, values: Array, rng: np.random.Generator
) -> Array:
    """The row (D,) of the setting with the greatest expected improvement over `best` that is found.

    rows (N, D), values (N,): what is known or runs, where the search for it begins. Near the best candidates there are
    better ones: of a few hundred drawn once, the best still lies far from the summit in one hyperparameter or another.
    Next to a known setting nothing is proposed if there is anything else: it would cost a training to tell little.
    """
    apart = _spacing(encoding, len(rows))

    def scores_of(candidates: Array) -> Array:
        close = scipy.spatial.distance.cdist(candidates, rows).min(axis=1) < apart
        found: Array = expected_improvement(*process.predict(candidates), best) - _CLOSE * close
        return found

    leading = rows[greatest(values, _LEADING)]
    candidates = np.concatenate([encoding.anywhere(rng, _CANDIDATES), encoding.near(rng, leading, _CANDIDATES)])
    scores = scores_of(candidates)
    for _ in range(_CLIMBS):
        kept = greatest(scores, _LEADING)
        near = encoding.near(rng, candidates[kept], _CANDIDATES)
        scores = np.concatenate([scores[kept], scores_of(near)])
        candidates = np.concatenate([candidates[kept], near])
    found: Array = candidates[int(np.argmax(scores))]
    return found


def _spacing(encoding: Encoding, count: int) -> float:
    """How far apart settings are to lie: a part of the distance between so many that fill the cube evenly."""
    hyperparameters = int(encoding.owners.max()) + 1
    return _APART * math.sqrt(hyperparameters) * math.pow(count, -1 / hyperparameters)


def greatest(values: Array, most: int) -> NDArray[np.int_]:
    """Places of at most so many values, the greatest first."""
    return np.argsort(-values, kind="stable")[:most]


def expected_improvement(means: Array, variances: Array, best: float) -> Array:
    """Its logarithm (N,): the improvement itself underflows to 0 far below the best."""
    deviations = np.sqrt(variances)
    z = (means - best) / deviations
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    # density(z) + z Phi(z), by its tail's expansion where the two cancel.
    near = np.maximum(z, -5.0)
    direct = np.log(np.exp(-0.5 * near**2) / np.sqrt(2 * np.pi) + near * scipy.special.ndtr(near))
    tail = log_density - 2 * np.log(np.maximum(-z, 1.0))
    found: Array = np.where(z > -5.0, direct, tail) + np.log(deviations)
    return found
