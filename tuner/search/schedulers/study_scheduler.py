"""What becomes of a study's trials after their reports: early stopping, repeats, and control trials."""

from __future__ import annotations

import math
from typing import NamedTuple

from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.search.schedulers.control_trials import control_trials
from tuner.search.schedulers.early_stopping import EarlyStopping, early_stopping
from tuner.search.schedulers.promotion import promotable
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study import StudySpec


class Ruling(NamedTuple):
    """What becomes of a trial after a report."""

    verdict: Verdict
    reason: str | None = None
    """Why it stops, for people."""
    spared: Verdict | None = None
    """What would have become of a control trial, if that is worth an event."""


class StudyScheduler:
    """Rules on each report after it has been applied to the record; the record alone rebuilds it."""

    def __init__(self, record: StudyRecord):
        self._record, self._spec = record, record.spec
        self._early_stopping = _replayed(record)
        self._control_trials = control_trials(record.spec, record.trials)

    def becomes_control_trial(self, number: int) -> bool:
        """Whether a trial that starts is one that early stopping leaves alone."""
        known = self._record.trials.get(number)
        return known.control if known else number in self._control_trials

    def decide(self, trial: TrialRecord, can_pause: bool) -> Ruling:
        """Rule on a trial's last report. The ruling on a report that was decided before is the same again."""
        stretch, best_epoch = self._spec.scheduler.stretch, trial.best_epoch
        # Others at its rung are of the fidelity that it has reported last.
        comparable = best_epoch is not None and stretch(best_epoch) == stretch(trial.epoch)
        best = _or_worst(self._spec, trial.values if comparable else ())
        verdict = self._early_stopping.decide(trial.id, trial.epoch, best)
        if verdict is Verdict.PAUSE and (not can_pause or trial.value is None):
            verdict = Verdict.CONTINUE if trial.value is not None else Verdict.STOP
        if trial.control:
            return Ruling(Verdict.CONTINUE, spared=verdict if self._is_spared(trial, verdict) else None)
        if twin := self._record.to_stop_as_repeat(trial):
            return Ruling(Verdict.STOP, f"its metrics have been those of trial {twin} in each epoch so far")
        if verdict is Verdict.STOP:
            breach = f": {trial.breach}" if trial.breach else ""
            return Ruling(verdict, f"{self._spec.scheduler.name} stopped it at epoch {trial.epoch}{breach}")
        return Ruling(verdict)

    def _is_spared(self, trial: TrialRecord, verdict: Verdict) -> bool:
        """Whether a control trial is spared something by now; not after the epoch that would have been its last."""
        if verdict is Verdict.CONTINUE or (trial.spared and not trial.spared[-1].paused):
            return False
        # If it were the one to resume, the slot that it gave up would have been its own again.
        return verdict is Verdict.STOP or promotable(self._record, [trial.id]) is None

    def resume(self, number: int) -> None:
        """A paused trial resumes: its last report, decided once more, no longer pauses it."""
        self._early_stopping.resume(number)

    def rewind(self, number: int, epoch: int) -> None:
        """A trial was rewound to this epoch: its reports of later epochs no longer count."""
        self._early_stopping.rewind(number, epoch)


def _or_worst(spec: StudySpec, values: tuple[float, ...]) -> tuple[float, ...]:
    """The values by which early stopping compares a trial: one that keeps no constraint is worse than any that does."""
    return values or spec.signed([-math.inf] * len(spec.objectives))


def _replayed(record: StudyRecord) -> EarlyStopping:
    """Early stopping after the reports in the record."""
    spec, stretch = record.spec, record.spec.scheduler.stretch
    found = early_stopping(spec.objectives, spec.scheduler)
    points = {number: dict(trial.points()) for number, trial in record.trials.items()}
    best: dict[int, tuple[tuple[float, ...], int]] = {}  # of each trial, and the stretch of fidelity that it is of
    for number, epoch in record.reports():
        values, (earlier, before) = points[number].get(epoch, ()), best.get(number, ((), 0))
        earlier = earlier if stretch(epoch) == before else ()
        if not values or (earlier and not spec.objective.better(values[0], earlier[0])):
            values = earlier
        best[number] = values, stretch(epoch)
        found.decide(number, epoch, _or_worst(spec, values))
    for trial in record.trials.values():
        if trial.state != "paused":
            found.resume(trial.id)
    return found
