"""Atomic writes of local files and folders: after a power cut each is complete, or as it was before.

A rename is enough against a kill. After a power cut a file system may know a new name but not the contents, so the
contents are synced first, then the file is renamed, then its folder is synced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

# Errors of file systems that can't sync a folder and needn't: some in user space, some network file systems.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)


def write_atomically(target: Path, data: bytes) -> None:
    """Replace a file, and create its folder if it is missing. Raises OSError; the old file then stays unchanged."""
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
    """Sync a folder with all its files and rename it to target, which must not exist or be an empty folder.

    Raises OSError; the folder then stays where it was.
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
    """Create a folder and its missing parents, and sync each parent."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder: the names in it are then on the disk."""
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
