"""Rungs: the epochs at which trials are compared, and the best value with which each trial came there.

The best so far counts, not the last: road IoU dips for an epoch and recovers, and a stop on a dip loses winners.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from tuner.events.dominance import dominates
from tuner.spec.study_tables import Objective


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
    best: tuple[float, ...]
    """The values of the objectives; greater is better."""
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

    def standing(self, best: Sequence[float]) -> float:
        """The number by which a trial with these values is compared with the arrivals; greater is better."""
        return best[0]

    def add(self, trial: int, arrival: _Arrival) -> None:
        self.arrivals[trial] = arrival
        bisect.insort(self._ordered, arrival.best[0])

    def remove(self, trial: int) -> None:
        del self._ordered[bisect.bisect_left(self._ordered, self.arrivals.pop(trial).best[0])]


@dataclass
class RungOfSeveral(Rung):
    """A rung of a study with several objectives: trials are compared by how many arrivals dominate them.

    That is the rank of Fonseca, Fleming, Genetic Algorithms for Multiobjective Optimization, ICGA 1993. None dominates
    a trial of the front, which is therefore never worse than others.
    """

    _dominating: dict[int, int] = field(default_factory=dict)
    """By how many others each arrival is dominated."""

    def standing(self, best: Sequence[float]) -> float:
        return -float(sum(dominates(other.best, best) for other in self.arrivals.values()))

    def add(self, trial: int, arrival: _Arrival) -> None:
        self._count(arrival, 1)
        self._dominating[trial] = -int(self.standing(arrival.best))
        self.arrivals[trial] = arrival
        self._order()

    def remove(self, trial: int) -> None:
        del self._dominating[trial]
        self._count(self.arrivals.pop(trial), -1)
        self._order()

    def _count(self, arrival: _Arrival, change: int) -> None:
        for trial, other in self.arrivals.items():
            if dominates(arrival.best, other.best):
                self._dominating[trial] += change

    def _order(self) -> None:
        self._ordered = sorted(-float(count) for count in self._dominating.values())


class Rungs(ABC):
    """Decides on trials at rungs; each subclass says where they lie, and has a rule for those who come to one."""

    def __init__(self, objectives: Sequence[Objective]):
        self._objectives = objectives
        self._kind = Rung if len(objectives) == 1 else RungOfSeveral
        self._rungs: list[Rung] = []
        """By ascending epoch."""

    @abstractmethod
    def reached(self, epoch: int) -> int:
        """The number of rungs at or before this epoch."""

    @abstractmethod
    def judge(self, rung: Rung, best: float) -> Verdict:
        """What becomes of a trial that comes to a rung with this `standing` there, of which greater is better.

        rung: of those that came there before it.
        """

    def decide(self, trial: int, epoch: int, best: Sequence[float]) -> Verdict:
        """What becomes of a trial after its report of this epoch.

        best: the values of the objectives at its best epoch so far.
        A report that was decided before is decided the same.
        """
        reached = self.reached(epoch)
        while len(self._rungs) < reached:
            self._rungs.append(self._kind())
        for rung in reversed(self._rungs[:reached]):
            there = rung.arrivals.get(trial)
            if there is None:
                signed = tuple(o.signed(value) for o, value in zip(self._objectives, best, strict=True))
                verdict = self.judge(rung, rung.standing(signed))
                rung.add(trial, _Arrival(epoch, signed, verdict))
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

    def __init__(self, objectives: Sequence[Objective], grace_epochs: float, reduction_factor: float):
        super().__init__(objectives)
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
