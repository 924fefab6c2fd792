"""What early stopping would have done to a study's control trials, which it left alone."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord


@dataclass(frozen=True)
class ControlOutcome:
    """Of the control trials that ran to their end."""

    trials: tuple[TrialRecord, ...]
    """Best first."""
    stopped: dict[int, int]
    """Those that early stopping would have stopped, and at which epoch."""
    left: float
    """The best value that the study would have, had these been stopped there."""

    @property
    def best_stopped(self) -> TrialRecord | None:
        """The best of those that it would have stopped."""
        return next((trial for trial in self.trials if trial.id in self.stopped), None)


def control_outcome(record: StudyRecord) -> ControlOutcome | None:
    """None for a study without control trials, and as long as none has run to its end."""
    ranking, trials = record.ranking(), ended_control_trials(record)
    if not trials:
        return None
    epochs = {trial.id: would_stop_at(record, trial) for trial in trials}
    stopped = {trial: epoch for trial, epoch in epochs.items() if epoch is not None}
    ends = {trial.id: stopped.get(trial.id, trial.epoch) for trial in ranking}
    furthest = max(map(record.spec.scheduler.stretch, ends.values()))
    values = [
        best_by(record, trial, ends[trial.id])
        for trial in ranking
        if record.spec.scheduler.stretch(ends[trial.id]) == furthest
    ]
    return ControlOutcome(trials, stopped, _best(record, values))


def ended_control_trials(record: StudyRecord) -> tuple[TrialRecord, ...]:
    """Those that ran to their end, best first."""
    return tuple(trial for trial in record.ranking() if trial.control and trial.state == "finished")


def would_stop_at(record: StudyRecord, trial: TrialRecord) -> int | None:
    """The epoch at which early stopping would have stopped a control trial; None if it would have trained it on.

    At its last epoch nothing is lost. A trial that would have been paused counts as stopped there as long as so many
    others are ahead of it at this epoch that it would not have been resumed.
    """
    for spared in trial.spared if trial.curve else ():
        if trial.state == "finished" and spared.epoch >= trial.epoch:
            return None
        if not spared.paused or _share_ahead(record, trial, spared.epoch) >= 1 / record.spec.scheduler.reduction_factor:
            return spared.epoch
    return None


def _share_ahead(record: StudyRecord, trial: TrialRecord, epoch: int) -> float:
    """Of the trials that came to this epoch: those whose best value up to it is better."""
    trials = list(record.trials.values())  # a copy: the live table is drawn in another thread
    came = [best_by(record, other, epoch) for other in trials if other.curve and other.epoch >= epoch]
    own = best_by(record, trial, epoch)
    return sum(record.spec.objective.better(value, own) for value in came) / len(came)


def best_by(record: StudyRecord, trial: TrialRecord, epoch: int) -> float:
    """A trial's best value up to this epoch, at the last fidelity it had by then; its first if that came later."""
    reports = [report for report in trial.curve if report[0] <= epoch] or trial.curve[:1]
    stretch = record.spec.scheduler.stretch
    return _best(record, [value for at, value in reports if stretch(at) == stretch(reports[-1][0])])


def _best(record: StudyRecord, values: list[float]) -> float:
    return max(values) if record.spec.objective.direction == "maximize" else min(values)


def control_sentence(record: StudyRecord) -> str | None:
    """What early stopping would have done to the control trials, for a person; None for a study without any."""
    if not any(trial.control for trial in record.trials.values()):
        return None
    found, metric = control_outcome(record), record.spec.objective.metric
    if found is None:
        return "No control trial has run to its end"
    count, best = len(found.trials), found.best_stopped
    said = f"Early stopping would have stopped {len(found.stopped) or 'none'} of {count} control trials"
    if best is None:
        return said
    among = ", also the best of them" if best is found.trials[0] and count > 1 else ""
    return (
        f"{said}{among}. The best that it would have stopped, trial {best.id} at epoch {found.stopped[best.id]}, ended "
        f"at {metric} {best.value:.4g}; the best that it would have left is {found.left:.4g}"
    )
