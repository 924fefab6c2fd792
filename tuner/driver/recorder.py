"""Records what happens in a study: in the event log first, then in the study's record, then its readers are called."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tuner.checks.nodes import Placement, this_machine
from tuner.driver.control import StudyControl
from tuner.errors import StorageError
from tuner.events.event import (
    AttemptBegan,
    EpochReported,
    Event,
    ImagesStored,
    TrialEnd,
    TrialEnded,
    TrialPaused,
    TrialRewound,
    TrialSpared,
    TrialStarted,
)
from tuner.events.limits import limit_reached
from tuner.events.log import Journal
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.search.schedulers.rungs import Verdict
from tuner.search.schedulers.study_scheduler import StudyScheduler
from tuner.worker.messages import (
    Action,
    Begun,
    Decision,
    End,
    FidelityChanged,
    Interruption,
    Message,
    Paused,
    Report,
    StorageWait,
)

_DISK_FULL_RETRY_SECONDS = 10.0
_MAX_STARTS_FAILED_IN_A_ROW = 3  # of any trials, with no successful start in between
_CONTINUE, _STOP = Decision(Action.CONTINUE), Decision(Action.STOP)


def _no_node_drains(_: tuple[str, ...]) -> bool:
    return False


@dataclass
class StorageProblem:
    """A failure of the storage that a trial waits out."""

    since: float
    """time.monotonic() when it was first reported."""
    message: str
    solved_by_report: bool = False
    """Whether the failure ended the trial's attempt: the next report then shows that the storage works again."""


@dataclass
class _Attempt:
    """What is known of a trial's current attempt."""

    asked_to_begin: float | None = None
    """When it last asked whether it may begin, in seconds since 1970."""
    begun: bool = False
    """Whether all of its processes have started, on nodes that it may use."""
    nodes: tuple[str, ...] = ()
    """The ids of its nodes, once it has begun."""
    node_rejected: bool = False
    """Whether it may not run on its nodes, since one of them failed its check."""
    moving: bool = False
    """Whether it was told to leave its slot with a checkpoint, since a node of its will soon be gone."""
    interruption: Interruption | None = None
    killed: bool = False
    """Whether the driver kills its process."""
    end_when_killed: End | None = None
    """How the trial ends then; None if it is run again."""


class Outcome(NamedTuple):
    """What is to be done about a trial that Tune is done with."""

    ended: bool = True
    """Whether the trial has ended. If not, it is run again: the cause wasn't the trial."""
    paused: bool = False
    """Whether it waits, with a checkpoint, for a slot that is given to it again."""
    slot_is_lost: bool = False
    """Whether its slot can't run another trial."""
    note: str | None = None
    """A message for the user about something that isn't in the events."""


