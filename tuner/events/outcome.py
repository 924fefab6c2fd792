"""What a study came to, beside what was forecast of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tuner.events.forecast import Range, byte_size, hours, whole
from tuner.events.state import StudyRecord
from tuner.storage.checkpoints import TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage


@dataclass(frozen=True)
class Comparison:
    """One forecast number beside what it came to."""

    key: str
    name: str
    forecast: str
    outcome: str
    inside: bool | None
    """Whether the outcome lies in the range; None if one of them isn't known."""


def compare(record: StudyRecord, study: Storage) -> list[Comparison]:
    """A study's forecast beside what it came to so far; empty if it has none. study: its folder."""
    forecast = record.forecast
    if forecast is None:
        return []
    trials = list(record.trials.values())
    found = [
        _compared(f"trials_at_epoch_{epoch}", f"trials that come to epoch {epoch}", reach, came, whole)
        for epoch, reach in forecast.trials.items()
        for came in [sum(trial.epoch >= epoch for trial in trials)]
    ]
    found.append(_compared("epochs", "epochs", forecast.epochs, sum(trial.epoch for trial in trials), whole))
    found.append(_compared("time", "time", forecast.hours, record.run_seconds / 3600, hours))
    kept = kept_bytes(record, study)
    if kept or forecast.kept_bytes:
        found.append(_compared("checkpoints", "checkpoints at the end", forecast.kept_bytes, kept, byte_size))
    return found


def kept_bytes(record: StudyRecord, study: Storage) -> int:
    """The checkpoints of the study's best trials, whose weights are kept."""
    best = record.ranking()[: record.spec.checkpoints.keep]
    sizes = [TrialCheckpoints(trial_folder(study, trial.id)).size(trial.best_epoch or 0) for trial in best]
    return sum(size.weights for size in sizes if size)


def _compared(key: str, name: str, reach: Range | None, came: float, text: Callable[[Range], str]) -> Comparison:
    inside = reach.holds(came) if reach else None
    return Comparison(key, name, text(reach) if reach else "unknown", text(Range(came, came)), inside)
