"""A study as Optuna knows studies: its trials as FrozenTrials, for Optuna's own analyses, figures and storages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.spec.space import Choice, Dimension, Float, is_active
from tuner.spec.study import StudySpec


def frozen_trials(record: StudyRecord, *, several: bool = False) -> list[FrozenTrial]:
    """Every trial of a study, by its id: a trial's number is its id less one.

    several: whether each has the values of all objectives, and no intermediate values, which Optuna then has not; else
    those of the first alone.

    A trial that the scheduler stopped is COMPLETE with its best value, as the sampler is told: it may be the winner.
    One that it stopped before any report is PRUNED, a failed one FAIL, one that runs, is paused or is
    interrupted RUNNING.
    Intermediate values are the objective's by epoch. User attributes: trial, state, and where they are known
    best_epoch, epochs, seconds, reason. A hyperparameter that the study's space doesn't hold, since the space was
    changed when the study was resumed, is there with a wider range, or if it can't be, as the user attribute
    `params.NAME`.
    """
    return [_frozen(record.spec, record.trials[id], several) for id in sorted(record.trials)]


def optuna_study(
    record: StudyRecord, trials: Iterable[FrozenTrial] | None = None, *, several: bool = False
) -> optuna.Study:
    """The study in memory, for Optuna's analyses and figures. trials: of `frozen_trials`; all if left out. several: as
    of `frozen_trials`.

    Numbers here are the trials' ids, so that figures name trials as the rest of tuner does: a number that no trial has,
    0 for one, is a WAITING trial, which Optuna's figures leave out.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=[each.direction for each in record.spec.objectives[: None if several else 1]],
        storage=optuna.storages.InMemoryStorage(),
        study_name=record.spec.name,
    )
    filler = create_trial(state=TrialState.WAITING)
    number = 0
    for trial in frozen_trials(record, several=several) if trials is None else trials:
        while number <= trial.number:
            study.add_trial(filler)
            number += 1
        study.add_trial(trial)
        number += 1
    return study


def _frozen(spec: StudySpec, trial: TrialRecord, several: bool) -> FrozenTrial:
    state = _state(trial)
    params, distributions, outside = _hyperparameters(spec, trial)
    ended = trial.ended if trial.ended is not None else trial.last_seen
    attributes = {
        "trial": trial.id,
        "state": trial.state,
        "best_epoch": trial.best_epoch,
        "epochs": trial.epoch,
        "seconds": round(trial.seconds(ended), 3),
        "reason": trial.why,
        **{f"params.{name}": value for name, value in outside.items()},
    }
    return FrozenTrial(
        number=trial.id - 1,
        trial_id=trial.id - 1,
        state=state,
        value=None,
        values=(trial.values if several else trial.values[:1]) if state == TrialState.COMPLETE else None,
        datetime_start=datetime.fromtimestamp(trial.started),
        datetime_complete=datetime.fromtimestamp(ended) if state.is_finished() else None,
        params=params,
        distributions=distributions,
        user_attrs={name: value for name, value in attributes.items() if value is not None},
        system_attrs={},
        intermediate_values={} if several else dict(trial.curve),
    )


def _state(trial: TrialRecord) -> TrialState:
    if trial.open:
        return TrialState.RUNNING
    if trial.state == "failed":
        return TrialState.FAIL
    return TrialState.COMPLETE if trial.value is not None else TrialState.PRUNED


def _hyperparameters(
    spec: StudySpec, trial: TrialRecord
) -> tuple[dict[str, Any], dict[str, BaseDistribution], dict[str, Any]]:
    """What Optuna takes of a trial's hyperparameters, their distributions, and what it doesn't take."""
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    outside: dict[str, Any] = {}
    for name, value in trial.params.items():
        dimension = spec.space.get(name)
        fitting = dimension and is_active(dimension, trial.params) and _distribution(dimension, value)
        if fitting:
            params[name], distributions[name] = value, fitting
        else:
            outside[name] = value
    return params, distributions, outside


def _distribution(dimension: Dimension, value: Any) -> BaseDistribution | None:
    """The dimension's distribution, widened to hold the value if need be; None if that can't be."""
    if dimension.contains(value):
        return dimension.distribution()
    if isinstance(dimension, Choice) or isinstance(value, bool | str) or (dimension.log and value <= 0):
        return None
    low, high = min(dimension.low, value), max(dimension.high, value)
    if isinstance(dimension, Float):
        return FloatDistribution(low, high, log=dimension.log)
    return IntDistribution(int(low), int(high), log=dimension.log) if value == int(value) else None
