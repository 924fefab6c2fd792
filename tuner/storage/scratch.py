"""Folders of this machine that end with the process that made them, a kill -9 included.

A process holds a lock on each of its folders, which the kernel gives back however the process ends. Whoever needs a
folder next removes those that nobody holds. Process numbers would not do: they are used again, and hosts that share a
folder for temporary files have the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "tuner-scratch-"
_MIN_AGE_SECONDS = 60.0  # a folder that was just made may not be locked yet


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """An empty folder for as long as the block takes. purpose: a part of its name."""
    parent = Path(tempfile.gettempdir())
    _remove_orphans(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=parent))
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: then nobody takes it away either
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@functools.cache
def _remove_orphans(parent: Path) -> None:
    """Remove what processes of this user that are gone left there; looked for once a process."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid == os.geteuid() and time.time() - status.st_ctime > _MIN_AGE_SECONDS:
                _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
