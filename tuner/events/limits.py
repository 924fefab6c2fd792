"""Whether a study has reached a limit of its [budget] stop_when table, derived from its events as its state is."""

from __future__ import annotations

from typing import NamedTuple

from tuner.events.state import StudyRecord
from tuner.spec.study_tables import StopWhen

_NO_LIMITS = StopWhen()


class Limit(NamedTuple):
    """A limit that has been reached."""

    key: str
    """Of the study file's budget.stop_when table."""
    reason: str
    """Why the study ends, in words."""


def limit_reached(record: StudyRecord, now: float) -> Limit | None:
    """The first limit of budget.stop_when that the study has reached; None if it may go on.

    now: seconds since 1970, up to which running trials have held their devices.
    """
    stop_when, objective = record.spec.budget.stop_when, record.spec.objective
    if stop_when == _NO_LIMITS:  # at each report: looking through the running trials would take longer than the rest
        return None
    best = record.best_value
    if stop_when.value is not None and best is not None and not objective.better(stop_when.value, best):
        return Limit("value", f"{objective.metric} has reached {best:g} (budget.stop_when.value = {stop_when.value:g})")
    patience = stop_when.no_improvement_trials
    if patience is not None and record.ended_since_best >= patience:
        return Limit(
            "no_improvement_trials",
            f"{record.ended_since_best} trials have ended since "
            f"{'the best value was reached' if len(record.spec.objectives) == 1 else 'one last came to the front'} "
            f"(budget.stop_when.no_improvement_trials = {patience})",
        )
    hours = record.device_seconds(now) / 3600
    if stop_when.device_hours is not None and hours >= stop_when.device_hours:
        return Limit(
            "device_hours",
            f"trials have used {hours:.4g} device-hours (budget.stop_when.device_hours = {stop_when.device_hours:g})",
        )
    price = stop_when.price_per_device_hour
    if stop_when.cost is not None and price is not None and hours * price >= stop_when.cost:
        return Limit(
            "cost",
            f"trials have cost {hours * price:.4g}: {hours:.4g} device-hours at {price:g} each "
            f"(budget.stop_when.cost = {stop_when.cost:g})",
        )
    return None
