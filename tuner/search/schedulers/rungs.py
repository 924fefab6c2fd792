"""Rungs: the epochs at which trials are compared, and the best value with which each trial came there.

The best so far counts, not the last: road IoU dips for an epoch and recovers, and a stop on a dip loses winners.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from enum import Enum

from tuner.spec.study import Objective


class Verdict(Enum):
    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"
    """The trial's slot goes to another; it may resume later."""


@dataclass(frozen=True)
class _Arrival:
    """A trial that has reached a rung."""

    epoch: int
    """The epoch at which it reached the rung, which may lie between two reports."""
    best: float
    """Greater is better."""
    verdict: Verdict


@dataclass
class Rung:
    arrivals: dict[int, _Arrival] = field(default_factory=dict)
    """By trial."""
    _ordered: list[float] = field(default_factory=list)
    """The values of all arrivals, ascending."""

    @property
    def best(self) -> float:
        """Of all arrivals; negative infinity if there is none."""
        return self._ordered[-1] if self._ordered else -math.inf

    def quantile(self, share: float) -> float:
        """The linearly interpolated quantile, bit for bit that of numpy.percentile; negative infinity if empty."""
        if not self._ordered:
            return -math.inf
        place = share * (len(self._ordered) - 1)
        below = math.floor(place)
        low, high = self._ordered[below], self._ordered[min(below + 1, len(self._ordered) - 1)]
        if math.isinf(low):
            return low  # of trials that keep no constraint; nothing lies between them and the others
        part = place - below
        return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part

    def share_ahead(self, best: float) -> float:
        """The share of all arrivals with a better value."""
        return 1 - bisect.bisect_right(self._ordered, best) / len(self._ordered)

    def add(self, trial: int, arrival: _Arrival) -> None:
        self.arrivals[trial] = arrival
        bisect.insort(self._ordered, arrival.best)

    def remove(self, trial: int) -> None:
        del self._ordered[bisect.bisect_left(self._ordered, self.arrivals.pop(trial).best)]


class Rungs(ABC):
    """Decides on trials at rungs; each subclass says where they lie, and has a rule for those who come to one."""

    def __init__(self, objective: Objective):
        self._sign = 1.0 if objective.direction == "maximize" else -1.0
        self._rungs: list[Rung] = []
        """By ascending epoch."""

    @abstractmethod
    def reached(self, epoch: int) -> int:
        """The number of rungs at or before this epoch."""

    @abstractmethod
    def judge(self, rung: Rung, best: float) -> Verdict:
        """What becomes of a trial that comes to a rung with this best value, of which greater is better.

        rung: of those that came there before it.
        """

    def decide(self, trial: int, epoch: int, best: float) -> Verdict:
        """What becomes of a trial after its report of this epoch. best: its best value so far.

        A report that was decided before is decided the same.
        """
        reached = self.reached(epoch)
        while len(self._rungs) < reached:
            self._rungs.append(Rung())
        for rung in reversed(self._rungs[:reached]):
            there = rung.arrivals.get(trial)
            if there is None:
                verdict = self.judge(rung, self._sign * best)
                rung.add(trial, _Arrival(epoch, self._sign * best, verdict))
                return verdict
            if there.epoch == epoch:
                return there.verdict
        return Verdict.CONTINUE

    def resume(self, trial: int) -> None:
        """A paused trial resumes: its last report, if it is decided once more, no longer pauses it."""
        for rung in self._rungs:
            there = rung.arrivals.get(trial)
            if there is not None and there.verdict is Verdict.PAUSE:
                rung.arrivals[trial] = replace(there, verdict=Verdict.CONTINUE)

    def rewind(self, trial: int, epoch: int) -> None:
        """A trial was rewound to this epoch: its reports of later epochs no longer count."""
        for rung in self._rungs:
            there = rung.arrivals.get(trial)
            if there is not None and there.epoch > epoch:
                rung.remove(trial)


class GeometricRungs(Rungs):
    """Rungs at epochs grace_epochs * reduction_factor ** k, as those of ASHA.

    Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020.
    """

    def __init__(self, objective: Objective, grace_epochs: float, reduction_factor: float):
        super().__init__(objective)
        self._grace_epochs, self._factor = grace_epochs, reduction_factor

    def reached(self, epoch: int) -> int:
        if epoch < self._grace_epochs:
            return 0
        # The logarithm is only a first estimate: rounding makes it wrong where a rung lies exactly at the epoch.
        rungs = max(0, int(math.log(epoch / self._grace_epochs, self._factor)) - 1)
        while self._grace_epochs * self._factor**rungs <= epoch:
            rungs += 1
        return rungs

    def epochs_before(self, epoch: int) -> list[int]:
        """The first epoch at or after each rung, of those before this epoch, ascending."""
        return [each for each in range(1, epoch) if self.reached(each) > self.reached(each - 1)]
