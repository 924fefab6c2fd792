"""The samplers of a study file's [search] table, each as a sampler of Optuna's interface."""

from __future__ import annotations

import warnings

import optuna

from tuner.search.gp_curves import GpCurvesSampler
from tuner.spec.study import StudySpec


def optuna_sampler(spec: StudySpec, number: int) -> optuna.samplers.BaseSampler:
    """For the proposal of this trial, with a seed of its own: a resumed study then draws what an unbroken one would."""
    seed = (spec.search.seed + 7919 * number) % 2**32
    match spec.search.sampler:
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "gp_curves":
            return GpCurvesSampler(spec.space, seed, spec.scheduler.grace_epochs)
        case "tpe":
            conditional = any(dimension.when for dimension in spec.space.values())
            with warnings.catch_warnings():
                # Optuna says so of `group`, by which it models the hyperparameters under each condition together.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.TPESampler(seed=seed, group=conditional)
