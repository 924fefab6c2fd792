"""Unpacks zip and tar archives of strangers: completely or not at all, and nothing outside the folder."""

from __future__ import annotations

import hashlib
import json
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from fcn import files
from fcn.errors import InputError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
CHUNK = 1 << 18
RECORD = "download.json"
_ZIP_BEGINS_WITH = b"PK"
_ENCRYPTED = 1  # bit in the flags of a zip's member
# Errors from unpacking a damaged archive; the last three if two members have the same path.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    NotImplementedError,
    struct.error,
    ValueError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Member:
    """A file or folder in an archive. kind: what it is; only files are unpacked, and links and devices are refused."""

    name: str
    kind: str  # "file", "folder", "link" or "device"
    encrypted: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, root: str, url: str, sha256: str | None = None) -> str:
    """Unpacks the files under `root` of a zip or tar into a new folder, completely or not at all. Returns its sha256.

    root: "" for all of it; * stands for any one name. url: where it came from, for the folder's download.json. sha256:
    what the archive must have.
    Raises InputError, and removes the archive, if it has another checksum, is damaged or encrypted, has no files under
    `root`, or holds a link, a device or a path that leads out of the folder. Raises OSError of the disk.
    """
    try:
        found = _checked(archive, url, sha256)
        files.remove_leftovers(folder)
        with files.atomic_write(folder, durable=True) as unfinished:
            unfinished.mkdir()
            _unpack_files(archive, unfinished, root)
            record = {"url": url, "sha256": found, "bytes": archive.stat().st_size}
            (unfinished / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    except InputError:
        drop(archive)
        raise
    return found


def drop(archive: Path) -> None:
    """Removes an archive or a part of one, and the notes on its download beside it."""
    archive.unlink(missing_ok=True)
    archive.with_name(f"{archive.name}.json").unlink(missing_ok=True)


def _checked(archive: Path, url: str, sha256: str | None) -> str:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise InputError(
            f"{url}: the file must have sha256 {sha256.lower()}, got {found}; it was removed: "
            "try again, or check the sum"
        )
    return found


def _unpack_files(archive: Path, folder: Path, root: str) -> None:
    empty = True
    try:
        for member in _members(archive):
            place = _place(member, root, archive)
            if place is not None:
                _extract(member, folder.joinpath(*place.parts), archive)
                empty = False
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{archive}: damaged archive ({error}); it was removed: fetch it again") from None
    if empty:
        under = f" under {root}/" if root else ""
        raise InputError(f"{archive}: must hold files{under}, got none; it was removed: is the address right?")


def _members(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as file:
        is_zip = file.read(len(_ZIP_BEGINS_WITH)) == _ZIP_BEGINS_WITH
    return _members_of_zip(archive) if is_zip else _members_of_tar(archive)


def _members_of_zip(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            kind = "link" if is_link else "folder" if info.is_dir() else "file"
            encrypted = bool(info.flag_bits & _ENCRYPTED)
            yield _Member(info.filename, kind, encrypted, partial(opened.open, info))


def _members_of_tar(archive: Path) -> Iterator[_Member]:
    if not tarfile.is_tarfile(archive):
        raise zipfile.BadZipFile("it is neither a zip nor a tar file")
    with tarfile.open(archive) as opened:
        while (info := _read(opened.next)) is not None:
            is_link = info.issym() or info.islnk()
            kind = "file" if info.isreg() else "folder" if info.isdir() else "link" if is_link else "device"
            yield _Member(info.name, kind, False, partial(_contents, opened, info))


def _contents(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    contents = opened.extractfile(info)
    assert contents is not None, f"{info.name} is no file"
    return contents


def _extract(member: _Member, target: Path, archive: Path) -> None:
    if member.encrypted:
        raise InputError(
            f"{archive}: is encrypted ({member.name!r} needs a password); it was removed: fetch one that isn't"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, target.open("xb") as file:
        while chunk := _read(lambda: source.read(CHUNK)):
            file.write(chunk)


def _read(read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (OSError, lzma.LZMAError) as error:  # for damaged bzip2 data, OSError, which would look like the disk's
        raise zipfile.BadZipFile(str(error)) from error


def _place(member: _Member, root: str, archive: Path) -> PurePosixPath | None:
    """A member's path in the folder; None if it is no file or not under root. Raises InputError for an unsafe path."""
    path = PurePosixPath(member.name)
    if not path.parts:
        return None  # "./", the folder itself
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in path.parts[0]:
        raise InputError(
            f"{archive}: holds a path that leaves the folder, {member.name!r}; it was removed: don't trust it"
        )
    if member.kind in ("link", "device"):
        raise InputError(f"{archive}: holds a {member.kind}, {member.name!r}; it was removed: don't trust it")
    above = PurePosixPath(root).parts
    inside = len(path.parts) > len(above) and all(w in ("*", h) for w, h in zip(above, path.parts, strict=False))
    if member.kind == "folder" or not inside:
        return None
    return PurePosixPath(*path.parts[len(above) :])
