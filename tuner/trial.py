"""One trial, in the process that trains it: a setting in, reports out."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner import workload as workloads
from tuner.assignment import Assignment, Tell
from tuner.checkpoints import Progress, TrialCheckpoints, report_payload, trial_folder
from tuner.errors import StudyError, TrialError
from tuner.process import as_found, gpu_share, is_spoilt_by
from tuner.storage import Storage
from tuner.study import Objective, StudySpec


def run_trial(assignment: Assignment, spec: StudySpec, study: Storage, *, device: Any, rank: int, tell: Tell) -> bool:
    """Train one setting, from its newest checkpoint if it has one, and tell its end.

    Returns whether the process is spoilt by it (tuner/process.py) and must not run another trial.

    Raises what `tell` raises. A failure of the workload doesn't raise: it is told as the trial's end, with its reason.
    """
    checkpoints = TrialCheckpoints(trial_folder(study, assignment.trial))
    seed = spec.search.seed + assignment.trial
    with as_found(seed, assignment.gpus), contextlib.ExitStack() as scratch:
        reporter = _Reporter(assignment, spec.objective, checkpoints, rank, tell)
        try:
            workload = workloads.load(spec.workload)
            config = workload.Config(**{**spec.fixed, **assignment.params})
            newest = checkpoints.newest()
            resume_from = None
            if newest:
                progress, name = newest
                # Made only where it is needed: a process that is killed leaves it behind.
                folder = Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="tuner-resume-")))
                resume_from = trial_folder(study, assignment.trial).get(name, folder)
                reporter.go_on_from(progress)
            workload.train(config, report=reporter, resume_from=resume_from, device=device)
        except (Exception, SystemExit) as error:
            if reporter.told_to_end:
                raise
            _write_traceback(trial_folder(study, assignment.trial))
            tell({"end": {"state": "failed", "reason": _sentence(error)}, "spoilt": is_spoilt_by(error)})
            return is_spoilt_by(error)
    tell({"end": {"state": "finished", "reason": None}})
    return False


def _write_traceback(folder: Storage) -> None:
    # A storage that is full can't take it; the reason is told all the same.
    with contextlib.suppress(StudyError):
        # The first rank to fail is the cause; how the others lose it would only hide that.
        if folder.read_text("error.txt") is None:
            folder.write_text("error.txt", traceback.format_exc())


class _Reporter:
    """The `report` that a workload calls."""

    def __init__(
        self,
        assignment: Assignment,
        objective: Objective,
        checkpoints: TrialCheckpoints,
        rank: int,
        tell: Tell,
    ):
        self._objective, self._checkpoints, self._rank, self._tell = objective, checkpoints, rank, tell
        self._progress = Progress()
        self._startup_seconds = time.time() - assignment.suggested_at
        self.told_to_end = False
        """Whether an exception came from `tell`: then it isn't the workload's."""

    def go_on_from(self, progress: Progress) -> None:
        """Start from a checkpoint. Its report is told again: the kill may have come between the two."""
        self._progress = progress
        self._hand_on(self._checkpoints.pictures(progress.epoch))

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None, /) -> None:
        value = self._value(metrics)
        epoch = int(metrics["epoch"])
        before = self._progress
        is_best = self._objective.better(value, before.best_value)
        self._progress = Progress(
            epoch=epoch,
            metrics=_plain(metrics),
            best_value=value if is_best else before.best_value,
            best_epoch=epoch if is_best else before.best_epoch,
        )
        images: list[str] = []
        if checkpoint is not None and self._rank == 0:
            images = self._checkpoints.publish(checkpoint, self._progress)
        self._hand_on(images)

    def _hand_on(self, images: list[str]) -> None:
        try:
            self._tell(report_payload(self._progress, self._startup_seconds, gpu_share(), images))
        except BaseException:
            self.told_to_end = True
            raise

    def _value(self, metrics: dict[str, float]) -> float:
        for needed in (self._objective.metric, "epoch"):
            if needed not in metrics:
                raise TrialError(
                    f"objective.metric: the workload must report {needed!r}, but reported {', '.join(metrics)}"
                )
        value = float(metrics[self._objective.metric])
        if not math.isfinite(value):
            raise TrialError(f"epoch {metrics['epoch']:g}: {self._objective.metric} must be finite, got {value}")
        return value


def _plain(metrics: dict[str, float]) -> dict[str, float]:
    """Python floats, whatever kind of number the workload has; a measure that is undefined (NaN) is left out."""
    numbers = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _sentence(error: BaseException) -> str:
    """One line for a person; the traceback lies in error.txt."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}, got {detail['input']!r}"
            for detail in error.errors()
        )
    text = str(error).strip().split("\n")[0] or "no message"
    # A builtin exception's text often makes no sense without its name: KeyError('x') reads just 'x'.
    return f"{type(error).__name__}: {text}" if type(error).__module__ == "builtins" else text
