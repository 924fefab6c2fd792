"""What the epochs at which early stopping compares trials said of their ends."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.events.control_outcome import best_by
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.search.schedulers.asha import Asha
from tuner.search.schedulers.reliability import Correlation, control_correlation, rank_correlation
from tuner.spec.study_tables import Scheduler

LEAST_TRIALS = 5
"""With fewer that ran to the end no rank correlation is given."""


@dataclass(frozen=True)
class Rung:
    """One epoch at which trials are compared."""

    epoch: int
    came: int
    """How many trials came there."""
    finished: int
    """How many of them ran to their end."""
    correlation: float | None
    """Spearman's, of these, between the best values by this epoch and by the end; None of too few, or of equals."""
    control: Correlation | None
    """The same of the control trials, which no rung has chosen."""
    winner_place: int
    """The winner's, among all that came there, by the best value so far."""
    kept: int
    """How many of those that came there early stopping keeps: the best of so many."""

    @property
    def misses_winner(self) -> bool:
        return self.winner_place > self.kept

    def warning(self, stopping: bool) -> str:
        """What it means that the winner isn't among those that are kept. stopping: whether the study stops trials."""
        lost = (
            "might have been stopped there, had it come later" if stopping else "would have been stopped there by asha"
        )
        return (
            f"At epoch {self.epoch} the winner was number {self.winner_place} of {self.came}, not among the best "
            f"{self.kept}: it {lost}. Set scheduler.grace_epochs above {self.epoch} for the next study."
        )


def rungs(record: StudyRecord) -> list[Rung]:
    """Of a study in which a trial has run to its end, the epochs at which its scheduler compares, the earliest first.

    Without early stopping, those at which ASHA would. Empty as long as there is no winner.
    """
    ranking, scheduler = record.ranking(), record.spec.scheduler
    lengths = [trial.epoch for trial in ranking if trial.state == "finished"]
    if not lengths:
        return []
    epochs = Asha(record.spec.objectives, scheduler.grace_epochs, scheduler.reduction_factor).epochs_before(
        max(lengths)
    )
    winner = ranking[0]
    return [_rung(record, winner, epoch) for epoch in epochs if winner.curve[0][0] <= epoch <= winner.epoch]


def _rung(record: StudyRecord, winner: TrialRecord, epoch: int) -> Rung:
    there = [
        trial
        for trial in record.trials.values()
        if trial.state != "failed" and trial.curve and trial.curve[0][0] <= epoch <= trial.epoch
    ]
    at = {trial.id: best_by(record, trial, epoch) for trial in there}
    ends = [trial for trial in there if trial.state == "finished"]
    return Rung(
        epoch,
        len(there),
        len(ends),
        _correlation([at[trial.id] for trial in ends], [best_by(record, trial, trial.epoch) for trial in ends]),
        control_correlation(record, epoch),
        1 + sum(record.spec.objective.better(value, at[winner.id]) for value in at.values()),
        max(1, int(len(there) * _kept_share(record.spec.scheduler))),
    )


def _kept_share(scheduler: Scheduler) -> float:
    """Of the trials that come to a rung: how many early stopping lets train on, or pauses."""
    return 0.5 if scheduler.name in ("median", "promotion") else 1 / scheduler.reduction_factor


def _correlation(first: list[float], last: list[float]) -> float | None:
    found = rank_correlation(first, last)
    return found.value if found and len(first) >= LEAST_TRIALS else None
