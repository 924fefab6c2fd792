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
    """Sees every report of a study, in the order of its events, and so can be rebuilt from them."""

    def decide(self, trial: int, epoch: int, best: float) -> bool:
        """Whether a trial stops, which has reported this epoch and whose best value so far is `best`.

        Asked again about the same report it answers the same.
        """

    def rewind(self, trial: int, epoch: int) -> None:
        """A trial continues from this epoch: what it reported of later ones is void."""


class NoEarlyStopping:
    """Every trial trains to its end."""

    def decide(self, trial: int, epoch: int, best: float) -> bool:
        del trial, epoch, best
        return False

    def rewind(self, trial: int, epoch: int) -> None:
        del trial, epoch


@dataclass(frozen=True)
class _Arrival:
    """A trial on a rung."""

    epoch: int
    """At which it came there: a rung may lie between two reports."""
    best: float
    """Greater is better."""
    stopped: bool


@dataclass
class _Rung:
    arrivals: dict[int, _Arrival] = field(default_factory=dict)
    """By trial."""
    _ordered: list[float] = field(default_factory=list)
    """Their values, the least first."""

    def add(self, trial: int, epoch: int, best: float, share: float) -> bool:
        """Returns whether the trial stops: whether it is worse than this share of those that came before."""
        stopped = bool(self._ordered) and best < self._quantile(share)
        self.arrivals[trial] = _Arrival(epoch, best, stopped)
        bisect.insort(self._ordered, best)
        return stopped

    def remove(self, trial: int) -> None:
        del self._ordered[bisect.bisect_left(self._ordered, self.arrivals.pop(trial).best)]

    def _quantile(self, share: float) -> float:
        """Interpolated linearly, to the last bit as numpy.percentile does."""
        place = share * (len(self._ordered) - 1)
        below = math.floor(place)
        low, high = self._ordered[below], self._ordered[min(below + 1, len(self._ordered) - 1)]
        part = place - below
        return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


class Asha:
    def __init__(self, objective: Objective, grace_epochs: int, reduction_factor: float):
        self._sign = 1.0 if objective.direction == "maximize" else -1.0
        self._grace_epochs, self._factor = grace_epochs, reduction_factor
        self._share = (1 - 1 / reduction_factor) * 100 / 100  # by way of percent, as Ray Tune rounds it
        self._rungs: list[_Rung] = []
        """The lowest first."""

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
        """How many rungs lie at this epoch or below."""
        if epoch < self._grace_epochs:
            return 0
        # The logarithm only guesses: it may be off by the last bit where a rung lies exactly at the epoch.
        rungs = max(0, int(math.log(epoch / self._grace_epochs, self._factor)) - 1)
        while self._grace_epochs * self._factor**rungs <= epoch:
            rungs += 1
        return rungs


def early_stopping(objective: Objective, scheduler: Scheduler) -> EarlyStopping:
    """What a study file's [scheduler] asks for."""
    if scheduler.name == "none":
        return NoEarlyStopping()
    return Asha(objective, scheduler.grace_epochs, scheduler.reduction_factor)
