"""Folders elsewhere: which files they have, and their contents.

pyarrow knows s3, gs, abfs and hdfs, and lists a bucket with as few requests as it takes. fsspec knows dozens more,
most of them by a package that has to be installed: its error says which.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, Protocol, cast
from urllib.parse import quote

from fcn.data.remote.address import Address
from fcn.errors import InputError

# What reading a file changes, which says nothing of its contents.
_CHANGED_BY_READING = ("time", "atime")
# pyarrow would try for 15 minutes to reach Google, where Ctrl-C isn't heard.
_GOOGLE, _LIMIT = ("gs:", "gcs:"), "retry_limit_seconds=60"
_MEANS_NO_ACCESS = ("access_denied", "forbidden", "403", "credential", "unauthorized", "permission", "invalidaccesskey")


class RemoteFile(NamedTuple):
    """name: relative to the folder, "" if the URL names the file itself. size: bytes, None if unknown.

    version: another after the file was changed, as far as its file system tells.
    """

    name: str
    path: str
    size: int | None
    version: str


class FileSystem(Protocol):
    def files(self) -> list[RemoteFile]:
        """The files at any depth. Raises FileNotFoundError if there is nothing at the URL."""

    def open(self, path: str) -> IO[bytes]:
        """Opens a file by its `path`; it can be read from any position."""


class _Arrow:
    def __init__(self, file_system: Any, root: str):
        self._fs, self._root = file_system, root.rstrip("/")

    def files(self) -> list[RemoteFile]:
        import pyarrow.fs

        itself = self._fs.get_file_info(self._root)
        if itself.is_file:
            return [self._file(itself)]
        found = self._fs.get_file_info(pyarrow.fs.FileSelector(self._root, recursive=True))
        return [self._file(info) for info in found if info.is_file]

    def _file(self, info: Any) -> RemoteFile:
        name = info.path.removeprefix(self._root).removeprefix("/")
        return RemoteFile(name, info.path, info.size, str(info.mtime_ns))

    def open(self, path: str) -> IO[bytes]:
        return cast(IO[bytes], self._fs.open_input_file(path))


class _Fsspec:
    def __init__(self, file_system: Any, root: str):
        self._fs, self._root = file_system, root.rstrip("/")

    def files(self) -> list[RemoteFile]:
        self._fs.invalidate_cache()
        found = self._fs.find(self._root, detail=True)
        return [self._file(path, info) for path, info in found.items() if not path.endswith("/")]

    def _file(self, path: str, info: dict[str, Any]) -> RemoteFile:
        # Each file system has a name of its own for what changes with a file: an ETag, a time, a hash.
        known = {
            key: str(value)
            for key, value in info.items()
            if isinstance(value, str | int | float | datetime.datetime) and key not in _CHANGED_BY_READING
        }
        version = hashlib.sha256(repr(sorted(known.items())).encode("utf-8", "surrogatepass")).hexdigest()
        return RemoteFile(path.removeprefix(self._root).removeprefix("/"), path, info.get("size"), version)

    def open(self, path: str) -> IO[bytes]:
        return cast(IO[bytes], self._fs.open(path, "rb"))


def open_file_system(url: str) -> FileSystem:
    """The file system of a URL; nothing is asked of it yet. Raises errors of many kinds: see explained()."""
    import pyarrow
    import pyarrow.fs

    if url.startswith(_GOOGLE) and "retry_limit_seconds" not in url:
        url = f"{url}{'&' if '?' in url else '?'}{_LIMIT}"
    try:
        # Spaces and letters outside ASCII may be written as they are.
        return _Arrow(*pyarrow.fs.FileSystem.from_uri(quote(url, safe="%/:?#[]@!$&'()*+,;=~")))
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem" not in str(error):
            raise
    import fsspec.core

    return _Fsspec(*fsspec.core.url_to_fs(url))


@contextmanager
def explained(address: Address) -> Iterator[None]:
    """Turns what a file system raises into an InputError that says what to do."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{address.place}: there is nothing: check the address") from None
    except ImportError as error:
        raise InputError(f"{address.place}: {error} (pip install), here and on every node") from None
    # File systems raise what their libraries do, of no common kind.
    except Exception as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        lacks_access = any(word in what.lower() for word in _MEANS_NO_ACCESS)
        fix = "check the credentials of this machine, and what they may read" if lacks_access else "check the address"
        raise InputError(f"{address.place}: can't be read: {what}: {fix}") from None
