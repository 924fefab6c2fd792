"""What a study is forecast to take, as its first event has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """What is between these two, both included, in eight of ten simulations."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Forecast:
    """What a study is forecast to take from its first trial to its last. None: nothing is known of that."""

    trials: dict[int, Range]
    """How many come to each of these epochs."""
    epochs: Range
    """Of all trials together."""
    hours: Range | None = None
    kept_bytes: Range | None = None
    """The checkpoints that stay at the end."""
    most_bytes: float | None = None
    """The most that checkpoints take while the study runs."""
    notes: tuple[str, ...] = ()
    """Sentences: what the forecast rests on, and what it doesn't know."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Forecast | None:
        """The inverse of `to_json`; None for a forecast of a later version, which may say something else."""
        try:
            trials = {int(epoch): Range(**ends) for epoch, ends in found["trials"].items()}
            epochs, hours, kept = (
                Range(**found[key]) if found[key] else None for key in ("epochs", "hours", "kept_bytes")
            )
            return cls(trials, epochs, hours, kept, found["most_bytes"], tuple(found["notes"])) if epochs else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def sentences(self) -> list[str]:
        """For a person, a line each."""
        trials = "; at ".join(f"{epoch}: {whole(reach)}" for epoch, reach in self.trials.items())
        found = [f"trials at epoch {trials}"]
        found.append(f"{whole(self.epochs)} epochs in all")
        if self.hours:
            found.append(hours(self.hours))
        if self.kept_bytes:
            most = f", at most {byte_size(Range(self.most_bytes, self.most_bytes))} before" if self.most_bytes else ""
            found.append(f"{byte_size(self.kept_bytes)} of checkpoints at the end{most}")
        return [*found, *self.notes]


def whole(reach: Range) -> str:
    return _between(f"{reach.low:,.0f}", f"{reach.high:,.0f}")


def hours(reach: Range) -> str:
    """In hours, minutes or seconds, whichever keeps the numbers small."""
    for unit, name in ((1, "hours"), (60, "minutes")):
        if reach.high * unit >= 2:
            return _in_units(reach, 1 / unit, name)
    return _in_units(reach, 1 / 3600, "seconds")


def byte_size(reach: Range) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if reach.high >= unit:
            return _in_units(reach, unit, name)
    return _in_units(reach, 1e3, "KB")


def _in_units(reach: Range, unit: float, name: str) -> str:
    low, high = (f"{end / unit:,.{1 if reach.high < 100 * unit else 0}f}" for end in (reach.low, reach.high))
    return f"{_between(low, high)} {name}"


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
