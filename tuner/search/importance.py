"""How much of the objective each hyperparameter decides, and how sure that is.

The estimate is Optuna's PED-ANOVA (Watanabe, Bansal, Hutter, IJCAI 2023). Its uncertainty is the bootstrap's (Efron,
Annals of Statistics 1979): the same estimate on trials drawn with replacement.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.events.state import StudyRecord
from tuner.search.optuna_study import frozen_trials

RESAMPLES = 16
_MAX_TRIALS = 200  # of a resample: more take only time
_MIN_TRIALS = 4


@dataclass(frozen=True)
class Importance:
    """Of one hyperparameter: shares of 1."""

    name: str
    share: float
    low: float
    """The least and the greatest of the resamples; the share itself may lie outside."""
    high: float


def importances(record: StudyRecord) -> list[Importance]:
    """The most important first; none where no estimate is possible: few trials, or all with one value."""
    trials = [trial for trial in frozen_trials(record) if trial.state == TrialState.COMPLETE]
    if len(trials) < _MIN_TRIALS or len({trial.value for trial in trials}) < 2:
        return []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A seed of its own: a report that is made again says the same.
    draw = random.Random(0)
    whole = _estimate(record, trials)
    resamples = []
    for _ in range(RESAMPLES):
        chosen = draw.choices(trials, k=min(len(trials), _MAX_TRIALS))
        if len({trial.value for trial in chosen}) > 1:
            resamples.append(_estimate(record, chosen))
    found = []
    for name, share in sorted(whole.items(), key=lambda item: -item[1]):
        shares = [resample.get(name, 0.0) for resample in resamples or [whole]]
        found.append(Importance(name, share, min(shares), max(shares)))
    return found


def _estimate(record: StudyRecord, trials: list[FrozenTrial]) -> dict[str, float]:
    study = optuna.create_study(direction=record.spec.objective.direction)
    study.add_trials(trials)
    return optuna.importance.get_param_importances(study)
