"""Files and folders that are written completely or not at all, and how a full disk is reported.

Everything is written under a temporary name and then renamed, so that after a kill the old or the complete new version
is there. After a power cut a file system may have the new name without the contents. A durable write therefore syncs
the contents before the rename, and the folder after it.
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
PARTIAL_PREFIX = ".fcn-"  # temporary names begin with it
# The errors of file systems that can't sync a folder and don't need to: some in user space, some over a network.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)
_FULL_BYTES = 1 << 20  # with less free than this, a library's vague error on writing is taken for a full disk


@contextmanager
def atomic_write(target: Path, *, durable: bool) -> Iterator[Path]:
    """Yields an unused path beside `target`, where the block makes a file or a folder, and then renames it to `target`.

    A file may replace a file, a folder only an empty folder. If the block raises, what it wrote is removed; a kill
    leaves it, under a hidden name beside `target` (see remove_leftovers()).
    durable: the write survives a power cut after the block. It costs a sync of each file and of `target`'s folder.
    Raises OSError; for a full disk with an errno in DISK_FULL, whichever library met it.
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
        # Checked before the partial file is removed, which frees its space.
        if _is_disk_full(error, target.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise
    finally:
        with suppress(OSError):
            remove(partial)


@contextmanager
def fresh_directory(output: Path, *, bytes_needed: int) -> Iterator[Path]:
    """Yields a temporary folder that becomes `output`, a command's --output, at the end of the block.

    bytes_needed: about how many, for the message if the disk is full.
    Raises InputError if the disk is full, if `output` can't be made, or if it exists and isn't empty, at the start or
    at the end.
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
            # If two commands write to it at once, the second finds the first one's folder.
            check_free(output)
        raise


def check_free(output: Path) -> None:
    """Raises InputError if `output` exists, unless it is an empty folder."""
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} must be new or empty, got one that isn't: choose another --output")


def remove_leftovers(target: Path) -> None:
    """Removes what killed processes have left of `target`. No process may be writing it. Raises OSError."""
    for partial in target.parent.glob(f"{_prefix(target)}*"):
        remove(partial)


def remove(path: Path) -> None:
    """Removes a file, or a folder with its contents, if it exists. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def rename(folder: Path, target: Path) -> None:
    """Renames a folder whose contents are synced, so that the new name survives a power cut. Raises OSError."""
    folder.rename(target)
    _sync_folder(target.parent)


def _prefix(target: Path) -> str:
    # A hash and not the name itself, which may have all of the 255 bytes that file systems allow.
    return f"{PARTIAL_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]}-"


def _is_disk_full(error: Exception, place: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    if isinstance(error, InputError | TrainingError | ExportError):
        return False
    # safetensors quotes the system's message; torch and onnx, with their own code, say only that a write failed.
    says_so = os.strerror(errno.ENOSPC) in str(error)
    return says_so or (isinstance(error, RuntimeError) and shutil.disk_usage(place).free < _FULL_BYTES)


def _sync_all(path: Path) -> None:
    """Syncs a file, or a folder with its contents, to the disk."""
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
