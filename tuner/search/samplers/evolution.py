"""CMA-ES: a normal distribution of numeric hyperparameters that moves and turns towards the better trials.

Hansen, The CMA Evolution Strategy: A Tutorial, 2016, by the package cmaes, which Optuna's CmaEsSampler uses too. That
one keeps the distribution, pickled, beside its trials. Here it is computed anew from them for each proposal, so that a
resumed study has the distribution of the unbroken one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.search.encoding import Encoding
from tuner.search.gaussian_process import Array
from tuner.search.samplers.counted_samplers import NUMBER
from tuner.spec.space import Choice, Dimension, distributions

_SIGMA = 1 / 6  # of each range, at first, as in Optuna


class CmaEs(optuna.samplers.BaseSampler):
    """Proposes numeric hyperparameters without a condition by CMA-ES; choices, and the conditional ones, at random.

    A generation is so many trials by their number, whichever runs when. It is told when all of its trials have ended.
    """

    def __init__(self, space: dict[str, Dimension], seed: int, number: int):
        """space: with at least one numeric hyperparameter without a condition. seed: of one proposal.

        number: the trial's in the study, from 1.
        """
        self._space, self._seed, self._number = space, seed, number
        self._encoding = Encoding(space)
        evolving = [not isinstance(dimension, Choice) and not dimension.when for dimension in self._encoding.dimensions]
        self._columns = np.array(evolving)[self._encoding.owners]
        """(D,): of each column of a row, whether it is CMA-ES's."""
        self.population = 4 + math.floor(3 * math.log(self._columns.sum()))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        del study, trial
        return distributions(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # Imported here, since it imports scipy.stats, which takes a second.
        import cmaes

        del trial, search_space
        count = int(self._columns.sum())
        strategy = cmaes.CMA(
            mean=np.full(count, 0.5),
            sigma=_SIGMA,
            bounds=np.tile([0.0, 1.0], (count, 1)),
            n_max_resampling=10 * count,
            seed=self._seed,
            population_size=self.population,
        )
        for generation in self._generations(study):
            strategy.tell(generation)
        row = np.random.default_rng(self._seed).random(len(self._columns))
        row[self._columns] = strategy.ask()
        return self._encoding.params(row)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Of a hyperparameter that the proposal lacks, as when some of a trial's are given."""
        random = optuna.samplers.RandomSampler(seed=self._seed)
        return random.sample_independent(study, trial, param_name, param_distribution)

    def _generations(self, study: optuna.Study) -> list[list[tuple[Array, float]]]:
        """Of each ended generation before the trial's own, its trials: coordinates, and value to minimize."""
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        generations: dict[int, list[FrozenTrial]] = {}
        for trial in study.get_trials(deepcopy=False):
            if NUMBER in trial.user_attrs:
                generations.setdefault((trial.user_attrs[NUMBER] - 1) // self.population, []).append(trial)
        found = []
        present = (self._number - 1) // self.population
        for generation, trials in sorted(generations.items()):
            if generation >= present or any(trial.state == TrialState.RUNNING for trial in trials):
                continue
            ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
            # Trials without a value, and of a large study those that are no longer known, count as its worst.
            if len(ended) >= self.population / 2:
                rows = self._encoding.rows([trial.params for trial in ended])[:, self._columns]
                told = [(row, sign * (trial.value or 0.0)) for row, trial in zip(rows, ended, strict=True)]
                worst = max(told, key=lambda solution: solution[1])
                found.append(told + [worst] * (self.population - len(told)))
        return found
