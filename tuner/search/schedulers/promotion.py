"""Promotion: trials pause at rungs, and a free slot resumes the most promising of them or starts a new one.

After the promoting variant of ASHA, with two changes that save checkpoints: a trial that comes to a rung with the best
value of all continues at once, since it would be resumed first; one below the middle stops, since it would hardly be
resumed. The most promising paused trial is the one with the fewest others ahead of it where it paused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.events.dominance import dominated_by
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.search.extrapolation import at_rungs
from tuner.search.gaussian_process import Array
from tuner.search.schedulers.rungs import GeometricRungs, Rung, Verdict

_MIDDLE = 0.5


class Promotion(GeometricRungs):
    def judge(self, rung: Rung, best: float) -> Verdict:
        if best >= rung.best:
            return Verdict.CONTINUE
        return Verdict.STOP if best < rung.quantile(_MIDDLE) else Verdict.PAUSE

    def standing(self, trial: int) -> Standing:
        """As `standings` has it, for a trial that paused at the last rung that it has reached."""
        rung = next(rung for rung in reversed(self._rungs) if trial in rung.arrivals)
        there = rung.arrivals[trial]
        return Standing(trial, there.epoch, rung.share_ahead(rung.standing(there.best)))


@dataclass(frozen=True)
class Standing:
    """How a paused trial compares with all that came as far as it did."""

    trial: int
    epoch: int
    """At which it paused."""
    share_ahead: float
    """Of the trials that reached this epoch: those whose best value up to it is better."""


def standings(record: StudyRecord, paused: Sequence[int]) -> list[Standing]:
    """Of these trials, the most promising first: the least share ahead, of equal ones those that came furthest."""
    if not paused:
        return []
    epochs = sorted({record.trials[trial].epoch for trial in paused})
    place = {trial: row for row, trial in enumerate(record.trials)}
    values = _standings_at(record, epochs)
    found = []
    for trial in paused:
        epoch = record.trials[trial].epoch
        column = values[:, epochs.index(epoch)]
        ahead = np.count_nonzero(column > column[place[trial]]) / np.count_nonzero(np.isfinite(column))
        found.append(Standing(trial, epoch, float(ahead)))
    return sorted(found, key=by_promise)


def _standings_at(record: StudyRecord, epochs: Sequence[int]) -> Array:
    """(N, K): how each trial compares at each epoch, greater is better; NaN where it didn't come."""
    trials, first = list(record.trials.values()), record.spec.objective
    sign = first.signed(1.0)
    if len(record.spec.objectives) == 1:
        return at_rungs([dict(trial.curve) for trial in trials], epochs, sign, record.spec.scheduler.changes)
    found = np.full((len(trials), len(epochs)), np.nan)
    for column, epoch in enumerate(epochs):
        came = [row for row, trial in enumerate(trials) if trial.epoch >= epoch and trial.curve]
        found[came, column] = -np.array(dominated_by([_signed_at(record, trials[row], epoch) for row in came]))
    return found


def _signed_at(record: StudyRecord, trial: TrialRecord, epoch: int) -> tuple[float, ...]:
    """A trial's values at its best epoch up to this one, or at its first if that came later; greater is better."""
    points = [values for at, values in trial.points() if at <= epoch] or [trial.points()[0][1]]
    return max(map(record.spec.signed, points), key=lambda signed: signed[0])


def promotable(record: StudyRecord, paused: Sequence[int]) -> int | None:
    """Of these trials the one to resume before a new trial starts, if any: among the best of those that came as far."""
    best = standings(record, paused)[:1]
    return best[0].trial if best and best[0].share_ahead < 1 / record.spec.scheduler.reduction_factor else None


def by_promise(standing: Standing) -> tuple[float, int, int]:
    """The key that sorts the most promising first."""
    return standing.share_ahead, -standing.epoch, standing.trial
