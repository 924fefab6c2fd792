"""What happens in a study goes through here: into its events first, then into its record, then to the readers."""

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
    TrialRewound,
    TrialStarted,
)
from tuner.events.log import Journal
from tuner.events.state import StudyRecord, TrialRecord
from tuner.search.early_stopping import EarlyStopping, early_stopping
from tuner.worker.messages import Action, Begun, Decision, End, Interruption, Message, Report, StorageWait

_MOMENT_SECONDS = 10.0
_MOST_FAILED_STARTS = 3  # one after the other, with none in between that began
_CONTINUE, _STOP = Decision(Action.CONTINUE), Decision(Action.STOP)


@dataclass
class Refusal:
    """What the storage refuses a trial, which waits."""

    since: float
    """time.monotonic() when it was reported first."""
    sentence: str
    over_at_report: bool = False
    """Whether the trial's attempt ended with it, so that its next report says that it is over."""


class Outcome(NamedTuple):
    """Of a trial that Tune is done with."""

    ended: bool = True
    """Whether it has ended; else it is run again, what it lost wasn't its own."""
    slot_is_lost: bool = False
    """Whether nothing can run on its slot any more."""
    note: str | None = None
    """What a person should know of it that isn't in the events."""


class Recorder:
    """Takes messages in one thread and ends in another.

    `readers` are called with an event after the record has taken it.
    """

    def __init__(
        self,
        record: StudyRecord,
        journal: Journal,
        control: StudyControl,
        readers: list[Callable[[Event], None]],
        placement: Callable[[tuple[str, ...]], Placement] = this_machine,
    ):
        """placement: whether an attempt may begin on these nodes, by Ray's ids."""
        self.record, self._placement = record, placement
        self._journal, self._control, self._readers = journal, control, readers
        self._early_stopping = _rebuilt(record)
        self._interruptions: dict[int, Interruption] = {}
        self._taken_off: dict[int, End | None] = {}
        self._asked: dict[int, float] = {}
        """When an attempt asked last whether it may begin."""
        self._begun: set[int] = set()
        """Trials whose present attempt has begun."""
        self._misplaced: set[int] = set()
        """Trials whose present attempt may not run on its nodes."""
        self._failed_starts = 0
        self._losses: collections.Counter[int] = collections.Counter()
        self._one_at_a_time = threading.RLock()
        self.refusals: dict[int, Refusal] = {}
        """By trial."""

    def write(self, event: Event) -> None:
        """The events first, then the record, then whoever shows or uses it."""
        with self._one_at_a_time:
            self._append(event)
            self.record.apply(event)
            for reader in self._readers:
                reader(event)

    def _append(self, event: Event) -> None:
        """A checkpoint that doesn't fit fills the disk for a moment, until it is removed: an event waits for that."""
        until = time.monotonic() + _MOMENT_SECONDS
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
        with self._one_at_a_time:
            trial = self.record.trials[number]
            match message:
                case Begun():
                    return self._begin(number, message)
                case Report():
                    return self._report(trial, message)
                case End():
                    self._end(trial, message)
                case Interruption():
                    self._interruptions[number] = message
                case StorageWait():
                    self._storage_wait(number, message.sentence)
                    return _STOP if self._control.stopping else _CONTINUE
            return _CONTINUE

    def _begin(self, number: int, begun: Begun) -> Decision:
        self._asked[number] = time.time()
        if self._control.stopping:
            return _STOP
        action, nodes = self._placement(begun.nodes)
        if action is Action.STOP:
            self._misplaced.add(number)
        elif action is Action.WAIT and self._control.ending:
            return _STOP
        elif action is Action.CONTINUE:
            self._begun.add(number)
            self._failed_starts = 0
            self.write(AttemptBegan(time.time(), number, nodes))
        return Decision(action)

    def _report(self, trial: TrialRecord, report: Report) -> Decision:
        if trial.id in self.refusals and self.refusals[trial.id].over_at_report:
            del self.refusals[trial.id]
        # A killed trial resumes from its newest checkpoint, whose report it sends again, or begins anew.
        resumes_from = report.epoch if report.resumed else report.epoch - 1
        if resumes_from < trial.epoch:
            self.write(TrialRewound(time.time(), trial.id, resumes_from))
            self._early_stopping.rewind(trial.id, resumes_from)
        if report.best is not None and trial.epoch < report.best[0] < report.epoch:
            # A bucket's events are seconds old when a machine dies, and the checkpoint may be newer: the reports in
            # between are lost, but for the best, whose weights are there.
            epoch, value = report.best
            self.write(EpochReported(time.time(), trial.id, epoch, {self.record.spec.objective.metric: value}))
        if report.epoch > trial.epoch:
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
        if self._control.ending:
            return Decision(Action.STOP, self._control.reason, keep)
        assert trial.value is not None
        if self._early_stopping.decide(trial.id, trial.epoch, trial.value):
            name = self.record.spec.scheduler.name
            return Decision(Action.STOP, f"{name} stopped it at epoch {trial.epoch}", keep)
        return Decision(Action.CONTINUE, keep=keep)

    def _end(self, trial: TrialRecord, end: End) -> None:
        self._images(trial, end.images)
        # In a study that stops, a trial that ends at its report is one that is resumed later.
        if trial.open and not self._control.stopping:
            self._write_end(trial, end.state, end.reason)

    def _write_end(self, trial: TrialRecord, state: TrialEnd, reason: str | None) -> None:
        self.refusals.pop(trial.id, None)
        self.write(TrialEnded(time.time(), trial.id, trial.value, trial.best_epoch, state, reason))

    def _images(self, trial: TrialRecord, images: tuple[str, ...]) -> None:
        if images:
            self.write(ImagesStored(time.time(), trial.id, images))

    def _storage_wait(self, number: int, sentence: str | None) -> None:
        if sentence is None:
            self.refusals.pop(number, None)
        else:
            self.refusals.setdefault(number, Refusal(time.monotonic(), sentence)).sentence = sentence

    def trial_started(self, number: int, params: dict[str, Any]) -> None:
        """A slot has taken a trial."""
        with self._one_at_a_time:
            self._asked.pop(number, None)
            self._begun.discard(number)
            self._misplaced.discard(number)
            if number in self.refusals and not self.refusals[number].over_at_report:
                # Its process died while it waited.
                del self.refusals[number]
            self.write(TrialStarted(time.time(), number, params))

    def heard_of(self, number: int) -> float | None:
        """When a trial that has a process sent something last, in seconds since 1970.

        None for one that waits for the storage, or for its worker group to start.
        """
        asked = self._asked.get(number)
        if number in self.refusals or (asked is None and self.record.spec.resources.workers > 1):
            return None
        return max(self.record.trials[number].last_seen, asked or 0.0)

    def has_begun(self, number: int) -> bool:
        """Whether the processes of a trial's present attempt are there."""
        return number in self._begun

    def take_off(self, number: int, end: End | None) -> None:
        """A trial is about to be ended from outside. end: how it ends; None if it is to be run again."""
        with self._one_at_a_time:
            self._taken_off[number] = end

    def trial_done(self, number: int, given_up: str | None = None, *, doubtful: bool = False) -> Outcome:
        """Tune is done with a trial.

        given_up: why its process died, if that was more often than it is retried. doubtful: whether its slot may have
        been on a node that isn't checked, or is left out.
        """
        with self._one_at_a_time:
            interruption = self._interruptions.pop(number, None)
            slot_is_lost = interruption is not None or number in self._taken_off
            end = self._taken_off.pop(number, None)
            trial = self.record.trials.get(number)
            if self._control.stopping:
                return Outcome(slot_is_lost=slot_is_lost)
            if number in self._misplaced:
                self._misplaced.discard(number)
                return Outcome(ended=False, slot_is_lost=True)
            no_start = interruption.reason if interruption and interruption.at_start else given_up
            if no_start is not None and number not in self._begun and end is None and not self._control.ending:
                return self._start_failed(number, no_start, doubtful)
            if trial is None or not trial.open:
                return Outcome(slot_is_lost=slot_is_lost)
            if end is not None:
                self._write_end(trial, end.state, end.reason)
            elif slot_is_lost and self._runs_again(number, interruption):
                return Outcome(ended=False, slot_is_lost=True)
            else:
                self._write_end(trial, *self._unsent_end(number, given_up, interruption))
            return Outcome(slot_is_lost=slot_is_lost)

    def _start_failed(self, number: int, reason: str, doubtful: bool) -> Outcome:
        """An attempt never began: that is the place's fault, so the trial is run again, on another slot."""
        self._failed_starts += not doubtful
        if self._failed_starts >= _MOST_FAILED_STARTS:
            times = f"{self._failed_starts} times, one after the other"
            self._control.stop("interrupted", f"the processes of trials don't start, {times}: {reason}")
        return Outcome(False, True, f"trial {number} did not start, and is placed anew: {reason}")

    def _unsent_end(self, number: int, given_up: str | None, interruption: Interruption | None) -> tuple[TrialEnd, str]:
        """State and reason of a trial that didn't send its end."""
        if given_up is not None:
            return "failed", given_up
        if self._control.ending:
            return "stopped", self._control.reason or ""
        if interruption:
            return "failed", f"{interruption.reason}, {self._losses[number]} times"
        return "failed", "its process ended without a word"

    def _runs_again(self, number: int, interruption: Interruption | None) -> bool:
        """Whether what interrupted a trial, None if it was ended from outside, still counts as bad luck."""
        if self._control.ending:
            return False
        if interruption is None:
            return True
        if interruption.storage:
            self.refusals.setdefault(number, Refusal(time.monotonic(), interruption.reason)).over_at_report = True
            return True
        self._losses[number] += 1
        return self._losses[number] <= max(1, self.record.spec.failures.max_retries)


def _rebuilt(record: StudyRecord) -> EarlyStopping:
    """As the reports of the trials left it."""
    better = record.spec.objective.better
    found = early_stopping(record.spec.objective, record.spec.scheduler)
    for trial in record.trials.values():
        best: float | None = None
        for epoch, value in trial.curve:
            best = value if better(value, best) else best
            found.decide(trial.id, epoch, best if best is not None else value)
    return found
