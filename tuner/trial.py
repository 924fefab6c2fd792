"""One trial, in the process that trains it: a setting in, reports out."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner import workload as workloads
from tuner.assignment import Assignment, Post, Tell
from tuner.checkpoints import Progress, TrialCheckpoints, trial_folder
from tuner.errors import RefusedError, StudyError, TrialError
from tuner.patience import Patience, is_refusal
from tuner.process import as_found, gpu_share, is_spoilt_by
from tuner.scratch import scratch
from tuner.snapshots import SnapshotWriter
from tuner.storage import Storage
from tuner.study import Objective, StudySpec
from tuner.workload import Snapshot


def run_trial(
    assignment: Assignment, spec: StudySpec, study: Storage, *, device: Any, rank: int, post: Post, tell: Tell
) -> bool:
    """Train one setting, from its newest checkpoint if it has one, and tell its end.

    Returns whether the process is spoilt by it (tuner/process.py) and must not run another trial.

    All ranks tell; rank 0 posts before it does. Raises what `post` and `tell` raise. A failure of the workload doesn't
    raise: it is told as the trial's end, with its reason.
    """
    folder = trial_folder(study, assignment.trial)
    checkpoints = TrialCheckpoints(folder)
    seed = spec.search.seed + assignment.trial
    with as_found(seed, assignment.gpus), contextlib.ExitStack() as stack:
        reporter = _Reporter(assignment, spec.objective, folder, rank, post, tell)
        stack.callback(reporter.close)
        try:
            workload = workloads.load(spec.workload)
            config = workload.Config(**{**spec.fixed, **assignment.params})
            newest, resume_from = None, None
            if reporter.patience.attempt("its newest checkpoint", checkpoints.newest):
                copy = stack.enter_context(scratch("resume"))
                newest = reporter.patience.attempt("its newest checkpoint", lambda: checkpoints.newest_whole(copy))
            if newest:
                progress, resume_from = newest
                reporter.go_on_from(progress)
            else:
                reporter.begin()
            workload.train(config, report=reporter, resume_from=resume_from, device=device)
            reporter.end()
        except (Exception, SystemExit) as error:
            if reporter.told_to_end:
                raise
            if is_refusal(error):
                reporter.refused(error)
                return False
            _write_traceback(folder)
            reporter.end(_sentence(error), spoilt=is_spoilt_by(error))
            return is_spoilt_by(error)
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
        folder: Storage,
        rank: int,
        post: Post,
        tell: Tell,
    ):
        self._objective, self._checkpoints, self._rank = objective, TrialCheckpoints(folder), rank
        self._post, self._tell = post, tell
        self._progress = Progress()
        self.patience = Patience(folder, self._say_refusal)
        self._snapshots = SnapshotWriter(self._checkpoints, self.patience)
        self._keep = False
        self._startup_seconds = time.time() - assignment.suggested_at
        self.told_to_end = False
        """Whether an exception came from `post` or `tell`: then it isn't the workload's."""

    def begin(self) -> None:
        """Start anew: what an attempt before left isn't whole."""
        if self._rank == 0:
            self._go_back_to(0)

    def go_on_from(self, progress: Progress) -> None:
        """Start from a checkpoint. Its report is told again: the kill may have come between the two."""
        self._progress = progress
        if self._rank == 0:
            self._go_back_to(progress.epoch)
            best = progress.best_epoch or 0
            self._snapshots.add_pictures(
                self.patience.attempt(f"the pictures of epoch {best}", lambda: self._checkpoints.pictures(best))
            )
        self._hand_on(told_before=True)

    def _go_back_to(self, epoch: int) -> None:
        self.patience.attempt(f"what came after epoch {epoch}", lambda: self._checkpoints.go_back_to(epoch))

    def __call__(self, metrics: dict[str, float], checkpoint: Path | Snapshot | None, /) -> None:
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
        if self._rank > 0 or checkpoint is None:
            self._hand_on()
        elif isinstance(checkpoint, Path):
            if not checkpoint.is_dir():
                raise TrialError(f"epoch {epoch}: the checkpoint must be a directory that is there, got {checkpoint}")
            progress = self._progress
            self._snapshots.add_pictures(
                self.patience.attempt(
                    f"the checkpoint of epoch {epoch}", lambda: self._checkpoints.publish(checkpoint, progress)
                )
            )
            self._hand_on()
        else:
            self._snapshots.hold(self._progress, checkpoint)
            self._hand_on()
            self._snapshots.go_on(self._progress, checkpoint)

    def end(self, failure: str | None = None, *, spoilt: bool = False) -> None:
        """Tell the trial's end. failure: why it failed."""
        if failure:
            self.patience.give_up()
        with contextlib.suppress(Exception) if failure else contextlib.nullcontext():
            self._snapshots.settle(self._keep and not failure)
        state = "failed" if failure else "finished"
        self._say({"end": {"state": state, "reason": failure}, "images": self._snapshots.pictures(), "spoilt": spoilt})

    def refused(self, error: BaseException) -> None:
        """Tell that the attempt is over, and the trial is not: the storage or this machine's disk refused something."""
        reason = error if isinstance(error, RefusedError) else self.patience.pause(error)
        self._say({"lost": str(reason), "refused": True})

    def _say_refusal(self, sentence: str | None) -> bool:
        with self._outside():
            return self._post({"refusal": sentence}).ask_tune

    def close(self) -> None:
        self._snapshots.close()

    def _hand_on(self, *, told_before: bool = False) -> None:
        """The report into the journal, then what must outlive the trial into the storage, if Tune may end it now."""
        progress = self._progress
        event: dict[str, Any] = {"epoch": progress.epoch, "best": progress.best_value, "ask_tune": False}
        if self._rank == 0:
            measured = {"metrics": progress.metrics, "startup_seconds": self._startup_seconds, "gpu_share": gpu_share()}
            report = {
                "epoch": progress.epoch,
                "report": measured,
                "told_before": told_before,
                "images": self._snapshots.pictures(),
            }
            if told_before:
                report["best"] = (progress.best_epoch, progress.best_value)
            with self._outside():
                answer = self._post(report)
            self._keep = answer.keep
            if answer.ask_tune:
                self._snapshots.settle(answer.keep)
                event |= {"ask_tune": True, "images": self._snapshots.pictures()}
        self._say(event)

    def _say(self, event: dict[str, Any]) -> None:
        with self._outside():
            self._tell(event)

    @contextlib.contextmanager
    def _outside(self) -> Iterator[None]:
        try:
            yield
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
