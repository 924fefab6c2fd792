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
    verdict: str
    """Whether the outcome is "as forecast", "less" or "more"; empty if nothing was forecast, or more is to come."""


def compare(record: StudyRecord, study: Storage) -> list[Comparison]:
    """A study's forecast beside what it came to so far; empty if it has none. study: its folder."""
    forecast = record.forecast
    if forecast is None:
        return []
    epochs = [trial.epoch for trial in record.trials.values()]
    found: list[tuple[str, str, Range | None, float, Callable[[Range], str]]] = [
        (f"trials_at_epoch_{at}", f"trials at epoch {at}", reach, sum(epoch >= at for epoch in epochs), whole)
        for at, reach in forecast.trials.items()
    ]
    found.append(("epochs", "epochs in all", forecast.epochs, sum(epochs), whole))
    found.append(("time", "time", forecast.hours, record.run_seconds / 3600, hours))
    kept = kept_bytes(record, study)
    if kept or forecast.kept_bytes:
        found.append(("checkpoints", "checkpoints at the end", forecast.kept_bytes, kept, byte_size))
    ended = record.state in ("finished", "failed")
    return [_compared(key, name, reach, came, text, ended) for key, name, reach, came, text in found]


def _compared(
    key: str, name: str, reach: Range | None, came: float, text: Callable[[Range], str], ended: bool
) -> Comparison:
    outcome = text(Range(came, came))
    if reach is None:
        return Comparison(key, name, "unknown", outcome, "")
    ends = [text(Range(end, end)) for end in (reach.low, reach.high)]
    if reach.low <= came <= reach.high or outcome in ends:  # a difference that isn't shown is none
        verdict = "as forecast"
    elif came > reach.high:
        verdict = "more"
    else:
        verdict = "less" if ended else ""
    return Comparison(key, name, text(reach), outcome, verdict)


def kept_bytes(record: StudyRecord, study: Storage) -> int:
    """The checkpoints of the trials whose weights are kept."""
    sizes = [TrialCheckpoints(trial_folder(study, trial.id)).size(trial.best_epoch or 0) for trial in record.kept()]
    return sum(size.weights for size in sizes if size)
