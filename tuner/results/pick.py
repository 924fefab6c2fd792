"""Which trial of the front a person wants, as `python -m tuner.best --pick` takes it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, cast

from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.spec.study import StudySpec
from tuner.spec.study_tables import Objective
from tuner.spec.validation_errors import nearest

_FORMS = "knee, max:METRIC, min:METRIC or within:METRIC=VALUE"


class Pick(NamedTuple):
    """A rule that takes one trial of the front."""

    rule: Literal["knee", "max", "min", "within"]
    metric: str = ""
    limit: float = 0.0
    """Of within: the value that the metric must keep, or be better than."""


def read_pick(text: str) -> Pick:
    """Raises StudyError if the text has another form."""
    rule, _, rest = text.partition(":")
    metric, _, limit = rest.rpartition("=") if rule == "within" else (rest, "", "0")
    try:
        value = float(limit)
    except ValueError:
        value = math.nan
    forms = {"knee": text == "knee", "max": bool(metric), "min": bool(metric), "within": bool(metric)}
    if not forms.get(rule) or not math.isfinite(value):
        raise StudyError(f"--pick: {_FORMS} is needed, got {text!r}; for example --pick max:val/mean_iou")
    return Pick(cast(Literal["knee", "max", "min", "within"], rule), metric, value)


def picked(record: StudyRecord, pick: Pick) -> TrialRecord:
    """The trial of the front that the rule takes: the one with the best value of a metric; or of those that keep its
    limit, the best by the first of the other objectives. Raises StudyError if there is none.
    """
    front, spec = record.front(), record.spec
    if len(spec.objectives) == 1:
        raise StudyError(
            f"--pick: is for studies with several objectives, and {spec.name} has one, to {spec.goal}; leave --pick out"
        )
    assert front, "a study with several objectives has a front as soon as a trial can win"
    if pick.rule == "knee":
        return record.ranking()[0]
    place = _place(spec, pick)
    objective = spec.objectives[place]
    if pick.rule == "within":
        within = [trial for trial in front if not objective.better(pick.limit, trial.values[place])]
        if not within:
            best = max((trial.values[place] for trial in front), key=objective.signed)
            raise StudyError(
                f"--pick within:{pick.metric}={pick.limit:g}: no trial of the front has {_at(objective)} "
                f"{pick.limit:g}, the best has {best:.6g}; give another limit"
            )
        other = 1 if place == 0 else 0
        return max(within, key=lambda trial: spec.objectives[other].signed(trial.values[other]))
    return max(front, key=lambda trial: objective.signed(trial.values[place]))


def _place(spec: StudySpec, pick: Pick) -> int:
    """The metric's among the objectives."""
    metrics = [objective.metric for objective in spec.objectives]
    if pick.metric not in metrics:
        raise StudyError(
            f"--pick {pick.rule}:{pick.metric}: must name an objective ({', '.join(metrics)})"
            + nearest(pick.metric, metrics).replace("; remove it", "; give one of these")
        )
    place = metrics.index(pick.metric)
    fitting = {"maximize": "max", "minimize": "min"}[spec.objectives[place].direction]
    if pick.rule not in ("within", fitting):
        raise StudyError(
            f"--pick {pick.rule}:{pick.metric}: the study is to {spec.objectives[place]}; use {fitting}:{pick.metric}"
        )
    return place


def _at(objective: Objective) -> str:
    return f"{objective.metric} of at {'least' if objective.direction == 'maximize' else 'most'}"
