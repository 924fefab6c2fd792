"""Early stopping: which trials train on, decided from their reports alone."""

from __future__ import annotations

from typing import Protocol

from tuner.search.schedulers.promotion import Promotion
from tuner.search.schedulers.rungs import Rung, Rungs, Verdict
from tuner.spec.study import Objective, Scheduler


class EarlyStopping(Protocol):
    """Decides on each report of a study, in the order of its events; replaying the events rebuilds its state."""

    def decide(self, trial: int, epoch: int, best: float) -> Verdict:
        """What becomes of a trial after its report of this epoch. best: its best value up to that epoch.

        The answer for a report that was already decided is the same again.
        """

    def resume(self, trial: int) -> None:
        """A paused trial resumes: its last report, decided once more, no longer pauses it."""

    def rewind(self, trial: int, epoch: int) -> None:
        """A trial was rewound to this epoch: its reports of later epochs no longer count."""


class NoEarlyStopping:
    """Every trial trains to its end."""

    def decide(self, trial: int, epoch: int, best: float) -> Verdict:
        del trial, epoch, best
        return Verdict.CONTINUE

    def resume(self, trial: int) -> None:
        del trial

    def rewind(self, trial: int, epoch: int) -> None:
        del trial, epoch


class Asha(Rungs):
    """Asynchronous successive halving in the stopping variant of Ray Tune, whose decisions it repeats.

    At each rung a trial stops if its best value so far is worse than the best 1 / reduction_factor of those that came
    there before it.
    """

    def __init__(self, objective: Objective, grace_epochs: int, reduction_factor: float):
        super().__init__(objective, grace_epochs, reduction_factor)
        self._share = (1 - 1 / reduction_factor) * 100 / 100  # in percent and back, which rounds as Ray Tune does

    def judge(self, rung: Rung, best: float) -> Verdict:
        return Verdict.STOP if best < rung.quantile(self._share) else Verdict.CONTINUE


def early_stopping(objective: Objective, scheduler: Scheduler) -> EarlyStopping:
    """The early stopping of a study file's [scheduler] table."""
    match scheduler.name:
        case "none":
            return NoEarlyStopping()
        case "promotion":
            return Promotion(objective, scheduler.grace_epochs, scheduler.reduction_factor)
        case "asha":
            return Asha(objective, scheduler.grace_epochs, scheduler.reduction_factor)
