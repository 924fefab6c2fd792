"""One trial, in the process that trains it: hyperparameters in, messages out."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tuner.errors import StorageUnavailableError, StudyError, TrialError
from tuner.spec import workload as workloads
from tuner.spec.study import StudySpec
from tuner.spec.workload import Snapshot
from tuner.storage.checkpoints import Progress, TrialCheckpoints, trial_folder
from tuner.storage.scratch import scratch
from tuner.storage.storage import Storage
from tuner.worker.isolation import gpu_share, is_tainted_by, isolated
from tuner.worker.messages import (
    Action,
    Assignment,
    Decision,
    End,
    FidelityChanged,
    Interruption,
    Message,
    Paused,
    Report,
    Send,
    StorageWait,
)
from tuner.worker.snapshot_writer import SnapshotWriter
from tuner.worker.storage_retry import StorageRetry, is_storage_failure
from tuner.worker.system_metrics import SystemMetrics, device_name


class TrialStopped(SystemExit):
    """Raised by `report` to stop a trial. It is a SystemExit, which a workload must not catch."""


class TrialPaused(SystemExit):
    """Raised by `report` to pause a trial, when its checkpoint is in the storage."""


class _FidelityChanges(SystemExit):
    """Raised by `report` where scheduler.fidelity has its next value, when the checkpoint is in the storage."""


def run_trial(
    assignment: Assignment, spec: StudySpec, study: Storage, *, device: Any, rank: int, send: Send, send_from_rank: Send
) -> bool:
    """Train with one set of hyperparameters, from the newest checkpoint if there is one, and send the trial's end.

    send: for messages that every rank sends at the same point. send_from_rank: for messages of this rank alone.
    Returns whether the process is tainted (tuner/worker/isolation.py) and must not run another trial.
    Raises what sending raises. An exception of the workload isn't raised: it is sent as the reason of the trial's end.
    """
    tainted, epoch = None, None
    while tainted is None:
        with contextlib.ExitStack() as stack:
            # Anew at each change of fidelity, as for a trial that was killed there and resumes.
            stack.enter_context(isolated(spec.search.seed + assignment.trial, assignment.gpus))
            reporter = _Reporter(
                assignment, spec, trial_folder(study, assignment.trial), device, rank, send, send_from_rank
            )
            stack.callback(reporter.close)
            tainted = _run_stretch(assignment, spec, reporter, device, stack, changed_at=epoch)
            epoch = reporter.epoch
    return tainted


def _run_stretch(
    assignment: Assignment,
    spec: StudySpec,
    reporter: _Reporter,
    device: Any,
    stack: contextlib.ExitStack,
    changed_at: int | None,
) -> bool | None:
    """Train until the trial ends or its fidelity changes. Returns whether the process is tainted; None: it changes.

    changed_at: the epoch after which the trial's fidelity has changed in this process; None if it begins or resumes.
    """
    try:
        try:
            _train(assignment, spec, reporter, device, stack, changed_at)
            reporter.end("finished")
        except TrialStopped as stopped:
            reporter.end("stopped", stopped.code)
        except TrialPaused:
            reporter.paused()
        except _FidelityChanges:
            return None
    except (Exception, SystemExit) as error:
        if reporter.sending_failed:
            raise
        if is_storage_failure(error):
            reporter.storage_failed(error)
            return False
        _write_traceback(reporter.folder)
        reporter.end("failed", _failure_message(error), tainted=is_tainted_by(error))
        return is_tainted_by(error)
    return False


def _train(
    assignment: Assignment,
    spec: StudySpec,
    reporter: _Reporter,
    device: Any,
    stack: contextlib.ExitStack,
    changed_at: int | None,
) -> None:
    workload = workloads.load(spec.workload)
    checkpoints = TrialCheckpoints(reporter.folder)
    newest, resume_from = None, None
    if reporter.retry.call("its newest checkpoint", checkpoints.newest):
        copy = stack.enter_context(scratch("resume"))
        newest = reporter.retry.call("its newest checkpoint", lambda: checkpoints.newest_intact(copy))
    if newest:
        progress, resume_from = newest
        reporter.resume(progress, is_known=progress.epoch == changed_at)
    else:
        reporter.begin()
    fidelity = spec.scheduler.fidelity_at(reporter.epoch + 1)
    config = workload.Config(**{**spec.fixed, **fidelity, **assignment.params})
    workload.train(config, report=reporter, resume_from=resume_from, device=device)


def _write_traceback(folder: Storage) -> None:
    # A full storage can't take it; the End message still carries the reason.
    with contextlib.suppress(StudyError):
        # The first rank to fail is the cause; the tracebacks of the others only show that they lost it.
        if folder.read_text("error.txt") is None:
            folder.write_text("error.txt", traceback.format_exc())


class _Reporter:
    """The `report` that a workload calls."""

    def __init__(
        self,
        assignment: Assignment,
        spec: StudySpec,
        folder: Storage,
        device: Any,
        rank: int,
        send: Send,
        send_from_rank: Send,
    ):
        self._device = device_name(device)
        self._system = SystemMetrics(device)
        self._spec, self._checkpoints, self._rank = spec, TrialCheckpoints(folder), rank
        self.folder = folder
        self._send_from_all, self._send_from_rank = send, send_from_rank
        self._progress = Progress()
        self.retry = StorageRetry(folder, self._wait_on)
        self._snapshots = SnapshotWriter(self._checkpoints, self.retry)
        self._keep = False
        self._startup_seconds = time.time() - assignment.suggested_at
        self.sending_failed = False
        """Whether sending a message raised: the exception is then not the workload's."""

    @property
    def epoch(self) -> int:
        """The last one that the trial has trained."""
        return self._progress.epoch

    def begin(self) -> None:
        """Start from the first epoch: an earlier attempt left no complete checkpoint."""
        if self._rank == 0:
            self._rewind(0)

    def resume(self, progress: Progress, *, is_known: bool = False) -> None:
        """Start from a checkpoint, and send its report again, since a kill may have lost it; not if the driver has
        decided on it in this very process (is_known).
        """
        self._progress = progress
        if is_known:
            return
        if self._rank == 0:
            self._rewind(progress.epoch)
            best = progress.best_epoch or 0
            self._snapshots.add_images(
                self.retry.call(f"the images of epoch {best}", lambda: self._checkpoints.images(best))
            )
        if self._report(resumable=True, resumed=True) is Action.PAUSE:
            raise TrialPaused

    def _rewind(self, epoch: int) -> None:
        self.retry.call(f"the checkpoints after epoch {epoch}", lambda: self._checkpoints.rewind(epoch))

    def __call__(self, metrics: dict[str, float], checkpoint: Path | Snapshot | None, /) -> None:
        value, *further = self._values(metrics)
        epoch = int(metrics["epoch"])
        before = self._progress
        self._check_stretch(before.epoch, epoch)
        outranks = self._spec.outranks(value, epoch, before.best_value, before.best_epoch)
        is_best = outranks and self._spec.broken_by(metrics) is None
        progress = self._progress = Progress(
            epoch=epoch,
            metrics=_finite_floats(metrics) | self._fidelity_metrics(epoch),
            best_value=value if is_best else before.best_value,
            best_epoch=epoch if is_best else before.best_epoch,
            further_best=further if is_best else before.further_best,
        )
        if self._rank > 0 or checkpoint is None:
            action = self._report(resumable=checkpoint is not None)
        elif isinstance(checkpoint, Path):
            self._publish(checkpoint, progress)
            action = self._report(resumable=True)
        else:
            self._snapshots.copy_if_best(progress, checkpoint)
            action = self._report(resumable=True)
            if action is Action.PAUSE or self._changes_after(epoch):
                self._snapshots.write(progress, checkpoint)
            else:
                self._snapshots.write_if_due(progress, checkpoint)
        if action is Action.PAUSE:
            raise TrialPaused
        if self._changes_after(epoch):
            self._change(checkpoint)

    def _changes_after(self, epoch: int) -> bool:
        return epoch in self._spec.scheduler.changes

    def _change(self, checkpoint: Path | Snapshot | None) -> None:
        """Leave the workload's training, which goes on from the epoch's checkpoint with the next fidelity."""
        if self._rank == 0 and checkpoint is None:
            raise TrialError(
                f"scheduler.fidelity: it changes after epoch {self.epoch}, and the workload must hand over a "
                "checkpoint there, but reported none"
            )
        decision = self._send(FidelityChanged(tuple(self._snapshots.images())))
        if decision.action is Action.STOP:
            raise TrialStopped(decision.reason)
        raise _FidelityChanges

    def _check_stretch(self, before: int, epoch: int) -> None:
        """A workload that reports every few epochs might train past a change. Raises TrialError."""
        for change in self._spec.scheduler.changes:
            if before < change < epoch:
                raise TrialError(
                    f"scheduler.fidelity: it changes after epoch {change}, which the workload must report, but it "
                    f"reported epoch {epoch} after epoch {before}; choose grace_epochs and reduction_factor so that "
                    "changes come at epochs that are reported"
                )

    def _fidelity_metrics(self, epoch: int) -> dict[str, float]:
        """The fields of scheduler.fidelity that are numbers, and which of its values this epoch was trained with."""
        if not self._spec.scheduler.fidelity:
            return {}
        values = self._spec.scheduler.fidelity_at(epoch)
        found = {f"fidelity/{name}": float(value) for name, value in values.items() if type(value) in (int, float)}
        return {"fidelity/stretch": 1.0 + self._spec.scheduler.stretch(epoch), **found}

    def _publish(self, checkpoint: Path, progress: Progress) -> None:
        if not checkpoint.is_dir():
            raise TrialError(
                f"epoch {progress.epoch}: the checkpoint must be a directory that is there, got {checkpoint}"
            )
        self._snapshots.add_images(
            self.retry.call(
                f"the checkpoint of epoch {progress.epoch}", lambda: self._checkpoints.publish(checkpoint, progress)
            )
        )

    def _report(self, *, resumable: bool, resumed: bool = False) -> Action:
        """Send the last report. Returns whether to continue or to pause; raises TrialStopped if the trial stops."""
        progress = self._progress
        best = None
        if resumed and progress.best_epoch is not None and progress.best_value is not None:
            best = progress.best_epoch, (progress.best_value, *progress.further_best)
        decision = self._send(
            Report(
                epoch=progress.epoch,
                metrics=progress.metrics,
                images=tuple(self._snapshots.images()),
                startup_seconds=self._startup_seconds,
                gpu_share=gpu_share(),
                resumable=resumable,
                resumed=resumed,
                best=best,
                device=self._device,
                system=self._system.sample() if self._rank == 0 else {},
            )
        )
        self._keep = decision.keep
        if decision.action is Action.STOP:
            raise TrialStopped(decision.reason)
        return decision.action

    def end(
        self, state: Literal["finished", "stopped", "failed"], reason: Any = None, *, tainted: bool = False
    ) -> None:
        """Write the trial's last images and weights to the storage, and send its End."""
        failed = state == "failed"
        if failed:
            self.retry.cancel()
        with contextlib.suppress(Exception) if failed else contextlib.nullcontext():
            self._snapshots.flush(self._keep and not failed)
        self._send(End(state, reason, tuple(self._snapshots.images()), tainted))

    def paused(self) -> None:
        self._send(Paused(tuple(self._snapshots.images())))

    def storage_failed(self, error: BaseException) -> None:
        """End this attempt, not the trial, since the storage or this machine's disk failed."""
        reason = error if isinstance(error, StorageUnavailableError) else self.retry.pause(error)
        self._send(Interruption(str(reason), storage=True))

    def close(self) -> None:
        self._snapshots.close()

    def _wait_on(self, sentence: str | None) -> bool:
        """Notify the driver that the trial waits for the storage. Returns whether to stop waiting."""
        with self._sending():
            return self._send_from_rank(StorageWait(sentence)).action is Action.STOP

    def _send(self, message: Message) -> Decision:
        with self._sending():
            return self._send_from_all(message)

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.sending_failed = True
            raise

    def _values(self, metrics: dict[str, float]) -> tuple[float, ...]:
        """Of all objectives. Raises TrialError if the report lacks one of them, or what else the study needs."""
        needed_at = {metric: place for place, metric in self._spec.needed_metrics()}
        for needed, place in {"epoch": "objective.metric", **needed_at}.items():
            if needed not in metrics:
                raise TrialError(f"{place}: the workload must report {needed!r}, but reported {', '.join(metrics)}")
        for name in needed_at:
            if not math.isfinite(metrics[name]):
                raise TrialError(f"epoch {metrics['epoch']:g}: {name} must be finite, got {metrics[name]}")
        return tuple(map(float, self._spec.values_of(metrics)))


def _finite_floats(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics as Python floats; those that are NaN or infinite are left out."""
    numbers = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _failure_message(error: BaseException) -> str:
    """The exception in one line; its traceback is in error.txt."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}, got {detail['input']!r}"
            for detail in error.errors()
        )
    text = str(error).strip().split("\n")[0] or "no message"
    # The text of a built-in exception often makes no sense without its name: that of KeyError('x') is just 'x'.
    return f"{type(error).__name__}: {text}" if type(error).__module__ == "builtins" else text
