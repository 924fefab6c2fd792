"""Retries of reads and writes while the storage fails: a full disk, or a bucket that answers with errors.

Neither is the fault of the trial's hyperparameters, so the trial waits and doesn't fail. The driver is notified of each
failure, shows it to the user, and ends the wait when it stops the study.
"""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tuner.errors import StorageUnavailableError, TrialError, TunerError, first_line
from tuner.storage.storage import Storage
from tuner.worker.isolation import is_tainted_by

Result = TypeVar("Result")
Notify = Callable[[str | None], bool]
"""Notifies the driver of the storage's error, or of None when it is resolved; returns whether to stop waiting."""

_POLL_SECONDS = 1.0  # between two notifications of the driver
_FIRST_DELAY_SECONDS, _MAX_DELAY_SECONDS = 1.0, 30.0  # an attempt may write gigabytes before it fails
# Errors that waiting doesn't resolve.
_NOT_RETRIED = (TrialError, TypeError, ValueError, AttributeError, NameError, LookupError, AssertionError, ImportError)
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE}


class StorageRetry:
    """The retries of one trial in one process; its threads share them."""

    def __init__(self, folder: Storage, notify: Notify):
        """folder: the trial's."""
        self._folder, self._notify = folder, notify
        self._cancelled = threading.Event()

    def call(self, what: str, action: Callable[[], Result]) -> Result:
        """Call `action` until it succeeds, and return its result. what: what it reads or writes, for the message.

        `action` must be safe to repeat. Raises StorageUnavailableError when the study stops or the trial is over.
        An error that isn't the storage's (a TypeError, say) is raised at once.
        """
        delay, notified = _FIRST_DELAY_SECONDS, False
        while True:
            try:
                result = action()
            except Exception as error:
                if isinstance(error, _NOT_RETRIED) or is_tainted_by(error):
                    raise
                self._wait(self._sentence(what, error), delay, error)
                delay, notified = min(2 * delay, _MAX_DELAY_SECONDS), True
                continue
            if notified:
                self._notify(None)
            return result

    def pause(self, error: BaseException) -> StorageUnavailableError:
        """Wait once, after a storage failure that ends the attempt. Returns the error to end it with."""
        sentence = f"this machine's disk can't be written by the training: {first_line(error)}"
        try:
            self._wait(sentence, _MAX_DELAY_SECONDS, error)
        except StorageUnavailableError as over:
            return over
        return StorageUnavailableError(sentence)

    def _sentence(self, what: str, error: Exception) -> str:
        if isinstance(error, TunerError):
            return str(error)
        place = self._folder.local
        while place and not place.exists():
            place = place.parent
        free = f"; {shutil.disk_usage(place).free / 1e6:,.1f} MB are free" if place else ""
        return f"{self._folder.uri}: {what} can't be written or read: {first_line(error)}{free}"

    def _wait(self, sentence: str, seconds: float, error: BaseException) -> None:
        until = time.monotonic() + seconds
        while True:
            if self._cancelled.is_set() or self._notify(sentence):
                raise StorageUnavailableError(sentence) from error
            left = until - time.monotonic()
            if left <= 0:
                return
            self._cancelled.wait(min(_POLL_SECONDS, left))

    def cancel(self) -> None:
        """From now on nothing is retried: the next failure is raised."""
        self._cancelled.set()


def is_storage_failure(error: BaseException | None) -> bool:
    """Whether an exception, or a cause of it, is a storage's or a disk's: full, failed or read-only."""
    while error is not None:
        if isinstance(error, StorageUnavailableError) or (isinstance(error, OSError) and error.errno in _REFUSALS):
            return True
        error = error.__cause__ or error.__context__
    return False
