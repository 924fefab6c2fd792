"""Files and folders of this machine that a power cut leaves whole, or as they were before.

A rename alone does for a kill. After a power cut a file system may know the new name and not what was written, so
contents come onto the disk first, then the name, then the folder that holds the name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

# What file systems say that can't sync a folder, and need not: some in user space, some of a network.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)


def write_atomically(target: Path, data: bytes) -> None:
    """Replace a file; its folder is made if it isn't there. Raises OSError, and leaves what was there."""
    make_folder(target.parent)
    draft = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_folder(target.parent)


def publish(folder: Path, target: Path) -> None:
    """Give a folder, with all in it, its place, which must be free or an empty folder.

    Raises OSError, and leaves the folder where it was.
    """
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(path) / name)
        sync_folder(Path(path))
    folder.rename(target)
    try:
        sync_folder(target.parent)
    except OSError:
        target.rename(folder)
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that aren't there."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring onto the disk which names a folder holds."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