class Recorder:
    """Turns the messages of trials into events and decisions. Safe to call from several threads."""

    def __init__(
        self,
        record: StudyRecord,
        journal: Journal,
        control: StudyControl,
        readers: list[Callable[[Event], None]],
        placement: Callable[[tuple[str, ...]], Placement] = this_machine,
        are_draining: Callable[[tuple[str, ...]], bool] = _no_node_drains,
    ):
        """readers: called with each event after it has been applied to the record.

        placement: decides whether an attempt may begin on these nodes, given by Ray's ids.
        are_draining: whether one of these nodes will soon be gone.
        """
        self.record, self._placement, self._are_draining = record, placement, are_draining
        self._journal, self._control, self._readers = journal, control, readers
        self._scheduler = StudyScheduler(record)
        self._attempts: collections.defaultdict[int, _Attempt] = collections.defaultdict(_Attempt)
        """By trial."""
        self._starts_failed_in_a_row = 0
        self._losses: collections.Counter[int] = collections.Counter()
        self._lock = threading.RLock()
        self.storage_problems: dict[int, StorageProblem] = {}
        """By trial."""

    def write(self, event: Event) -> None:
        """Write an event to the log, apply it to the record, and call the readers."""
        with self._lock:
            self._append(event)
            self.record.apply(event)
            for reader in self._readers:
                reader(event)

    def _append(self, event: Event) -> None:
        """Write an event to the log. Retries for seconds while the disk is full.

        A checkpoint that doesn't fit fills the disk for a moment, until it is removed.
        """
        until = time.monotonic() + _DISK_FULL_RETRY_SECONDS
        while True:
            before = self._journal.size
            try:
                self._journal.append(event)
                return
            except StorageError:
                if self._journal.size != before or time.monotonic() > until:
                    raise
            time.sleep(0.1)

    def receive(self, number: int, message: Message) -> Decision:
        """Record a trial's message, and decide on it."""
        with self._lock:
            trial = self.record.trials[number]
            match message:
                case Begun():
                    return self._begin(number, message)
                case Report():
                    return self._report(trial, message)
                case End():
                    self._end(trial, message)
                case Paused():
                    self._images(trial, message.images)
                    if not self._attempts[number].moving:
                        self.write(TrialPaused(time.time(), number))
                case FidelityChanged():
                    self._images(trial, message.images)
                case Interruption():
                    self._attempts[number].interruption = message
                case StorageWait():
                    self._storage_wait(number, message.sentence)
                    return _STOP if self._control.stopping else _CONTINUE
            return _CONTINUE

    def _begin(self, number: int, begun: Begun) -> Decision:
        attempt = self._attempts[number]
        attempt.asked_to_begin = time.time()
        if self._control.stopping:
            return _STOP
        action, nodes = self._placement(begun.nodes)
        if action is Action.STOP:
            attempt.node_rejected = True
        elif action is Action.WAIT and self._control.ending:
            return _STOP
        elif action is Action.CONTINUE:
            attempt.begun, attempt.nodes = True, begun.nodes
            self._starts_failed_in_a_row = 0
            self.write(AttemptBegan(time.time(), number, nodes))
        return Decision(action)

    def _report(self, trial: TrialRecord, report: Report) -> Decision:
        if trial.id in self.storage_problems and self.storage_problems[trial.id].solved_by_report:
            del self.storage_problems[trial.id]
        # A killed trial resumes from its newest checkpoint and sends that epoch's report again, or starts over.
        resumes_from = report.epoch if report.resumed else report.epoch - 1
        if resumes_from < trial.epoch:
            self.write(TrialRewound(time.time(), trial.id, resumes_from))
            self._scheduler.rewind(trial.id, resumes_from)
        if report.best is not None and trial.epoch < report.best[0] < report.epoch:
            # When a machine dies, the last seconds of events in a bucket are lost, while a newer checkpoint may be
            # stored. Of the lost reports the best one is restored, since its weights exist.
            epoch, values = report.best
            metrics = [objective.metric for objective in self.record.spec.objectives]
            self.write(EpochReported(time.time(), trial.id, epoch, dict(zip(metrics, values, strict=True))))
        # A trial that resumes sends the last report of its attempt before once more.
        is_new = report.epoch > trial.epoch
        if is_new:
            self.write(
                EpochReported(
                    time.time(),
                    trial.id,
                    report.epoch,
                    report.metrics,
                    report.startup_seconds,
                    report.gpu_share,
                    again=report.epoch <= trial.furthest,
                    device=None if report.device == trial.device else report.device,
                    system=report.system or None,
                )
            )
        self._images(trial, report.images)
        keep = self.record.would_be_kept(trial)
        self.drain_at_limit()
        if self._control.ending:
            return Decision(Action.STOP, self._control.reason, keep)
        can_pause = report.resumable and not self.record.at_full_length(trial)
        ruling = self._scheduler.decide(trial, can_pause)
        if ruling.spared is not None and is_new:
            self.write(TrialSpared(time.time(), trial.id, trial.epoch, ruling.spared is Verdict.PAUSE))
        match ruling.verdict:
            case Verdict.STOP:
                return Decision(Action.STOP, ruling.reason, keep)
            case Verdict.PAUSE:
                return Decision(Action.PAUSE, keep=keep)
            case Verdict.CONTINUE if can_pause and self.node_is_draining(trial.id):
                self._attempts[trial.id].moving = True
                return Decision(Action.PAUSE, keep=keep)
            case Verdict.CONTINUE:
                return Decision(Action.CONTINUE, keep=keep)

    def _end(self, trial: TrialRecord, end: End) -> None:
        self._images(trial, end.images)
        # While the study stops, a trial ends because it was told to, and is resumed later.
        if trial.open and not self._control.stopping:
            # Its own process says so, so that process and machine work.
            self._write_end(trial, end.state, end.reason, infeasible=True)

    def _write_end(self, trial: TrialRecord, state: TrialEnd, reason: str | None, infeasible: bool = False) -> None:
        """infeasible: if it failed, whether its training did."""
        self.storage_problems.pop(trial.id, None)
        cause = infeasible if state == "failed" else None
        self.write(TrialEnded(time.time(), trial.id, trial.value, trial.best_epoch, state, reason, cause))
        self.drain_at_limit()

    def drain_at_limit(self) -> None:
        """Drain the study if it has reached a limit of budget.stop_when."""
        with self._lock:
            if limit := limit_reached(self.record, time.time()):
                self._control.drain(limit.reason)

    def _images(self, trial: TrialRecord, images: tuple[str, ...]) -> None:
        if images:
            self.write(ImagesStored(time.time(), trial.id, images))

    def _storage_wait(self, number: int, problem: str | None) -> None:
        if problem is None:
            self.storage_problems.pop(number, None)
        else:
            self.storage_problems.setdefault(number, StorageProblem(time.monotonic(), problem)).message = problem

    def trial_started(self, number: int, params: dict[str, Any], devices: float | None = None) -> None:
        """A trial was given to a slot. devices: how many it holds, as the event has it."""
        with self._lock:
            self._attempts[number] = _Attempt()
            if number in self.storage_problems and not self.storage_problems[number].solved_by_report:
                # The process that waited has died.
                del self.storage_problems[number]
            if self._is_paused(number):
                self._scheduler.resume(number)
            control = self._scheduler.becomes_control_trial(number)
            self.write(TrialStarted(time.time(), number, params, devices, control))

    def _is_paused(self, number: int) -> bool:
        return number in self.record.trials and self.record.trials[number].state == "paused"

    def end_paused(self, number: int) -> None:
        """A paused trial won't resume."""
        with self._lock:
            reason = (
                self._control.reason
                or f"others promised more when it was paused at epoch {self.record.trials[number].epoch}"
            )
            self._write_end(self.record.trials[number], "stopped", reason)

    def last_message_time(self, number: int) -> float | None:
        """When a running trial last sent a message, in seconds since 1970.

        None while the trial waits for the storage or for the start of its worker group: silence is then no sign of a
        hang.
        """
        asked = self._attempts[number].asked_to_begin
        if number in self.storage_problems or (asked is None and self.record.spec.resources.workers > 1):
            return None
        return max(self.record.trials[number].last_seen, asked or 0.0)

    def has_begun(self, number: int) -> bool:
        """Whether all processes of a trial's current attempt have started."""
        return self._attempts[number].begun

    def node_is_draining(self, number: int) -> bool:
        """Whether a node of a trial's current attempt will soon be gone, or has gone as announced."""
        return self._are_draining(self._attempts[number].nodes)

    def will_be_killed(self, number: int, end: End | None) -> None:
        """Announce that a trial's process will be killed. end: how the trial ends; None if it is run again."""
        with self._lock:
            self._attempts[number].killed, self._attempts[number].end_when_killed = True, end

    def trial_done(self, number: int, failure: str | None = None, *, suspect_node: bool = False) -> Outcome:
        """Decide what becomes of a trial that Tune is done with.

        failure: why its process died, if no retry is left. suspect_node: whether it may have been on a node whose check
        has failed or isn't done.
        """
        with self._lock:
            attempt = self._attempts[number]
            interruption, end = attempt.interruption, attempt.end_when_killed
            moved = attempt.moving or (failure is not None and self.node_is_draining(number))
            del self._attempts[number]
            slot_is_lost = interruption is not None or attempt.killed or moved
            trial = self.record.trials.get(number)
            if self._control.stopping:
                return Outcome(slot_is_lost=slot_is_lost)
            if attempt.node_rejected:
                return Outcome(ended=False, slot_is_lost=True)
            no_start = interruption.reason if interruption and interruption.at_start else failure
            if no_start is not None and not attempt.begun and end is None and not self._control.ending:
                return self._start_failed(number, no_start, suspect_node)
            if trial is None or not trial.open:
                return Outcome(slot_is_lost=slot_is_lost)
            if trial.state == "paused":
                return Outcome(ended=False, slot_is_lost=slot_is_lost, paused=True)
            if end is not None:
                self._write_end(trial, end.state, end.reason)
            elif slot_is_lost and self._runs_again(number, interruption, moved):
                return Outcome(ended=False, slot_is_lost=True)
            else:
                self._write_end(trial, *self._unsent_end(number, failure, interruption))
            return Outcome(slot_is_lost=slot_is_lost)

    def _start_failed(self, number: int, reason: str, suspect_node: bool) -> Outcome:
        """An attempt never began. That isn't the trial's fault, so it is run again, on another slot."""
        self._starts_failed_in_a_row += not suspect_node
        if self._starts_failed_in_a_row >= _MAX_STARTS_FAILED_IN_A_ROW:
            times = f"{self._starts_failed_in_a_row} times in a row"
            self._control.stop("interrupted", f"trials failed to start {times}: {reason}")
        return Outcome(
            ended=False,
            slot_is_lost=True,
            note=f"trial {number} did not start; it is run again on another slot: {reason}",
        )

    def _unsent_end(self, number: int, failure: str | None, interruption: Interruption | None) -> tuple[TrialEnd, str]:
        """State and reason of a trial that ended without saying so."""
        if failure is not None:
            return "failed", failure
        if self._control.ending:
            return "stopped", self._control.reason or ""
        if interruption:
            return "failed", f"{interruption.reason}, {self._losses[number]} times"
        return "failed", "its process ended without an error message"

    def _runs_again(self, number: int, interruption: Interruption | None, moved: bool) -> bool:
        """Whether an interrupted trial is run again. interruption: None if the driver killed it."""
        if self._control.ending:
            return False
        if interruption is None or moved:
            return True
        if interruption.storage:
            self.storage_problems.setdefault(
                number, StorageProblem(time.monotonic(), interruption.reason)
            ).solved_by_report = True
            return True
        self._losses[number] += 1
        return self._losses[number] <= max(1, self.record.spec.failures.max_retries)
