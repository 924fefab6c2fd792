"""Promotion: trials pause at rungs, and a free slot resumes the most promising of them or starts a new one.

After the promoting variant of ASHA, with two changes that save checkpoints: a trial that comes to a rung with the best
value of all continues at once, since it would be resumed first; one below the middle stops, since it would hardly be
resumed. The most promising paused trial is the one with the fewest others ahead of it where it paused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.events.state import StudyRecord
from tuner.search.extrapolation import at_rungs
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
        return Standing(trial, there.epoch, rung.share_ahead(there.best))


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
    sign = 1.0 if record.spec.objective.direction == "maximize" else -1.0
    epochs = sorted({record.trials[trial].epoch for trial in paused})
    place = {trial: row for row, trial in enumerate(record.trials)}
    values = at_rungs([dict(trial.curve) for trial in record.trials.values()], epochs, sign)
    found = []
    for trial in paused:
        epoch = record.trials[trial].epoch
        column = values[:, epochs.index(epoch)]
        ahead = np.count_nonzero(column > column[place[trial]]) / np.count_nonzero(np.isfinite(column))
        found.append(Standing(trial, epoch, float(ahead)))
    return sorted(found, key=by_promise)


def promotable(record: StudyRecord, paused: Sequence[int]) -> int | None:
    """Of these trials the one to resume before a new trial starts, if any: among the best of those that came as far."""
    best = standings(record, paused)[:1]
    return best[0].trial if best and best[0].share_ahead < 1 / record.spec.scheduler.reduction_factor else None


def by_promise(standing: Standing) -> tuple[float, int, int]:
    """The key that sorts the most promising first."""
    return standing.share_ahead, -standing.epoch, standing.trial
