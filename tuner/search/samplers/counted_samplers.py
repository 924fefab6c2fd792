"""Samplers that go by how many trials came before: a point of a sequence, of a grid, a generation.

Optuna's own count in its study object, which a resumed study doesn't have. Here a trial's number in the study counts.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter

from tuner.spec.grid import points
from tuner.spec.space import Dimension, Scalar, distributions

NUMBER = "number"
"""The user attribute of an Optuna trial that holds its number in the study, from 1."""

POPULATION = 20
"""Trials of a generation. Optuna's 50 would be the whole of many a study."""

_SPACE: TypeAdapter[dict[str, Dimension]] = TypeAdapter(dict[str, Dimension])


class Qmc(optuna.samplers.QMCSampler):
    """Optuna's scrambled Sobol sequence over the whole space; of a hyperparameter whose condition isn't met, the
    coordinate isn't used."""

    def __init__(self, space: dict[str, Dimension], seed: int, number: int):
        """seed: of the study, since all trials take their points from one sequence. number: the trial's, from 1."""
        super().__init__(qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False)
        self._space, self._number = space, number

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        del study, trial
        return dict(sorted(distributions(self._space).items()))

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        del study, search_space
        return self._number - 1


class Grid(optuna.samplers.RandomSampler):
    """Every point of the grid once, in an order that the seed shuffles. Optuna's own ends its study after the last."""

    def __init__(self, space: dict[str, Dimension], seed: int, place: int):
        """seed: of the study. place: the trial's among those that take points of the grid, from 0."""
        super().__init__(seed=seed)
        self._space, self._seed, self._place = space, seed, place

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        del study, trial
        return distributions(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        del study, trial, search_space
        shuffled = _shuffled(_SPACE.dump_json(self._space), self._seed)
        return dict(shuffled[self._place % len(shuffled)])


@functools.lru_cache(maxsize=2)
def _shuffled(space: bytes, seed: int) -> list[dict[str, Scalar]]:
    """The points of a grid. Kept, since a large one takes longer to list than a proposal may."""
    found = points(_SPACE.validate_json(space))
    return [found[place] for place in np.random.default_rng(seed).permutation(len(found))]


class Nsga2(optuna.samplers.NSGAIISampler):
    """Optuna's crossover and mutation of the best trials of the generations before; the first is drawn at random."""

    def __init__(self, seed: int, number: int):
        """seed: of one proposal. number: the trial's in the study, from 1."""
        super().__init__(population_size=POPULATION, seed=seed)
        self._generation = (number - 1) // POPULATION

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        del study, trial
        return self._generation

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The best of all completed trials of the generations before, which is what NSGA-II keeps of one objective; of
        several the first fronts of these trials, and of the last the least crowded."""
        before = [
            trial
            for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
            if trial.user_attrs[NUMBER] <= generation * POPULATION
        ]
        before.sort(key=lambda trial: trial.user_attrs[NUMBER])
        if len(study.directions) > 1:
            return self._elite_population_selection_strategy(study, before)
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        return sorted(before, key=lambda trial: sign * trial.values[0])[:POPULATION]
