"""Whether early stopping can be believed: how well an epoch orders the ends of control trials, and what it would cost.

Trials that ran to their end because no rung stopped them are those that the rungs preferred. Control trials aren't.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.events.control_outcome import (
    ControlOutcome,
    best_by,
    control_outcome,
    control_sentence,
    ended_control_trials,
)
from tuner.events.state import StudyRecord
from tuner.search.schedulers.asha import Asha

LEAST_TRIALS = 4
"""With fewer no rank correlation is given: its interval would be everything."""
# Rank correlations with the end: at which trials may be compared, and at which they had better not be. On made-up
# curves of 30 trials, six of them control trials, a warning came in 70 to 77 % of the studies whose first epochs say
# nothing of the end, in 5 to 12 % of those with many trials as good as the best, and in 0 to 2 % of the others.
_GOOD, _LITTLE = 0.7, 0.3


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation, and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def rank_correlation(first: Sequence[float], last: Sequence[float]) -> Correlation | None:
    """None of fewer than four pairs, and where all of one side are equal.

    A bootstrap of so few is too sure of itself: of four in one order, all samples are. So the interval is by Fisher's
    transformation, with a perfect order taken as half a step short of one.
    Source: Bonett, Wright, Sample size requirements for estimating correlations, Psychometrika 2000.
    """
    count = len(first)
    if count < LEAST_TRIALS or len(set(first)) == 1 or len(set(last)) == 1:
        return None
    value = statistics.correlation(_ranks(first), _ranks(last))
    most = 1 - 6 / (count**3 - count)  # two neighbours that change places take twice the difference from 1
    inner = max(-most, min(most, value))
    spread = 1.96 * math.sqrt((1 + inner**2 / 2) / (count - 3))
    low, high = math.tanh(math.atanh(inner) - spread), math.tanh(math.atanh(inner) + spread)
    return Correlation(value, -1.0 if inner == -most else low, 1.0 if inner == most else high)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in values]


def control_correlation(record: StudyRecord, epoch: int) -> Correlation | None:
    """Between the control trials' best values by this epoch and by their end, of those that ran on after it."""
    trials = [trial for trial in ended_control_trials(record) if trial.curve[0][0] <= epoch < trial.epoch]
    by = [best_by(record, trial, epoch) for trial in trials]
    return rank_correlation(by, [best_by(record, trial, trial.epoch) for trial in trials])


def reliability(record: StudyRecord) -> list[str]:
    """Sentences on a study's control trials, of which the last may be a warning; none for a study without any."""
    sentence = control_sentence(record)
    if sentence is None:
        return []
    said = [f"{correlation} at epoch {epoch}" for epoch, correlation in control_correlations(record).items()]
    correlations = f"The control trials' rank correlation with the end: {', '.join(said)}" if said else None
    problem = warning(record)
    found = [sentence, correlations, f"warning: {problem}" if problem else None]
    return [each for each in found if each is not None]


def control_correlations(record: StudyRecord) -> dict[int, Correlation]:
    """At each epoch at which trials are compared; for the median rule, at those of ASHA."""
    scheduler = record.spec.scheduler
    rungs = Asha(record.spec.objectives, scheduler.grace_epochs, scheduler.reduction_factor)
    epochs = rungs.epochs_before(max((trial.epoch for trial in ended_control_trials(record)), default=0))
    found = {epoch: control_correlation(record, epoch) for epoch in epochs}
    return {epoch: correlation for epoch, correlation in found.items() if correlation is not None}


def warning(record: StudyRecord) -> str | None:
    """If early stopping would have cost the study its best value, or stops trials at an epoch that says little.

    A control trial that ends about as well as the best is no sign of it by itself: a search that has found good
    settings proposes many, and most of these are rightly stopped.
    """
    found = control_outcome(record)
    best = found.best_stopped if found else None
    if found is None or best is None or best.value is None:
        return None
    epoch = found.stopped[best.id]
    said = control_correlation(record, epoch)
    if record.spec.objective.better(best.value, found.left):
        return f"Early stopping would have lost the study's best value. {_fix(record, found, epoch, said)}"
    if said is not None and said.value < _LITTLE:
        return (
            f"Early stopping would stop trials at epoch {epoch}, which says little of their ends. "
            f"{_fix(record, found, epoch, said)}"
        )
    return None


def _fix(record: StudyRecord, found: ControlOutcome, epoch: int, said: Correlation | None) -> str:
    if said is None:
        return (
            f"Set scheduler.grace_epochs above {epoch} for the next study; {LEAST_TRIALS} control trials that run to "
            "their end say how far"
        )
    there = f"The control trials' rank correlation with the end is {said} at epoch {epoch}"
    good: tuple[int, Correlation] | None = None
    # The first epoch from which on it is good: at a single one it may be by chance.
    for later in reversed(range(epoch + 1, min(trial.epoch for trial in found.trials))):
        correlation = control_correlation(record, later)
        if correlation is None or correlation.value < _GOOD:
            break
        good = later, correlation
    if good is None:
        return f'{there}, and not good enough up to the end: set scheduler.name = "none" for the next study'
    return f"{there}, and {good[1]} at {good[0]}: set scheduler.grace_epochs = {good[0]} for the next study"
