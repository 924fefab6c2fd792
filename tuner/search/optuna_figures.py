"""Optuna's own figures of a study, as plotly figures."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.events.state import StudyRecord
from tuner.search.importance import Importance
from tuner.search.optuna_study import frozen_trials, optuna_study

MAX_TRIALS = 150
"""As many the figures show that have a line or a row of a grid for each trial: a browser draws more only slowly."""


def parallel_coordinates(record: StudyRecord) -> Any:
    """A line for each trial over all hyperparameters; of many trials, some spread evenly over the ranking."""
    return optuna.visualization.plot_parallel_coordinate(_spread(record), target_name=record.spec.objective.metric)


def slices(record: StudyRecord, names: list[str]) -> Any:
    """Every trial's value over each of these hyperparameters."""
    return optuna.visualization.plot_slice(optuna_study(record), params=names, target_name=record.spec.objective.metric)


def contour(record: StudyRecord, first: str, second: str) -> Any:
    """The objective over two hyperparameters; of many trials, of some spread evenly over the ranking."""
    return optuna.visualization.plot_contour(
        _spread(record), params=[first, second], target_name=record.spec.objective.metric
    )


def pareto_front(record: StudyRecord) -> Any:
    """Every trial over two objectives: those that the front dominates, then the front's."""
    names = [objective.metric for objective in record.spec.objectives]
    return optuna.visualization.plot_pareto_front(optuna_study(record, several=True), target_names=names)


def importance_bars(record: StudyRecord, found: list[Importance]) -> Any:
    """Optuna's bars, with the range of the resamples on each."""
    trials = frozen_trials(record)
    of_each = {one.name: next(trial for trial in trials if one.name in trial.distributions) for one in found}
    few = {trial.number: trial for trial in of_each.values()}
    figure = optuna.visualization.plot_param_importances(
        optuna_study(record, [few[number] for number in sorted(few)]),
        evaluator=_known(found),
        target_name=record.spec.objective.metric,
    )
    by_name = {importance.name: importance for importance in found}
    for bars in figure.data:
        shown = [by_name[name] for name in bars.y]
        bars.error_x = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, one.high - one.share) for one in shown],
            "arrayminus": [max(0.0, one.share - one.low) for one in shown],
        }
    return figure


def _known(found: list[Importance]) -> optuna.importance.BaseImportanceEvaluator:
    """Importances that have been estimated already, with care and time."""

    # A class of this module would import scikit-learn, seconds of a study whose report has too few trials for it.
    class Known(optuna.importance.BaseImportanceEvaluator):
        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            return {one.name: one.share for one in found}

    return Known()


def has_values_of_both(record: StudyRecord, first: str, second: str) -> bool:
    """Whether trials took at least two values of each of two hyperparameters together: else there is no contour."""
    both = [trial.params for trial in _complete(record) if first in trial.params and second in trial.params]
    return all(len({params[name] for params in both}) > 1 for name in (first, second))


def _spread(record: StudyRecord) -> optuna.Study:
    ranking = sorted(_complete(record), key=lambda trial: trial.value or 0.0)
    chosen = ranking
    if len(ranking) > MAX_TRIALS:
        last = len(ranking) - 1
        chosen = [ranking[round(place * last / (MAX_TRIALS - 1))] for place in range(MAX_TRIALS)]
    return optuna_study(record, sorted(chosen, key=lambda trial: trial.number))


def _complete(record: StudyRecord) -> list[FrozenTrial]:
    return [trial for trial in frozen_trials(record) if trial.state == TrialState.COMPLETE]
