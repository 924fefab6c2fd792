"""Files and folders that are written whole or not at all, and what a full disk says.

A rename alone does for a kill: who reads sees the old or all of the new. After a power cut a file system may know the
new name and not what was written, so what is durable comes onto the disk first, then the name, then the folder that
holds the name.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from fcn.errors import ExportError, InputError, TrainingError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PARTIAL_PREFIX = ".fcn-"  # how the name of what isn't whole yet begins
# What file systems answer that can't sync a folder, and need not: some in user space, some of a network.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)
_FULL_BYTES = 1 << 20  # less is free: a library that only says that writing failed met a full disk


@contextmanager
def atomic_write(target: Path, *, durable: bool) -> Iterator[Path]:
    """Yields a free path beside `target` for the block to make a file or a folder at, and renames it to `target`.

    A file takes the place of a file, a folder that of an empty folder alone. If an exception ends the block, nothing of
    the new stays; a kill leaves a hidden path beside `target` (remove_leftovers()).
    durable: whether a power cut after the block may not undo it; costs a sync of each file, and of `target`'s folder.
    Raises OSError; whatever library met the full disk, of an errno in DISK_FULL.
    """
    partial = target.with_name(f"{_prefix(target)}{uuid4().hex}")
    try:
        yield partial
        if durable:
            _sync_all(partial)
        partial.replace(target)
        if durable:
            _sync_folder(target.parent)
    except Exception as error:
        # Before what was written is removed, which makes room.
        if _is_disk_full(error, target.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise
    finally:
        with suppress(OSError):
            remove(partial)


@contextmanager
def fresh_directory(output: Path, *, bytes_needed: int) -> Iterator[Path]:
    """A folder for all that a person's --output is to hold; it becomes `output` at the end of the block.

    bytes_needed: about how many, to say where the disk is full.
    Raises InputError if output is there and not empty, at the start or by the end, or can't be made.
    """
    check_free(output)
    parent = output.absolute().parent
    try:
        with atomic_write(output.absolute(), durable=True) as partial:
            try:
                parent.mkdir(parents=True, exist_ok=True)
                partial.mkdir()
            except OSError as error:
                raise InputError(f"{output} can't be made ({error.strerror}): choose another --output") from error
            yield partial
    except OSError as error:
        if error.errno in DISK_FULL:
            raise InputError(
                f"{output}: the disk is full; about {bytes_needed:,} bytes are needed, "
                f"{shutil.disk_usage(parent).free:,} are free: make room or choose another --output"
            ) from error
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            # Of two at once the second finds the first one's folder in its place.
            check_free(output)
        raise


def check_free(output: Path) -> None:
    """Raises InputError if output is there, unless it is an empty folder."""
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} must be new or empty, got one that is taken: choose another --output")


def remove_leftovers(target: Path) -> None:
    """Removes what killed processes have left of `target`; nobody may be writing it. Raises OSError."""
    for partial in target.parent.glob(f"{_prefix(target)}*"):
        remove(partial)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all in it, if it is there. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def rename(folder: Path, target: Path) -> None:
    """Renames a folder that is durable already; its new name is durable then. Raises OSError."""
    folder.rename(target)
    _sync_folder(target.parent)


def _prefix(target: Path) -> str:
    # Not the name itself: file systems hold 255 bytes, and the name may have all of them.
    return f"{PARTIAL_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]}-"


def _is_disk_full(error: Exception, place: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    if isinstance(error, InputError | TrainingError | ExportError):
        return False
    # safetensors gives the system's words; torch and onnx, which write with their own code, only that a write failed.
    says_so = os.strerror(errno.ENOSPC) in str(error)
    return says_so or (isinstance(error, RuntimeError) and shutil.disk_usage(place).free < _FULL_BYTES)


def _sync_all(path: Path) -> None:
    """Brings a file, or a folder with all in it, onto the disk."""
    if not path.is_dir():
        _sync(path)
        return
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            _sync(Path(folder) / name)
        _sync_folder(Path(folder))


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
