"""One trial of a study, as its events tell it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tuner.events.event import TrialEnd, TrialSpared
from tuner.spec.study_tables import Constraint

TrialState = Literal["running", "paused", "interrupted"] | TrialEnd


@dataclass(frozen=True)
class Breach:
    """A report that doesn't keep a constraint of the study."""

    constraint: Constraint
    epoch: int
    value: float
    """The constraint's metric in this report."""

    def __str__(self) -> str:
        return f"{self.constraint.metric} must be {self.constraint}, got {self.value:g} at epoch {self.epoch}"


@dataclass(slots=True)
class TrialRecord:
    """One trial."""

    id: int
    params: dict[str, Any]
    state: TrialState = "running"
    began: float | None = None
    """When its present attempt began, in seconds since 1970; None if it isn't running."""
    last_seen: float = 0.0
    started: float = 0.0
    """When its first attempt began, in seconds since 1970."""
    ended: float | None = None
    """When it ended, in seconds since 1970; None while it is open."""
    earlier_seconds: float = 0.0
    """How long its attempts before the present one ran."""
    epoch: int = 0
    value: float | None = None
    """The best value so far of the objective, or of the first of several, of the epochs that keep the study's
    constraints."""
    best_epoch: int | None = None
    """By `value`."""
    values: tuple[float, ...] = ()
    """Of all objectives at that epoch; empty if there is none."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(epoch, value of the objective, or of the first of several), of the epochs that keep the study's constraints."""
    further: list[tuple[float, ...]] = field(default_factory=list)
    """The values of the objectives after the first at the same epochs."""
    breaches: list[Breach] = field(default_factory=list)
    """The other epochs."""
    first_reports: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, hash of all metrics but times) up to the first report at or after scheduler.grace_epochs."""
    furthest: int = 0
    """The last epoch that it ever reported; after a kill, epochs up to this one may be replayed."""
    startup_seconds: float | None = None
    gpu_share: float | None = None
    """Its peak share of its GPU's memory, 0 to 1."""
    device: str | None = None
    """The device that it trains on, or trained on last."""
    reason: str | None = None
    infeasible: bool = False
    """Whether it has failed by its training and not by its process or machine: its hyperparameters can't work."""
    worst_by_then: tuple[float, ...] = ()
    """The worst value of each objective that any trial of the study had reported when this one ended."""
    devices: float = 1.0
    """How many its newest attempt holds: GPUs, or CPUs if it has no GPU."""
    nodes: tuple[str, ...] = ()
    """Where its newest attempt has run: the node of each rank."""
    control: bool = False
    """Whether it is a control trial, which early stopping leaves alone."""
    spared: tuple[TrialSpared, ...] = ()
    """Of a control trial: where early stopping would have paused it, and where it would first have stopped it."""

    @property
    def open(self) -> bool:
        return self.state in ("running", "paused", "interrupted")

    @property
    def breach(self) -> Breach | None:
        """The newest, of a trial none of whose epochs keeps the study's constraints."""
        return self.breaches[-1] if self.breaches and self.value is None else None

    @property
    def why(self) -> str | None:
        """Why it ended as it did, or has no value."""
        return self.reason or (str(self.breach) if self.breach and not self.open else None)

    def seconds(self, now: float) -> float:
        """How long it has run, without the time between its attempts."""
        return self.earlier_seconds + (now - self.began if self.began is not None else 0.0)

    def points(self) -> list[tuple[int, tuple[float, ...]]]:
        """(epoch, values of all objectives), of the epochs that keep the study's constraints."""
        return [(epoch, (value, *more)) for (epoch, value), more in zip(self.curve, self.further, strict=True)]

    def pause(self, at: float) -> None:
        """End the present attempt at this time, in seconds since 1970."""
        self.earlier_seconds, self.began = self.seconds(at), None
