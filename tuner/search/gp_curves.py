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
from tuner.search.extrapolation import at_rungs, extrapolate, normal_scores, without_falls
from tuner.search.gaussian_process import Array, GaussianProcess, one_thread
from tuner.search.samplers.scalarization import best_so_far, draw_weights, scalarize, scale
from tuner.spec.space import Dimension, distributions

OUTCOME = "outcome"
"""The user attribute of an Optuna trial that says how it ended: finished, stopped, failed, or lost: its process or
machine failed, which says nothing of its hyperparameters."""

POINTS = "points"
"""The user attribute of an Optuna trial with its reports, (epoch, values), if there are several objectives, for which
Optuna has no intermediate values."""

_FIRST_RANDOM = 4  # trials whose reports are known before the process proposes one
_RANDOM_SHARE = 0.25
_FITTED, _MOST_ROWS = 60, 200  # rows that the process's own numbers are fitted to, and that it predicts from
_LOWEST = -1.5  # values are 1 for the best, 0 for the middle; lower ones count as this
_FAILED_SCORE = -3.0  # a failed trial's: below the ranks of all others, however many have failed
_KNOWN_EXACTLY = 1e-3  # variance of a value that needn't be extrapolated


class GpCurvesSampler(optuna.samplers.BaseSampler):
    """Reads of each trial its hyperparameters, its intermediate values by epoch, and the user attribute OUTCOME.

    With several objectives it reads POINTS, and each proposal is for one weighting of them (scalarization.py).
    """

    def __init__(self, space: dict[str, Dimension], seed: int, first_rung: int, changes: tuple[int, ...] = ()):
        """seed: of one proposal. first_rung: the epoch from which on curves are compared; a trial that hasn't come
        there counts as one that nothing is known of. changes: the epochs after which the fidelity changes."""
        self._space, self._seed, self._first_rung, self._changes = space, seed, first_rung, changes
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
        signs = [1.0 if each == optuna.study.StudyDirection.MAXIMIZE else -1.0 for each in study.directions]
        curves, finals = _curves(others, signs[0]) if len(signs) == 1 else _weighted_curves(others, signs, rng)
        known = _Knowledge(others, curves, finals, self._first_rung, self._changes)
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

    def __init__(
        self,
        trials: list[FrozenTrial],
        curves: list[dict[int, float]],
        finals: Array,
        first_rung: int,
        changes: tuple[int, ...],
    ):
        """curves: of each trial, by epoch. finals: of `_final_value`. In both greater is better."""
        horizon = max((max(curve, default=1) for curve in curves), default=1)
        rungs = _rungs(first_rung, horizon, changes)
        reached = at_rungs(curves, rungs, changes=changes)
        failed = np.array([has_failed(trial) for trial in trials], dtype=bool)
        stopped = np.array([trial.user_attrs.get(OUTCOME) == "stopped" for trial in trials], dtype=bool)
        # A stopped trial's value says nothing of later rungs; a finished trial's counts for all that its curve lacks.
        counts = np.arange(len(rungs)) < np.where(stopped, 1, len(rungs))[:, None]
        reached = np.where(np.isnan(reached) & counts, finals[:, None], reached)
        known = failed | np.isfinite(reached[:, 0])
        self.trials = [trials[place] for place in np.flatnonzero(known)]
        """Of which something is known."""
        self.silent = [trials[place] for place in np.flatnonzero(~known) if trials[place].state == TrialState.RUNNING]
        """That run, and have not come to the first rung."""
        values, self.failed = without_falls(reached[known], rungs, changes), failed[known]
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


def has_reported(trial: FrozenTrial) -> bool:
    """Whether it has reported a value."""
    return bool(trial.intermediate_values or trial.user_attrs.get(POINTS))


def _curves(trials: list[FrozenTrial], sign: float) -> tuple[list[dict[int, float]], Array]:
    """Each trial's value by epoch, and its final one (N,), NaN if it runs or has failed; greater is better."""
    curves = [{epoch: sign * value for epoch, value in trial.intermediate_values.items()} for trial in trials]
    return curves, np.array([sign * values[0] for values in _final_values(trials, 1)])


def _weighted_curves(
    trials: list[FrozenTrial], signs: list[float], rng: np.random.Generator
) -> tuple[list[dict[int, float]], Array]:
    """As `_curves`, of all objectives as one, with weights that are drawn."""
    weights = draw_weights(len(signs), rng)
    reports = [best_so_far(trial.user_attrs.get(POINTS, ()), signs[0]) for trial in trials]
    finals = np.array(signs) * _final_values(trials, len(signs))
    last = [np.array(signs) * np.array(standing[-1]) for _, standing in reports if standing]
    middle, best = scale(np.array(last)) if last else (np.zeros(len(signs)), np.ones(len(signs)))
    curves: list[dict[int, float]] = []
    for epochs, standing in reports:
        values = np.array(signs) * np.array(standing).reshape(-1, len(signs))
        curves.append(dict(zip(epochs, scalarize(values, weights, middle, best).tolist(), strict=True)))
    return curves, scalarize(finals, weights, middle, best)


def _final_values(trials: list[FrozenTrial], objectives: int) -> Array:
    """(N, objectives), NaN of a trial that runs or has failed."""
    none = [math.nan] * objectives
    ended = [trial.state == TrialState.COMPLETE and not has_failed(trial) and trial.values for trial in trials]
    return np.array([values or none for values in ended]).reshape(-1, objectives)


def _rungs(first: int, horizon: int, changes: tuple[int, ...]) -> list[int]:
    """first, twice that, and so on, the last epochs before a change of fidelity, and the longest trial's end: rising
    epochs.
    """
    rungs = set()
    while first < horizon:
        rungs.add(first)
        first *= 2
    return [*sorted(rungs | {change for change in changes if change < horizon}), horizon]


def _best_and_newest(means: Array, most: int) -> NDArray[np.int_]:
    """Places of at most so many rows: one half the best, the other the newest of the rest, in the rows' order."""
    if len(means) <= most:
        return np.arange(len(means))
    best = greatest(means, most // 2)
    rest = np.setdiff1d(np.arange(len(means)), best)
    return np.sort(np.concatenate([best, rest[-(most - most // 2) :]]))
