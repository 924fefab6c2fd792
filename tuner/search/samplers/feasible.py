"""Keeps a sampler away from hyperparameters that can't work: their loss isn't finite, or they need too much memory.

A sampler that is told a low value for them still proposes their neighbours: a random proposal doesn't know better, and
the best hyperparameters often lie beside those that fail, such as the largest batch that fits. So a proposal that would
probably fail is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
import scipy.special
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from tuner.search.encoding import Encoding
from tuner.search.gaussian_process import Array, GaussianProcess, one_thread
from tuner.search.gp_curves import has_failed, has_reported
from tuner.spec.space import Dimension, distributions

_MOST = 60  # trials of each kind that it is judged by, the newest
_ERROR = 0.05  # variance of one trial's outcome: the same hyperparameters may fail once and work once
_PROPOSALS, _RANDOM = 4, 30  # of the sampler, then at random
_UNCHECKED = 0.15  # share of proposals that are taken as they come: a trial's failure may have had another cause


class Feasible(optuna.samplers.BaseSampler):
    """Another sampler, whose proposals are drawn again where they would probably fail; as it is until a trial fails."""

    def __init__(self, sampler: Callable[[int], optuna.samplers.BaseSampler], space: dict[str, Dimension], seed: int):
        """sampler: makes the other sampler with a seed. seed: of one proposal."""
        self._make, self._space, self._seed = sampler, space, seed
        self._first = sampler(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        del study, trial
        return distributions(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        del search_space
        encoding = Encoding(self._space)
        proposal = self._ask(self._first, study, trial)
        known = [other for other in study.get_trials(deepcopy=False) if other.params]
        rng = np.random.default_rng(self._seed)
        if not any(has_failed(other) for other in known) or rng.random() < _UNCHECKED:
            return proposal
        with one_thread():
            chances = Chances(encoding, known)
        draws: list[Callable[[], dict[str, Any]]] = [
            lambda: proposal,
            *(partial(self._ask, self._make(seed), study, trial) for seed in self._seeds()),
            *[partial(encoding.random, rng)] * _RANDOM,
        ]
        best: tuple[float, dict[str, Any]] = (-1.0, proposal)
        for draw in draws:
            # An empty proposal leaves all to chance, as TPE's first ten do.
            params = draw() or encoding.random(rng)
            chance = chances.of(params)
            # By chance, and not from a bound on: what one failed trial had isn't ruled out with it.
            if rng.random() < chance:
                return params
            best = max(best, (chance, params), key=lambda found: found[0])
        return best[1]

    def _seeds(self) -> list[int]:
        return [(self._seed + 104_729 * turn) % 2**32 for turn in range(1, _PROPOSALS)]

    def _ask(self, sampler: optuna.samplers.BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._first.sample_independent(study, trial, param_name, param_distribution)


class Chances:
    """A Gaussian process over which trials have failed and which have reported a value."""

    def __init__(self, encoding: Encoding, trials: Sequence[FrozenTrial]):
        self._encoding = encoding
        failed = [trial.params for trial in trials if has_failed(trial)][-_MOST:]
        worked = [trial.params for trial in trials if has_reported(trial) and not has_failed(trial)][-_MOST:]
        rows = encoding.rows([*failed, *worked])
        works = np.array([-1.0] * len(failed) + [1.0] * len(worked))
        # Far from every trial the chance is the share that worked.
        self._centre = works.mean()
        self._process = GaussianProcess(encoding.owners)
        noise = np.full(len(works), _ERROR)
        self._process.fit(rows, works - self._centre, noise)
        self._process.condition(rows, works - self._centre, noise)

    def of(self, params: dict[str, Any]) -> float:
        """That a trial with these hyperparameters works, 0 to 1."""
        means, variances = self._process.predict(self._encoding.rows([params]))
        found: Array = scipy.special.ndtr((means + self._centre) / np.sqrt(variances + _ERROR))
        return float(found[0])
