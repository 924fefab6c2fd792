"""Asynchronous workers in simulated time: an epoch takes one unit of a worker's, proposals take nothing.

A pause takes PAUSE_EPOCHS: the trial writes a checkpoint, and reads it when it resumes.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from benchmarks.curves.tasks import Array, Params, Task, regret
from tuner.search.schedulers.rungs import Verdict

PAUSE_EPOCHS = 0.2

Ending = Literal["finished", "stopped", "failed"]


class Method(Protocol):
    """A search, asked and told as a study does it."""

    def next(self) -> tuple[int, Params]:
        """A trial for a free worker: its number and its hyperparameters. A paused one resumes where it was."""

    def report(self, trial: int, epoch: int, value: float) -> Verdict:
        """A trial has finished an epoch."""

    def end(self, trial: int, state: Ending) -> None:
        """A trial has finished or failed, or was stopped as `report` said."""


@dataclass
class Run:
    """What one run of a method on a task found."""

    steps: list[tuple[float, float]] = field(default_factory=list)
    """(epochs spent by all workers, regret), at each improvement."""
    proposals: int = 0
    seconds: float = 0.0
    """Of the method's own computing."""

    def regret_at(self, epochs: float) -> float:
        return next((found for spent, found in reversed(self.steps) if spent <= epochs), 1.0)


def simulate(
    task: Task, method: Method, workers: int, budget: float, clock: Callable[[], float] = time.process_time
) -> Run:
    """budget: epochs of all workers together. clock: the CPU seconds that the method has used, from any start."""
    run, best = Run(), -math.inf
    sign = 1.0 if task.direction == "maximize" else -1.0
    curves: dict[int, Array] = {}
    reached: dict[int, int] = {}
    """The epoch after which each paused trial resumes."""
    # (time, worker, trial, epoch that it has finished then); epoch 0: the worker is free.
    queue: list[tuple[float, int, int, int]] = [(0.0, worker, 0, 0) for worker in range(workers)]
    while queue[0][0] * workers <= budget:
        now, worker, trial, epoch = heapq.heappop(queue)
        began = clock()
        verdict = Verdict.STOP
        if epoch:
            value = float(curves[trial][epoch - 1])
            if sign * value > best:
                best = sign * value
                run.steps.append((now * workers, regret(task, value)))
            verdict = _reported(method, task, trial, epoch, value)
        if verdict is Verdict.PAUSE:
            reached[trial] = epoch
        if verdict is not Verdict.CONTINUE:
            trial, params = method.next()
            if trial not in curves:
                run.proposals += 1
                curves[trial] = task.curve(params)
            epoch = reached.pop(trial, 0)
            now += PAUSE_EPOCHS if epoch else 0
        run.seconds += clock() - began
        heapq.heappush(queue, (now + 1, worker, trial, epoch + 1))
    return run


def _reported(method: Method, task: Task, trial: int, epoch: int, value: float) -> Verdict:
    """What becomes of the trial; STOP too if it has ended by itself."""
    ending: Ending
    if not math.isfinite(value):
        ending = "failed"
    elif (verdict := method.report(trial, epoch, value)) is Verdict.STOP:
        ending = "stopped"
    elif epoch == task.epochs:
        ending = "finished"
    else:
        return verdict
    method.end(trial, ending)
    return Verdict.STOP
