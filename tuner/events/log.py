"""The event log of a study: its events (tuner/events/event.py) in order, one JSON object a line.

Everything that is known about a study is derived from this file: `show`, `resume`, `best`, tracking and progress read
the same events.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tuner.errors import StorageError, StudyError
from tuner.events import bucket
from tuner.events.event import (
    Event,
    IncompleteEventError,
    NewerFormatError,
    RunBegan,
    RunEnded,
    TrialEnded,
    TrialStarted,
    from_line,
    to_line,
)
from tuner.storage import files
from tuner.storage.storage import Storage

EVENTS = "events.jsonl"
# These are synced at once; the others with `sync`, before their sender gets its decision. If a start were lost, a new
# trial would get another's checkpoint; if an end were lost, a trial would resume whose checkpoints are deleted.
_SYNCED = (RunBegan, TrialStarted, TrialEnded, RunEnded)


class Journal:
    """The events file, open for appending by the one process that runs the study.

    A bucket can't be appended to: its study has a local file, which is uploaded every few seconds and at a trial's
    start and end (tuner/events/bucket.py). Methods raise StorageError if the storage can't be written, or another
    process runs the study.
    """

    def __init__(self, storage: Storage):
        """storage: the study's folder. Raises StudyError if another process runs the study."""
        self._storage = storage
        self._lock = _lock(storage) if storage.local else None
        self._copy = None if storage.local else bucket.Run(storage, EVENTS)
        self.path = self._copy.path if self._copy else storage.local / EVENTS  # type: ignore[operator]
        """The local file, which a reader may follow."""
        try:
            # Unbuffered: a full disk must raise its error here, not when the file is closed.
            self._file = self.path.open("ab", buffering=0)
            # A kill may leave half a line, which the next event must not be appended to.
            self._size = intact_size(self.path.read_bytes())
            self._file.truncate(self._size)
            files.sync_folder(self.path.parent)
        except OSError as error:
            raise self._error(error) from None
        if self._copy:
            self._copy.start()

    def append(self, event: Event) -> None:
        """Write an event, or nothing if not all of it can be written."""
        self.check()
        line = to_line(event)
        try:
            written = self._file.write(line)
            if written < len(line):  # the disk had room for a part; a second write raises the error
                self._file.write(line[written:])
        except OSError as error:
            self._file.truncate(self._size)
            raise self._error(error) from None
        self._size += len(line)
        if isinstance(event, _SYNCED):
            self.sync()
            if self._copy:
                self._copy.upload()

    @property
    def size(self) -> int:
        """Bytes of the events written so far."""
        return self._size

    def sync(self) -> None:
        """Sync the events so far to the disk, so that a power cut doesn't lose them."""
        try:
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise self._error(error) from None

    def check(self) -> None:
        """Raises StorageError if another process has taken the study over."""
        if self._copy:
            self._copy.check()

    def close(self) -> None:
        self._file.close()
        if self._copy:
            self._copy.end()
        if self._lock is not None:
            os.close(self._lock)

    def _error(self, error: OSError) -> StorageError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return StorageError(
            f"{self.path}: {'the disk is full' if full else f'can not be written ({error.strerror})'}; the study is "
            f"interrupted, and no event is lost: {'free disk space' if full else 'make it writable'}, then continue "
            f"with `python -m tuner resume {self._storage.name}`"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_events(study: Storage) -> Iterator[Event]:
    """The events of the study in this folder, without a truncated end, which a kill or a power cut may leave.

    Raises StudyError, with file and line, for a damaged line that intact ones follow, and for one of a later version.
    """
    data = study.read_bytes(EVENTS) if study.local else bucket.read_events(study, EVENTS)
    lines = (data or b"").split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            event = from_line(line)
        except NewerFormatError as error:
            raise StudyError(f"{study.uri}/{EVENTS}, line {number}: {error}") from None
        except IncompleteEventError as error:
            raise damaged(study, number, str(error)) from None
        if event is None:
            if not any(map(_is_event, lines[number:])):
                return
            raise damaged(study, number, f"must be an event in JSON, got {line[:60].decode(errors='replace')!r}")
        yield event


def damaged(study: Storage, line: int, what: str) -> StudyError:
    """The error for a damaged line of the events file."""
    return StudyError(
        f"{study.uri}/{EVENTS}, line {line}: {what}; the file is damaged: restore it from a copy, or delete this line "
        f"(sed -i {line}d), which loses its event"
    )


def _is_event(line: bytes) -> bool:
    """Whether a line is a complete event, of any version."""
    try:
        return from_line(line) is not None
    except (NewerFormatError, IncompleteEventError):
        return True


def is_running(storage: Storage) -> bool:
    """Whether a process runs the study in this folder."""
    if storage.local is None:
        return bucket.seems_alive(storage)
    try:
        handle = os.open(storage.local / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A shared lock: two processes that ask at once don't take each other for the driver.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def intact_size(data: bytes) -> int:
    """The number of bytes of an events file that are intact lines, without a truncated end."""
    size = data.rfind(b"\n") + 1
    while size:
        start = data.rfind(b"\n", 0, size - 1) + 1
        if _is_event(data[start:size]):
            break
        size = start
    return size


def _lock(storage: Storage) -> int:
    """Take the study's lock; the kernel releases it when the process ends, however it ends."""
    assert storage.local is not None
    try:
        files.make_folder(storage.local)
        handle = os.open(storage.local / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage.not_writable(error) from None
    deadline = time.monotonic() + 1.0
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            # A process that only checks whether the study runs holds the lock for a moment.
            if time.monotonic() > deadline:
                os.close(handle)
                raise bucket.already_running(storage) from None
            time.sleep(0.02)


def local_copy(study: Storage, folder: Path) -> Path:
    """A local file with a study's events: its own, or a copy in `folder` if the study is in a bucket."""
    if study.local:
        return study.local / EVENTS
    copy = folder / EVENTS
    copy.write_bytes(bucket.read_events(study, EVENTS) or b"")
    return copy
