"""A directory that appears whole or not at all."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from fcn import files
from fcn.errors import InputError


@contextmanager
def fresh_directory(output: Path) -> Iterator[Path]:
    """A temporary directory beside `output`, renamed to it at the end, or removed if an exception ends it.

    Raises InputError if output is there and not empty, then or by the end, or can't be made.
    """
    check_free(output)
    try:
        parent = output.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        # On the same file system, so that the last step is a rename.
        partial = Path(mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=parent))
    except OSError as error:
        raise InputError(f"{output} can't be made ({error.strerror}): choose another --output") from error
    try:
        yield partial
        partial.chmod(0o755)
        try:
            # A rename takes the place of an empty directory, and of nothing else: of two at once the second fails.
            files.publish(partial, output)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            check_free(output)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(output: Path) -> None:
    """Raises InputError if output is there, unless it is an empty directory."""
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} must be new or empty, got one that is taken: choose another --output")
