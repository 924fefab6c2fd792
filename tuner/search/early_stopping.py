"""Early stopping: which trials train on, decided from their reports alone.

ASHA, asynchronous successive halving (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020), in
the stopping variant of Ray Tune, whose decisions it repeats: at epochs grace_epochs * reduction_factor ** k, the rungs,
a trial stops if its best value so far is worse than the best 1 / reduction_factor of those that came to the rung
before it.

The best so far, not the last: road IoU dips for an epoch and recovers, and a stop on a dip loses winners.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from typing import Protocol

from tuner.spec.study import Objective, Scheduler


class EarlyStopping(Protocol):
    """Decides on each report of a study, in the order of its events; replaying the events rebuilds its state."""

    def decide(self, trial: int, epoch: int, best: float) -> bool:
        """Whether a trial stops after its report of this epoch. best: its best value up to that epoch.

        The answer for a report that was already decided is the same again.
        """

    def rewind(self, trial: int, epoch: int) -> None:
        """A trial was rewound to this epoch: its reports of later epochs no longer count."""


class NoEarlyStopping:
    """Every trial trains to its end."""

    def decide(self, trial: int, epoch: int, best: float) -> bool:
        del trial, epoch, best
        return False

    def rewind(self, trial: int, epoch: int) -> None:
        del trial, epoch


@dataclass(frozen=True)
class _Arrival:
    """A trial that has reached a rung."""

    epoch: int
    """The epoch at which it reached the rung, which may lie between two reports."""
    best: float
    """Greater is better."""
    stopped: bool


@dataclass
class _Rung:
    arrivals: dict[int, _Arrival] = field(default_factory=dict)
    """By trial."""
    _ordered: list[float] = field(default_factory=list)
    """The values of all arrivals, ascending."""

    def add(self, trial: int, epoch: int, best: float, share: float) -> bool:
        """Add a trial. Returns whether it stops: whether `best` is below this quantile of the earlier arrivals."""
        stopped = bool(self._ordered) and best < self._quantile(share)
        self.arrivals[trial] = _Arrival(epoch, best, stopped)
        bisect.insort(self._ordered, best)
        return stopped

    def remove(self, trial: int) -> None:
        del self._ordered[bisect.bisect_left(self._ordered, self.arrivals.pop(trial).best)]

    def _quantile(self, share: float) -> float:
        """The linearly interpolated quantile, bit for bit that of numpy.percentile."""
        place = share * (len(self._ordered) - 1)
        below = math.floor(place)
        low, high = self._ordered[below], self._ordered[min(below + 1, len(self._ordered) - 1)]
        part = place - below
        return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


class Asha:
    def __init__(self, objective: Objective, grace_epochs: int, reduction_factor: float):
        self._sign = 1.0 if objective.direction == "maximize" else -1.0
        self._grace_epochs, self._factor = grace_epochs, reduction_factor
        self._share = (1 - 1 / reduction_factor) * 100 / 100  # in percent and back, which rounds as Ray Tune does
        self._rungs: list[_Rung] = []
        """By ascending epoch."""

    def decide(self, trial: int, epoch: int, best: float) -> bool:
        reached = self._reached(epoch)
        while len(self._rungs) < reached:
            self._rungs.append(_Rung())
        for rung in reversed(self._rungs[:reached]):
            there = rung.arrivals.get(trial)
            if there is None:
                return rung.add(trial, epoch, self._sign * best, self._share)
            if there.epoch == epoch:
                return there.stopped
        return False

    def rewind(self, trial: int, epoch: int) -> None:
        for rung in self._rungs:
            there = rung.arrivals.get(trial)
            if there is not None and there.epoch > epoch:
                rung.remove(trial)

    def _reached(self, epoch: int) -> int:
        """The number of rungs at or before this epoch."""
        if epoch < self._grace_epochs:
            return 0
        # The logarithm is only a first estimate: rounding makes it wrong where a rung lies exactly at the epoch.
        rungs = max(0, int(math.log(epoch / self._grace_epochs, self._factor)) - 1)
        while self._grace_epochs * self._factor**rungs <= epoch:
            rungs += 1
        return rungs


def early_stopping(objective: Objective, scheduler: Scheduler) -> EarlyStopping:
    """The early stopping of a study file's [scheduler] table."""
    if scheduler.name == "none":
        return NoEarlyStopping()
    return Asha(objective, scheduler.grace_epochs, scheduler.reduction_factor)
