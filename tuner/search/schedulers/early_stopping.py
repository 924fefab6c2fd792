"""Early stopping: which trials train on, decided from their reports alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tuner.search.schedulers.asha import Asha
from tuner.search.schedulers.hyperband import Hyperband
from tuner.search.schedulers.median import Median
from tuner.search.schedulers.promotion import Promotion
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study_tables import Objective, Scheduler


class EarlyStopping(Protocol):
    """Decides on each report of a study, in the order of its events; replaying the events rebuilds its state."""

    def decide(self, trial: int, epoch: int, best: Sequence[float]) -> Verdict:
        """What becomes of a trial after its report of this epoch.

        best: the values of the objectives at its best epoch up to that one.

        The answer for a report that was already decided is the same again.
        """

    def resume(self, trial: int) -> None:
        """A paused trial resumes: its last report, decided once more, no longer pauses it."""

    def rewind(self, trial: int, epoch: int) -> None:
        """A trial was rewound to this epoch: its reports of later epochs no longer count."""


class NoEarlyStopping:
    """Every trial trains to its end."""

    def decide(self, trial: int, epoch: int, best: Sequence[float]) -> Verdict:
        del trial, epoch, best
        return Verdict.CONTINUE

    def resume(self, trial: int) -> None:
        del trial

    def rewind(self, trial: int, epoch: int) -> None:
        del trial, epoch


def early_stopping(objectives: Sequence[Objective], scheduler: Scheduler) -> EarlyStopping:
    """The early stopping of a study file's [scheduler] table."""
    match scheduler.name:
        case "none":
            return NoEarlyStopping()
        case "promotion":
            return Promotion(objectives, scheduler.grace_epochs, scheduler.reduction_factor)
        case "hyperband":
            return Hyperband(objectives, scheduler.grace_epochs, scheduler.reduction_factor, scheduler.brackets)
        case "median":
            return Median(objectives, scheduler.grace_epochs)
        case "asha":
            return Asha(objectives, scheduler.grace_epochs, scheduler.reduction_factor)
