"""A Gaussian process over what trials would come to at full length: Optuna's interface, for the study file's gp_curves.

Early stopping leaves most trials short, and the best so far of a short trial is no measure of its hyperparameters: one
that starts fast looks better than one that ends well. So each trial's curve is extrapolated to full length by
regressions from rung to rung (extrapolation.py), and the process is told how unsure each of these values is. After
Swersky, Snoek, Adams, Freeze-Thaw Bayesian Optimization (2014), without its pauses.

What is proposed depends on the Optuna study's trials and on the seed alone; the sampler keeps nothing from one
proposal to the next.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tuner.search.acquisition import greatest, most_improving
from tuner.search.encoding import Encoding
from tuner.search.extrapolation import at_rungs, extrapolate, normal_scores
from tuner.search.gaussian_process import Array, GaussianProcess, one_thread
from tuner.spec.space import Dimension, distributions

OUTCOME = "outcome"
"""The user attribute of an Optuna trial that says how it ended: finished, stopped, failed, or lost: its process or
machine failed, which says nothing of its hyperparameters."""

_FIRST_RANDOM = 4  # trials whose reports are known before the process proposes one
_RANDOM_SHARE = 0.25
_FITTED, _MOST_ROWS = 60, 200  # rows that the process's own numbers are fitted to, and that it predicts from
_LOWEST = -1.5  # values are 1 for the best, 0 for the middle; lower ones count as this
_FAILED_SCORE = -3.0  # a failed trial's: below the ranks of all others, however many have failed
_KNOWN_EXACTLY = 1e-3  # variance of a value that needn't be extrapolated


class GpCurvesSampler(optuna.samplers.BaseSampler):
    """Reads of each trial its hyperparameters, its intermediate values by epoch, and the user attribute OUTCOME."""

    def __init__(self, space: dict[str, Dimension], seed: int, first_rung: int):
        """seed: of one proposal. first_rung: the epoch from which on curves are compared; a trial that hasn't come
        there counts as one that nothing is known of."""
        self._space, self._seed, self._first_rung = space, seed, first_rung
        self._encoding = Encoding(space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        del study, trial
        return distributions(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        del search_space
        rng = np.random.default_rng(self._seed)
        others = [other for other in study.get_trials(deepcopy=False) if other.params and other.number != trial.number]
        known = _Knowledge(others, study.direction, self._first_rung)
        if len(known.trials) < _FIRST_RANDOM or rng.random() < _RANDOM_SHARE:
            return self._encoding.random(rng)
        with one_thread():
            return self._most_improving(known, rng)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Of a hyperparameter that the proposal lacks, as when some of a trial's are given."""
        random = optuna.samplers.RandomSampler(seed=self._seed)
        return random.sample_independent(study, trial, param_name, param_distribution)

    def _most_improving(self, known: _Knowledge, rng: np.random.Generator) -> dict[str, Any]:
        means, variances = known.at_full_length()
        kept = _best_and_newest(means, _MOST_ROWS)
        rows = self._encoding.rows([known.trials[place].params for place in kept])
        means, variances, good = means[kept], variances[kept], ~known.failed[kept]
        scores, noise = np.full(len(kept), _FAILED_SCORE), np.zeros(len(kept))
        if good.any():
            scores[good], noise[good] = normal_scores(means[good], variances[good])
        centre, spread = scores.mean(), max(float(scores.std()), 1e-3)
        y, noise = (scores - centre) / spread, np.maximum(noise / spread**2, _KNOWN_EXACTLY)
        process, fitted = GaussianProcess(self._encoding.owners), _best_and_newest(means, _FITTED)
        process.fit(rows[fitted], y[fitted], noise[fitted])
        if known.silent:
            # Trials that run and say nothing yet are believed to come to what is expected of them.
            process.condition(rows, y, noise)
            running = self._encoding.rows([trial.params for trial in known.silent])
            expected, _ = process.predict(running)
            rows, y = np.concatenate([rows, running]), np.concatenate([y, expected])
            noise = np.concatenate([noise, np.full(len(running), _KNOWN_EXACTLY)])
        process.condition(rows, y, noise)
        best = float(y[: len(kept)].max())
        return self._encoding.params(most_improving(process, best, self._encoding, rows, y, rng))


class _Knowledge:
    """What is known of trials, greater is better, scaled so that 1 is the best so far and 0 the middle of them."""

    def __init__(self, trials: list[FrozenTrial], direction: optuna.study.StudyDirection, first_rung: int):
        sign = 1.0 if direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
        horizon = max((max(trial.intermediate_values, default=1) for trial in trials), default=1)
        rungs = _rungs(first_rung, horizon)
        reached = at_rungs([trial.intermediate_values for trial in trials], rungs, sign)
        failed = np.array([has_failed(trial) for trial in trials], dtype=bool)
        stopped = np.array([trial.user_attrs.get(OUTCOME) == "stopped" for trial in trials], dtype=bool)
        ended = np.array([sign * _final_value(trial) for trial in trials])
        # A stopped trial's value says nothing of later rungs; a finished trial's counts for all that its curve lacks.
        counts = np.arange(len(rungs)) < np.where(stopped, 1, len(rungs))[:, None]
        reached = np.where(np.isnan(reached) & counts, ended[:, None], reached)
        known = failed | np.isfinite(reached[:, 0])
        self.trials = [trials[place] for place in np.flatnonzero(known)]
        """Of which something is known."""
        self.silent = [trials[place] for place in np.flatnonzero(~known) if trials[place].state == TrialState.RUNNING]
        """That run, and have not come to the first rung."""
        values, self.failed = reached[known], failed[known]
        bests = np.fmax.reduce(values[~self.failed], axis=1)
        top, middle = (float(bests.max()), float(np.median(bests))) if len(bests) else (1.0, 0.0)
        self._values = np.maximum((values - middle) / (top - middle if top > middle else 1.0), _LOWEST)

    def at_full_length(self) -> tuple[Array, Array]:
        """Means and variances (N,) of what the trials would come to."""
        means, variances = np.full(len(self._values), _LOWEST), np.full(len(self._values), _KNOWN_EXACTLY)
        good = ~self.failed
        if good.any():
            means[good], variances[good] = extrapolate(self._values[good])
        return means, variances


def has_failed(trial: FrozenTrial) -> bool:
    """Whether its hyperparameters didn't work."""
    return trial.user_attrs.get(OUTCOME) == "failed"


def _final_value(trial: FrozenTrial) -> float:
    """NaN if it has none: it runs, or has failed."""
    if trial.state != TrialState.COMPLETE or has_failed(trial) or trial.value is None:
        return math.nan
    return trial.value


def _rungs(first: int, horizon: int) -> list[int]:
    """first, twice that, and so on, and the longest trial's end: rising epochs."""
    rungs = []
    while first < horizon:
        rungs.append(first)
        first *= 2
    return [*rungs, horizon]


def _best_and_newest(means: Array, most: int) -> NDArray[np.int_]:
    """Places of at most so many rows: one half the best, the other the newest of the rest, in the rows' order."""
    if len(means) <= most:
        return np.arange(len(means))
    best = greatest(means, most // 2)
    rest = np.setdiff1d(np.arange(len(means)), best)
    return np.sort(np.concatenate([best, rest[-(most - most // 2) :]]))
