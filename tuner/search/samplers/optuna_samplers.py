"""The samplers of a study file's [search] table, each as a sampler of Optuna's interface."""

from __future__ import annotations

import warnings

import optuna

from tuner.search.gp_curves import GpCurvesSampler
from tuner.search.samplers.counted_samplers import Grid, Nsga2, Qmc
from tuner.search.samplers.evolution import CmaEs
from tuner.search.samplers.feasible import Feasible
from tuner.spec.study import StudySpec


def optuna_sampler(spec: StudySpec, number: int) -> optuna.samplers.BaseSampler:
    """For the proposal of this trial, with a seed of its own: a resumed study then draws what an unbroken one would."""
    seed = (spec.search.seed + 7919 * number) % 2**32
    with warnings.catch_warnings():
        # Optuna says so of QMCSampler, and of TPE's `group`, by which it models hyperparameters under each condition
        # together.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match spec.search.sampler:
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "qmc":
                return Qmc(spec.space, spec.search.seed, number)
            case "grid":
                return Grid(spec.space, spec.search.seed, max(0, number - 1 - len(spec.first_trials)))
            case "nsga2":
                return Nsga2(seed, number)
            case "cmaes":
                return Feasible(lambda seed: CmaEs(spec.space, seed, number), spec.space, seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
            case "gp_curves":
                first, changes = spec.scheduler.grace_epochs, spec.scheduler.changes
                return Feasible(lambda seed: GpCurvesSampler(spec.space, seed, first, changes), spec.space, seed)
            case "tpe":
                conditional = any(dimension.when for dimension in spec.space.values())
                return Feasible(lambda seed: optuna.samplers.TPESampler(seed=seed, group=conditional), spec.space, seed)
