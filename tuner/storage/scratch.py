"""Temporary folders that are removed after their process ends, even by kill -9.

A process holds a lock on each of its folders, which the kernel releases however the process ends. The next process that
needs a folder removes those that nobody has locked. Process ids would not do: they are reused, and hosts that share a
folder for temporary files have the same ones.
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
MIN_AGE_SECONDS = 60.0  # a younger folder may not be locked yet


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """An empty folder that is removed at the end of the block. purpose: a part of its name."""
    parent = Path(tempfile.gettempdir())
    _remove_orphans(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=parent))
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(
            OSError
        ):  # a file system without locks: other processes can't lock it, and so don't remove it
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@functools.cache
def _remove_orphans(parent: Path) -> None:
    """Remove the folders of this user's dead processes; done once in each process."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid == os.geteuid() and time.time() - status.st_ctime > MIN_AGE_SECONDS:
                _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
