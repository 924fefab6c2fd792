"""The only writer to MLflow while a study runs.

Tracking reads the study's event log from its last offset, in its own process (tuner/tracking/process.py), so training
never waits for MLflow. After an outage it sends the same events again, which is idempotent: runs are searched for by
their tags before one is created, MLflow ignores a metric that it has, and an upload always has the same name. What
MLflow rejects is skipped, and the user is notified.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tuner.errors import TunerError, first_line
from tuner.events.event import Event, IncompleteEventError, NewerFormatError, from_line
from tuner.events.state import StudyRecord
from tuner.spec.study import StudySpec
from tuner.storage.address import redacted
from tuner.storage.storage import Storage
from tuner.tracking.events import EventWriter
from tuner.tracking.images import ImageUploader
from tuner.tracking.runs import PARENT, Runs
from tuner.tracking.state import TrackingState

ABANDONED_SECONDS = 5.0  # the time left for MLflow after the driver was killed
_BYTES_A_STEP = 1 << 18  # what is done again after a kill, and how fine the progress of `sync` is
# The pause after a step is _IDLE_FACTOR times as long as the step took. All events of a run that arrive meanwhile go in
# one call, which takes a quarter of the time of one call for each report.
_IDLE_FACTOR, _MIN_IDLE_SECONDS, _MAX_IDLE_SECONDS = 3, 0.5, 10.0


class Tracker(threading.Thread):
    """Writes a study's events to MLflow until `finish` is called."""

    def __init__(self, spec: StudySpec, study: Storage, events: Path, uri: str, *, remember: bool = True):
        """study: the study's folder. events: its events file. uri: where MLflow is.

        remember: whether to continue from the offset that is saved in the study's folder, and to save it there; else
        the whole study is written.
        """
        super().__init__(name="tracking", daemon=True)
        self._spec, self._study, self._events, self._uri = spec, study, events, uri
        self._state = TrackingState.load(study, uri, spec.id, remember)
        self._remember = remember
        self._images = ImageUploader(study, self._state, self._call_accepted)
        self._runs: Runs | None = None
        self._writer: EventWriter | None = None
        """None until connected to MLflow, and after each error."""
        self._bytes = _BYTES_A_STEP
        self._accepted = 0
        """Counts what MLflow has accepted: runs, calls and steps; not what is sent a second time."""
        self._calls = self._max_calls = 0
        """Successful calls of this attempt at the present step, and the most of any attempt."""
        self._duplicate_searches_left = 3
        """How often duplicates are still searched for at the end; limited, so that it always ends."""
        self._ending = threading.Event()
        self._cancelled = False
        self._woken = threading.Event()
        self.error: str | None = None
        """MLflow's present error, or None."""

    @property
    def skipped(self) -> str | None:
        """A message on what MLflow rejected, or None."""
        return self._state.note

    @property
    def progress(self) -> tuple[int, int]:
        """How many bytes of the events MLflow has, and of how many."""
        return self._state.offset, self._events.stat().st_size

    @property
    def experiment(self) -> str | None:
        """MLflow's id of the study's experiment; None until connected to MLflow."""
        return self._runs.experiment if self._runs else None

    @property
    def runs(self) -> dict[str, str]:
        """MLflow's run id by trial, PARENT for the parent run; empty until connected to MLflow."""
        return self._runs.ids if self._runs else {}

    def run(self) -> None:
        delay = _MIN_IDLE_SECONDS
        while not self._cancelled:
            began = time.monotonic()
            try:
                busy = self._step()
                self.error, delay = None, _MIN_IDLE_SECONDS
                self._bytes = min(2 * self._bytes, _BYTES_A_STEP)
                if self._ending.is_set() and not busy and not self._removed_duplicates():
                    self._finish_study()
                    return
            except Exception as error:  # whatever MLflow, its database or the network raise
                self.error = self._sentence(error)
                # The failed call may have succeeded on the server: search for the runs again before continuing. And
                # continue in small steps: some succeed even if every third response is lost.
                self._writer = None
                self._bytes = max(self._bytes // 16, 1)
                busy = False
                delay = min(delay * 2, 1.0 if self._ending.is_set() else 30.0)
            if busy and self._ending.is_set():
                continue
            idle_seconds = min(max(_MIN_IDLE_SECONDS, _IDLE_FACTOR * (time.monotonic() - began)), _MAX_IDLE_SECONDS)
            self._woken.wait(delay if self.error else idle_seconds)
            self._woken.clear()

    def _sentence(self, error: Exception) -> str:
        """The error's first line, without the secrets of MLflow's address."""
        return redacted(first_line(error), self._uri)[:200]

    def finish(self, timeout_seconds: float, abandoned: Callable[[], bool] = lambda: False) -> int:
        """Write the remaining events. Returns how many are left when MLflow has accepted nothing for this long.

        abandoned: returns whether the driver has died; only ABANDONED_SECONDS remain then.
        """
        self._ending.set()
        self._woken.set()
        last, accepted, deadline = math.inf, -1, 0.0
        while self.is_alive():
            now = time.monotonic()
            if self._accepted != accepted:
                accepted, deadline = self._accepted, now + timeout_seconds
            if last == math.inf and abandoned():
                last = now + ABANDONED_SECONDS
            if now > min(last, deadline):
                self._cancelled = True
                break
            self.join(0.1)
        return self.unsent() if self.is_alive() or self.error else 0

    def unsent(self) -> int:
        """How many events MLflow hasn't got, counted up to a few thousand."""
        return len(self._pending(_BYTES_A_STEP)[0])

    def _pending(self, size: int) -> tuple[list[bytes], int]:
        """Lines that MLflow hasn't got, about `size` bytes but at least one, and the offset of the next line."""
        with self._events.open("rb") as stream:
            offset = self._state.offset
            stream.seek(max(offset - 1, 0))
            if offset and stream.read(1) != b"\n":
                # The file lost lines that were sent already: a bucket's copy was seconds old, or the power failed.
                offset = 0
                stream.seek(0)
            data = stream.read(size) + stream.readline()
        whole = data.rfind(b"\n") + 1
        return data[:whole].split(b"\n")[:-1], offset + whole

    def _step(self) -> bool:
        """Write the events that have come since the last step. Returns whether there were any."""
        if self._events.stat().st_size == 0:
            return False
        writer = self._writer or self._connect()
        lines, offset = self._pending(self._bytes)
        if not lines:
            return False
        self._calls = 0
        writer.write(event for line in lines if (event := self._event(line)) is not None)
        self._max_calls = 0
        self._accepted += 1
        self._state.offset, self._state.parent = offset, self.runs.get(PARENT)
        self._state.runs = {trial: run for trial, run in self.runs.items() if trial != PARENT}
        self._state.experiment = self.experiment
        self._save()
        return True

    def _finish_study(self) -> None:
        """Send what belongs to the study's end beside its events, if it has any events."""
        if self._events.stat().st_size:
            (self._writer or self._connect()).finish()
            self._save()

    def _save(self) -> None:
        # If this fails, the next run of the study sends everything again, which is idempotent.
        if self._remember:
            with contextlib.suppress(TunerError):
                self._state.save(self._study)

    def _event(self, line: bytes) -> Event | None:
        try:
            event, why = from_line(line), "it is no event"
        except (IncompleteEventError, NewerFormatError) as error:
            event, why = None, str(error)
        if event is None:
            self._state.skip(f"a line of {self._events.name} that can't be read as an event, {line[:60]!r}: {why}")
        return event

    def _connect(self) -> EventWriter:
        self._runs = Runs(self._spec, self._study, self._uri, self._run_created)
        duplicates = self._runs.find()
        parent = self._runs.ids.get(PARENT)
        if duplicates or parent is None or self._state.parent not in (None, parent):
            # Of a run and its duplicate each may lack what the other got; a new database lacks everything.
            self._state.reset()
        self._writer = EventWriter(
            self._sent_record(), self._study, self._runs, self._images, self._state, self._call_accepted
        )
        return self._writer

    def _sent_record(self) -> StudyRecord:
        """The study's state after the events that MLflow has."""
        record = StudyRecord(self._spec)
        with self._events.open("rb") as stream:
            for line in stream.read(self._state.offset).split(b"\n"):
                # Lines that can't be read were reported when they were sent.
                with contextlib.suppress(IncompleteEventError, NewerFormatError, LookupError):
                    if (event := from_line(line)) is not None:
                        record.apply(event)
        return record

    def _removed_duplicates(self) -> bool:
        """Whether duplicates of a trial's run were found and removed; everything is then sent again."""
        if (
            self._runs is None
            or not self._runs.may_have_duplicates
            or self._duplicate_searches_left == 0
            or not self._runs.find()
        ):
            return False
        self._duplicate_searches_left -= 1
        self._state.reset()
        self._writer = None
        return True

    def _run_created(self) -> None:
        self._accepted += 1

    def _call_accepted(self) -> None:
        self._calls += 1
        if self._calls > self._max_calls:
            self._max_calls = self._calls
            self._accepted += 1
