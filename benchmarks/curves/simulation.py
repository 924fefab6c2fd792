"""Asynchronous workers in simulated time: an epoch takes one unit of a worker's, proposals take nothing."""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import dataclass, field
from typing import Literal, Protocol

from benchmarks.curves.tasks import Array, Params, Task, regret

Verdict = Literal["continue", "stop"]
Ending = Literal["finished", "stopped", "failed"]


class Method(Protocol):
    """A search, asked and told as a study does it."""

    def next(self) -> tuple[int, Params]:
        """A new trial for a free worker: its number and its hyperparameters."""

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


def simulate(task: Task, method: Method, workers: int, budget: float) -> Run:
    """budget: epochs of all workers together."""
    run, best = Run(), -math.inf
    sign = 1.0 if task.direction == "maximize" else -1.0
    curves: dict[int, Array] = {}
    # (time, worker, trial, epoch that it has finished then); epoch 0: the worker is free.
    queue: list[tuple[int, int, int, int]] = [(0, worker, 0, 0) for worker in range(workers)]
    while queue[0][0] * workers <= budget:
        now, worker, trial, epoch = heapq.heappop(queue)
        began = time.process_time()
        if epoch:
            value = float(curves[trial][epoch - 1])
            if sign * value > best:
                best = sign * value
                run.steps.append((now * workers, regret(task, value)))
            goes_on = _reported(method, task, trial, epoch, value)
        else:
            goes_on = False
        if not goes_on:
            trial, params = method.next()
            run.seconds += time.process_time() - began
            run.proposals += 1
            curves[trial], epoch = task.curve(params), 0
        else:
            run.seconds += time.process_time() - began
        heapq.heappush(queue, (now + 1, worker, trial, epoch + 1))
    return run


def _reported(method: Method, task: Task, trial: int, epoch: int, value: float) -> bool:
    """Whether the trial goes on."""
    ending: Ending
    if not math.isfinite(value):
        ending = "failed"
    elif method.report(trial, epoch, value) == "stop":
        ending = "stopped"
    elif epoch == task.epochs:
        ending = "finished"
    else:
        return True
    method.end(trial, ending)
    return False
