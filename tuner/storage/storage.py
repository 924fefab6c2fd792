"""Where studies are: a local folder or a bucket, behind one small interface.

STORAGE/NAME/study.json              the checked study (tuner/spec/study.py)
STORAGE/NAME/events.jsonl            the event log, one event a line (tuner/events/log.py)
STORAGE/NAME/report.html             what the study's end leaves to look at
STORAGE/NAME/trials/7/epoch-000012/  a checkpoint, valid when it has report.json, which is written last
STORAGE/NAME/trials/7/images/…       images of the epochs that were the trial's best so far
STORAGE/NAME/trials/7/error.txt      the traceback of a failed trial
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.fs

from tuner.errors import StudyError, first_line
from tuner.storage import files
from tuner.storage.address import redacted, without_secrets

_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")
STAGING = ".incoming-"
"""Prefix of folders that are still being written; those that a kill left behind may be deleted."""


class Storage:
    """A folder or bucket. Paths are relative, with '/' between their parts."""

    def __init__(self, uri: str):
        """uri: a path, or a URI that pyarrow knows (file, s3, gs, hdfs). Raises StudyError if it is neither."""
        if _ONE_SLASH.match(uri):
            raise StudyError(_invalid_uri(uri, "a URI has two slashes after its first colon"))
        self.relative = "://" not in uri and not Path(uri).expanduser().is_absolute()
        """Whether the path depends on the folder in which the command was started."""
        self._uri = uri if "://" in uri else str(Path(uri).expanduser().resolve())
        self.uri = without_secrets(self._uri)
        """The address without its secrets."""
        if "://" in uri and ("#" in uri or (uri.startswith("file:") and "?" in uri)):
            # pyarrow would silently ignore the rest, and the studies would be in another folder.
            raise StudyError(_invalid_uri(uri, "write %23 for # and %3F for ?, or give the plain path of a folder"))
        try:
            self._fs, root = pyarrow.fs.FileSystem.from_uri(self._uri)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise StudyError(_invalid_uri(uri, f"{error}{_credentials_hint(uri)}")) from None
        self._root = root.rstrip("/")
        if not self._root:
            raise StudyError(f"--storage: a folder or bucket must be named, got {self.uri!r}; add its name")
        self.local: Path | None = Path(root) if isinstance(self._fs, pyarrow.fs.LocalFileSystem) else None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return str(self._root).rpartition("/")[2]

    def __truediv__(self, path: str) -> Storage:
        child = object.__new__(Storage)
        child._uri, child._fs = _child_uri(self._uri, path), self._fs
        child.uri, child.relative = without_secrets(child._uri), self.relative
        child._root = f"{self._root}/{path}"
        child.local = self.local / path if self.local else None
        return child

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self._uri,)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def read_text(self, path: str) -> str | None:
        """A file's text, or None if there is none. Raises StudyError if it can't be read, or isn't text."""
        data = self.read_bytes(path)
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise StudyError(
                f"{self.uri}/{path}, line {line}: must be UTF-8, got the byte {error.object[error.start]:#04x}; "
                "the file is damaged: restore it from a copy"
            ) from None

    def read_bytes(self, path: str) -> bytes | None:
        """A file's contents, or None if there is none. Raises StudyError if it can't be read."""
        try:
            with self._fs.open_input_stream(self._path(path)) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._not_readable(error) from None

    def write_text(self, path: str, text: str) -> None:
        """Replace a file atomically and durably. Raises StudyError if the storage can't be written."""
        self.write_bytes(path, text.encode())

    def write_bytes(self, path: str, data: bytes) -> None:
        """As `write_text`."""
        try:
            if self.local:
                files.write_atomically(self.local / path, data)
            else:
                with self._fs.open_output_stream(self._path(path)) as stream:
                    stream.write(data)
        except OSError as error:
            raise self.not_writable(error) from None

    def check_writable(self) -> None:
        """Raises StudyError if a local storage can't be created or written; a bucket isn't checked."""
        if self.local is None:
            return
        place = self.local
        while not place.exists():
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise self._not_writable("a file" if place.is_file() else "no write permission")

    def not_writable(self, error: OSError) -> StudyError:
        """The StudyError for an error on writing."""
        return self._not_writable(error.strerror or redacted(str(error), self._uri))

    def _not_writable(self, got: str) -> StudyError:
        return StudyError(
            f"--storage {self.uri}: must be a folder that can be written, got {got}; "
            "give another folder, or free disk space or grant write permission here"
        )

    def _not_readable(self, error: OSError) -> StudyError:
        why = redacted(first_line(error), self._uri)
        return StudyError(
            f"--storage {self.uri}: must be a folder that can be read, got: {why}; "
            "give another folder, or grant read permission here"
        )

    def names(self, path: str = "") -> list[str]:
        """Sorted names of a folder's files and folders; empty if it doesn't exist."""
        selector = pyarrow.fs.FileSelector(self._path(path), allow_not_found=True)
        try:
            return sorted(info.base_name for info in self._fs.get_file_info(selector))
        except OSError as error:
            raise self._not_readable(error) from None

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        return bool(self._info(path).type != pyarrow.fs.FileType.NotFound)

    def written_at(self, path: str) -> float | None:
        """When a file was last written, in seconds since 1970 by the storage's own clock; None if it doesn't exist."""
        found = self._info(path).mtime_ns
        return None if found is None else found / 1e9

    def _info(self, path: str) -> Any:
        try:
            return self._fs.get_file_info(self._path(path))
        except OSError as error:
            raise self._not_readable(error) from None

    def delete(self, path: str) -> None:
        """Delete a folder and its contents, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_dir(self._path(path))

    def put(self, folder: Path, path: str, last: str | None = None) -> None:
        """Move a local folder to `path`, or copy it there into a bucket; the file named `last` is written last.

        When this returns, all of it survives a power cut. Raises OSError; with a local storage `folder` and what was at
        `path` are then unchanged.
        """
        if self.local:
            target = self.local / path
            files.make_folder(target.parent)
            # Into the storage's own file system first: the rename at the end is then atomic.
            staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=target.parent))
            try:
                moved, before = Path(shutil.move(folder, staging)), staging / ".before"
                if target.exists():
                    target.rename(before)
                try:
                    files.publish(moved, target)
                except OSError:
                    if before.exists():
                        before.rename(target)
                    shutil.move(moved, folder)
                    raise
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            return
        if last is not None:
            # The folder that is there is incomplete from here on.
            with contextlib.suppress(FileNotFoundError):
                self._fs.delete_file(f"{self._path(path)}/{last}")
        found = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name == last)
        for file in found:
            place = f"{self._path(path)}/{file.relative_to(folder).as_posix()}"
            with self._fs.open_output_stream(place) as stream, file.open("rb") as source:
                shutil.copyfileobj(source, stream, 8 << 20)

    def get(self, path: str, folder: Path) -> Path:
        """A local folder with the contents of `path`: itself in a local storage, else a copy in `folder`."""
        if self.local:
            return self.local / path
        pyarrow.fs.copy_files(
            self._path(path),
            str(folder),
            source_filesystem=self._fs,
            destination_filesystem=pyarrow.fs.LocalFileSystem(),
        )
        return folder


def _invalid_uri(uri: str, why: str) -> str:
    text = f"--storage: a path or a URI such as s3://bucket/folder is needed, got {uri!r}: {why}"
    return redacted(text, uri)


def _credentials_hint(uri: str) -> str:
    if without_secrets(uri) == uri:
        return ""
    return (
        "; leave the keys out of it: they are read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "or from ~/.aws/credentials"
    )


def _child_uri(uri: str, path: str) -> str:
    """The URI of `path` inside `uri`; the query of `uri` (an endpoint, a region) stays at the end."""
    folder, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{folder.rstrip('/')}/{path}{mark}{query}"
