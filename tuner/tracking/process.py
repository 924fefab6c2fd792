"""The tracker in its own process, so that MLflow's imports and transactions don't slow the driver down."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage
from tuner.tracking.tracker import ABANDONED_SECONDS, Tracker

_POLL_SECONDS = 0.2
_SPAWN = multiprocessing.get_context("spawn")


class TrackingProcess:
    """A Tracker in a child process, which ends after `finish`, or within seconds after the driver died."""

    def __init__(self, spec: StudySpec, study: Storage, events: Path, uri: str):
        """study: the study's folder. events: its events file. uri: where MLflow is."""
        self._arguments = (spec, study, events, uri)
        self._process: Any = None
        self._connection: Any = None
        self._status: tuple[str | None, str | None] = (None, None)
        self._reading = threading.Lock()  # the live table is drawn in another thread

    def start(self) -> None:
        """Start the process, if it isn't running."""
        if self._process is not None:
            return
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_follow, args=(*self._arguments, theirs), name="tracking")
        self._process.start()
        theirs.close()
        # Without a call of `finish` the child ends when the pipe is closed; at its exit this process waits for that.
        multiprocessing.util.Finalize(self, self._connection.close, exitpriority=10)

    @property
    def error(self) -> str | None:
        """MLflow's present error, or None."""
        return self._receive()[0]

    @property
    def skipped(self) -> str | None:
        """A message on what MLflow rejected, or None."""
        return self._receive()[1]

    def _receive(self) -> tuple[str | None, str | None]:
        with self._reading:
            try:
                while self._connection is not None and self._connection.poll():
                    self._status = self._connection.recv()
            except (EOFError, OSError):
                error, skipped = self._status
                self._status = error or f"its process ended with {self._process.exitcode}", skipped
            return self._status

    def finish(self, timeout_seconds: float) -> int:
        """Write the remaining events. Returns how many are left when MLflow has accepted nothing for this long."""
        with contextlib.suppress(OSError):
            self._connection.send(timeout_seconds)
        while self._process.is_alive():
            # A pipe that nobody reads fills up, and then blocks the child process.
            self._receive()
            self._process.join(_POLL_SECONDS)
        return Tracker(*self._arguments).unsent()


def _follow(spec: StudySpec, study: Storage, events: Path, uri: str, connection: Connection[Any, Any]) -> None:
    """The child process: reports its status, and waits for the timeout with which to finish."""
    # Ctrl-C reaches all processes of a terminal, and the SIGTERM of `ray job stop` all of a job. The study's end must
    # still be tracked.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Failures that a retry resolves aren't logged; others are reported as `error`.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    tracker = Tracker(spec, study, events, uri)
    tracker.start()
    status: tuple[str | None, str | None] = (None, None)
    while not connection.poll(_POLL_SECONDS):
        if (tracker.error, tracker.skipped) != status:
            status = tracker.error, tracker.skipped
            connection.send(status)
    try:
        timeout = connection.recv()
    except EOFError:
        timeout = ABANDONED_SECONDS
    # The pipe has nothing more to read until the driver ends: then another may resume the study at once.
    tracker.finish(timeout, abandoned=connection.poll)
    with contextlib.suppress(OSError):
        connection.send((tracker.error, tracker.skipped))
    # A call to MLflow that hangs must not hold the process.
    os._exit(0)
