"""Folders that a power cut leaves whole, or not there.

A rename alone does for a kill. After a power cut a file system may know the new name and not what was written, so
contents come onto the disk first, then the name, then the folder that holds the name.
"""

import errno
import os
from pathlib import Path

# What file systems say that can't sync a folder, and need not: some in user space, some of a network.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)


def publish(folder: Path, target: Path) -> None:
    """Gives a folder, with all in it, its place, which must be free or an empty folder. Raises OSError."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(path) / name)
        _sync_folder(Path(path))
    rename(folder, target)


def rename(folder: Path, target: Path) -> None:
    """Renames what is on the disk already, for good. Raises OSError."""
    folder.rename(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
