"""A study without training: random learning curves, on which the study's own early stopping decides, in simulated time.

It shows how far trials come and how long a study takes, before anything of it is known.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.search.schedulers.asha import Asha
from tuner.search.schedulers.control_trials import control_trials
from tuner.search.schedulers.early_stopping import early_stopping
from tuner.search.schedulers.promotion import Promotion, by_promise
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study import StudySpec
from tuner.spec.study_tables import Objective, Scheduler


@dataclass(frozen=True)
class Pace:
    """How fast a trial trains."""

    epoch_seconds: float
    startup_seconds: float = 0.0
    """Before its first epoch, and again when it resumes."""


@dataclass(frozen=True)
class Simulated:
    """What a simulated study came to."""

    reached: dict[int, int]
    """How many trials came to each of the epochs of `milestones`."""
    epochs: int
    """Of all trials together."""
    seconds: float
    most_paused: int
    """Of trials that were paused at the same time."""


def milestones(scheduler: Scheduler, full_length: int) -> list[int]:
    """The epochs at which trials are counted: the rungs, those of ASHA for the median rule, and the full length."""
    if scheduler.name == "none":
        return [full_length]
    rungs = Asha([_OBJECTIVE], scheduler.grace_epochs, scheduler.reduction_factor)
    return [*rungs.epochs_before(full_length), full_length]


def simulate(
    spec: StudySpec, full_length: int, slots: int, devices: float, paces: Sequence[Pace] | None, seed: int
) -> Simulated:
    """Simulate a study once; the same arguments give the same study.

    full_length: epochs of a trial that nothing stops. slots: trials at a time, each of which holds so many devices.
    paces: each trial trains as fast as one of them. None: it isn't known how fast trials train; an epoch then counts
    as a second, and nothing that is limited by time ends the study.
    """
    return _Simulation(spec, full_length, slots, devices, paces, seed).run()


_OBJECTIVE = Objective(metric="value")
_TRIALS = (25, 60, 200)
_LEARNT = {
    "gp_curves": ((-1.5, 4.0), (-0.5, 3.5), (0.0, 2.5)),
    "gp": ((-0.5, 4.5), (2.0, 7.5), (4.5, 12.0)),
    "tpe": ((-0.5, 4.5), (2.0, 7.5), (4.5, 12.0)),
    "cmaes": ((-1.5, 2.0), (-1.0, 2.5), (2.5, 6.5)),
    "nsga2": ((-1.5, 2.0), (-1.0, 2.5), (2.5, 6.5)),
}
_NOTHING_LEARNT = ((-1.5, 1.5),) * len(_TRIALS)
"""How much better, at least and at most, the last trials of a study of so many are than its first, on a scale on which
those of random hyperparameters have a standard Gumbel distribution. Measured on public learning curves
(docs/forecast.md); where nothing is learnt, the width is that of curves that differ from the simulated ones."""
_RISE = 4.0  # by which a curve rises; with less, the order of trials would hardly change from rung to rung


@dataclass
class _Trial:
    """A trial whose best value rises to `final`, half of the way in `half_life` epochs: such curves cross."""

    final: float
    half_life: float
    pace: Pace
    epoch: int = 0
    began: float = 0.0
    """When the epoch after `epoch` began, in simulated seconds."""

    def best(self) -> float:
        return self.final - _RISE * self.half_life / (self.epoch + self.half_life)


class _Simulation:
    def __init__(
        self, spec: StudySpec, full_length: int, slots: int, devices: float, paces: Sequence[Pace] | None, seed: int
    ):
        self._spec, self._full_length, self._slots, self._devices = spec, full_length, slots, devices
        self._paces = paces or [Pace(1.0)]
        self._random = random.Random(seed)
        self._learnt = self._random.uniform(*_learnt(spec))
        self._stopping = early_stopping([_OBJECTIVE], spec.scheduler)
        self._control = control_trials(spec)
        self._milestones = milestones(spec.scheduler, full_length)
        # The median rule compares at every epoch; the others decide nothing between their rungs.
        every = range(min(spec.scheduler.grace_epochs, full_length), full_length + 1)
        self._stops = list(every) if spec.scheduler.name == "median" else self._milestones
        self._trials: list[_Trial] = []
        self._running: list[tuple[float, int, int]] = []
        """(when it gets there, trial, epoch), a heap."""
        self._paused: set[int] = set()
        self._most_paused = 0
        self._now = self._held = 0.0
        """Simulated seconds, and device-seconds that trials have held."""
        limits = spec.budget.stop_when
        hours = [limits.device_hours or math.inf, (limits.cost or math.inf) / (limits.price_per_device_hour or 1)]
        known = paces is not None
        self._time_limit = (spec.budget.time_seconds or math.inf) if known else math.inf
        self._held_limit = 3600 * min(hours) if known else math.inf
        self._best, self._ended_since_best = -math.inf, 0

    def run(self) -> Simulated:
        self._fill()
        while self._running:
            at = self._running[0][0]
            rate = len(self._running) * self._devices
            limit = min(self._time_limit, self._now + (self._held_limit - self._held) / rate)
            if at >= limit or self._out_of_patience():
                self._drain(min(limit, at))
                break
            self._held += rate * (at - self._now)
            self._now, trial, epoch = heapq.heappop(self._running)
            self._reach(trial, epoch)
            if not self._out_of_patience():
                self._fill()
        epochs = [trial.epoch for trial in self._trials]
        reached = {milestone: sum(epoch >= milestone for epoch in epochs) for milestone in self._milestones}
        return Simulated(reached, sum(epochs), self._now, self._most_paused)

    def _fill(self) -> None:
        """Give each free slot a trial: a paused one that is among the best of those that came as far, or a new one."""
        while len(self._running) < self._slots:
            number = self._promoted()
            if number is None:
                if len(self._trials) == self._spec.budget.trials:
                    return
                number = self._new()
            trial = self._trials[number]
            trial.began = self._now + trial.pace.startup_seconds
            self._advance(number)

    def _new(self) -> int:
        half_life = self._full_length * self._random.uniform(0.02, 0.3)
        learnt = self._learnt * len(self._trials) / self._spec.budget.trials
        final = learnt - math.log(self._random.expovariate(1))
        self._trials.append(_Trial(final, half_life, self._random.choice(self._paces)))
        return len(self._trials) - 1

    def _promoted(self) -> int | None:
        if not self._paused:
            return None
        assert isinstance(self._stopping, Promotion)
        first = min(map(self._stopping.standing, self._paused), key=by_promise)
        if first.share_ahead >= 1 / self._spec.scheduler.reduction_factor:
            return None
        self._paused.remove(first.trial)
        self._stopping.resume(first.trial)
        return first.trial

    def _advance(self, number: int) -> None:
        """Let a trial train to the next epoch at which it may be stopped."""
        trial = self._trials[number]
        epoch = next(epoch for epoch in self._stops if epoch > trial.epoch)
        at = trial.began + (epoch - trial.epoch) * trial.pace.epoch_seconds
        heapq.heappush(self._running, (at, number, epoch))

    def _reach(self, number: int, epoch: int) -> None:
        trial = self._trials[number]
        trial.epoch, trial.began = epoch, self._now
        if trial.best() > self._best:
            self._best, self._ended_since_best = trial.best(), 0
        verdict = self._stopping.decide(number, epoch, [trial.best()]) if epoch < self._full_length else Verdict.STOP
        if number + 1 in self._control and epoch < self._full_length:  # the study counts its trials from 1
            verdict = Verdict.CONTINUE
        if verdict is Verdict.CONTINUE:
            self._advance(number)
        elif verdict is Verdict.STOP:
            self._ended_since_best += 1
        else:
            self._pause(number)

    def _pause(self, number: int) -> None:
        assert isinstance(self._stopping, Promotion)
        self._paused.add(number)
        if len(self._paused) > self._spec.scheduler.max_paused:
            self._paused.remove(max(map(self._stopping.standing, self._paused), key=by_promise).trial)
            self._ended_since_best += 1
        self._most_paused = max(self._most_paused, len(self._paused))

    def _out_of_patience(self) -> bool:
        patience = self._spec.budget.stop_when.no_improvement_trials
        return patience is not None and self._ended_since_best >= patience

    def _drain(self, at: float) -> None:
        """Let the running trials end at their next epoch after this time."""
        for due, number, epoch in self._running:
            trial = self._trials[number]
            epochs = max(1, math.ceil((at - trial.began) / trial.pace.epoch_seconds))
            self._now = max(self._now, min(due, trial.began + epochs * trial.pace.epoch_seconds))
            trial.epoch = min(epoch, trial.epoch + epochs)


def _learnt(spec: StudySpec) -> tuple[float, float]:
    """The least and the most of what a study's sampler learns, between those that were measured."""
    ends = zip(*_LEARNT.get(spec.search.sampler, _NOTHING_LEARNT), strict=True)
    low, high = (float(np.interp(math.log(spec.budget.trials), np.log(_TRIALS), end)) for end in ends)
    return low, high
