"""What happened in a study: events in the order they came, one JSON object a line.

The events file is the only truth about a study. `show`, `resume`, `best`, tracking and progress all read the same
events; nothing is known that is not in it. Each has "event" and "time" (seconds since 1970):

    run     {number, host, pid, versions, overrides, tracking_uri}  a run or resume of the study began
    start   {trial, params}                                         a trial was handed to a slot
    report  {trial, epoch, metrics, startup_seconds?, gpu_share?, again?}  a trial finished an epoch; again: it had
                                                                    reported it before, and went back
    images  {trial, images}                                         pictures of its best epochs came into the storage
    back    {trial, epoch}                                          a killed trial goes on from this epoch, or from 0:
                                                                    what it reported of later ones it will report again
    end     {trial, state, reason, value, best_epoch}               state: finished, stopped or failed
    stop    {state, reason}                                         the run ended: finished, interrupted or failed
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tuner.errors import StudyError
from tuner.storage import Storage

EVENTS = "events.jsonl"
_UPLOAD_SECONDS = 5.0
_LIFE = "alive"  # seconds since 1970 when the runner of a study in a bucket was last alive
_LIFE_SECONDS = 60.0


class Journal:
    """The events file, open for appending by the one process that runs the study.

    A bucket can't be appended to: there the file grows beside, and is put whole every few seconds and at a trial's end.
    """

    def __init__(self, storage: Storage):
        """storage: the study's folder. Raises StudyError if another process runs the study."""
        self._lock = _lock(storage.local) if storage.local else None
        self._copy = None if storage.local else _BucketCopy(storage)
        self.path = self._copy.path if self._copy else storage.local / EVENTS  # type: ignore[operator]
        """Local file that a reader may follow."""
        self._file = self.path.open("ab")
        # A kill can leave half a line behind; the next event must not be glued to it.
        self._file.truncate(_whole(self.path.read_bytes()))
        if self._copy:
            self._copy.start()

    def append(self, event: dict[str, Any]) -> None:
        self._file.write((json.dumps(event, allow_nan=False) + "\n").encode())
        self._file.flush()
        if event["event"] in ("end", "stop"):
            os.fsync(self._file.fileno())
        if self._copy and event["event"] in ("run", "end", "stop"):
            self._copy.put()

    def close(self) -> None:
        self._file.close()
        if self._copy:
            self._copy.end()
        if self._lock is not None:
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _BucketCopy(threading.Thread):
    """Puts the events file into a bucket, and a sign of life beside it, which serves as the study's lock."""

    def __init__(self, storage: Storage):
        """storage: the study's folder. Raises StudyError if another process has given a sign of life."""
        super().__init__(name="events", daemon=True)
        if _gives_signs_of_life(storage):
            raise being_run(storage)
        self._storage = storage
        self._scratch = tempfile.TemporaryDirectory(prefix="tuner-events-")
        self.path = Path(self._scratch.name) / EVENTS
        self.path.write_text(storage.read_text(EVENTS) or "", encoding="utf-8")
        self._one_at_a_time = threading.Lock()
        self._there = self.path.stat().st_size
        self._ending = threading.Event()

    def run(self) -> None:
        while True:
            # A bucket that takes nothing now may later; a trial's end is put by the study itself, which fails then.
            with contextlib.suppress(StudyError):
                self._storage.write_text(_LIFE, _moment(time.time()))
                self.put()
            if self._ending.wait(_UPLOAD_SECONDS):
                return

    def put(self) -> None:
        """Raises StudyError if the bucket can't be written."""
        with self._one_at_a_time:
            data = self.path.read_bytes()
            if len(data) != self._there:
                self._storage.write_text(EVENTS, data[: _whole(data)].decode())
                self._there = len(data)

    def end(self) -> None:
        self._ending.set()
        self.join()
        with contextlib.suppress(StudyError):
            self._storage.write_text(_LIFE, _moment(0))
        self._scratch.cleanup()


def read_events(text: str) -> Iterator[dict[str, Any]]:
    """Every whole line; a half line at the end is one that is being written."""
    for line in text.split("\n")[:-1]:
        yield json.loads(line)


def is_running(storage: Storage) -> bool:
    """Whether a process runs the study in this folder."""
    if storage.local is None:
        return _gives_signs_of_life(storage)
    try:
        handle = os.open(storage.local / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A shared lock: two that ask at once don't take each other for the runner.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _moment(seconds: float) -> str:
    """Of one length: a bucket may be asked how long a file is, and be read after the file was replaced."""
    return f"{seconds:017.6f}"


def _gives_signs_of_life(storage: Storage) -> bool:
    return time.time() - float(storage.read_text(_LIFE) or 0) < _LIFE_SECONDS


def being_run(storage: Storage) -> StudyError:
    how_long = "" if storage.local else f" (or was until less than {_LIFE_SECONDS:g} seconds ago)"
    return StudyError(
        f"study {storage.name} is being run by another process{how_long}; wait for it, or stop it with Ctrl-C there"
    )


def _whole(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _lock(folder: Path) -> int:
    """Take the study's lock; the kernel gives it back when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    patience = time.monotonic() + 1.0
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            # One that only asks whether the study runs holds the lock for a moment.
            if time.monotonic() > patience:
                os.close(handle)
                raise being_run(Storage(str(folder))) from None
            time.sleep(0.02)
