"""The local copy of a data set whose data_dir is a URL: fetched once a machine, and then read like any folder.

    CACHE_DIR/fetched/KEY/            KEY is of the URL
        newest                        which version was there when somebody last looked
        VERSION/                      a whole copy; VERSION is a hash of the names, sizes and versions of its files
        files/                        each file under a hash of its name, size and version, linked into each copy
        archive.part                  an archive that isn't whole yet

fetch() looks at the source and brings what isn't here yet; folder_of() is the newest copy, without a look. A file is
given its name when it is whole, and a copy when it has all its files: what a kill interrupts is taken up again, and
there is never half a copy. A changed file is fetched again, an unchanged one linked. Processes that fetch at once wait
for each other. The folder may be deleted while no run uses it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock

from fcn import files
from fcn.config import Config, cache_folder
from fcn.data.dataset import raise_problems
from fcn.data.layout import folder_within
from fcn.data.remote import download
from fcn.data.remote.address import Address, read_address
from fcn.data.remote.archives import CHUNK, drop, unpack
from fcn.data.remote.file_systems import FileSystem, RemoteFile, explained, open_file_system
from fcn.errors import InputError

_AT_ONCE = 16  # files: small ones take a round trip each
_ATTEMPTS = 5  # in a row without new bytes
_LOOKS = 3
_PAUSE_SECONDS = 0.5  # before another attempt, doubled each time
_PROGRESS_SECONDS = 10.0
_Bring = Callable[[Path], None]  # makes a copy as this folder


def fetch(config: Config) -> None:
    """Looks at the URL in config.data_dir and fetches what isn't on this machine yet; nothing for a path.

    Says on stderr that and how much is fetched. Raises InputError if the URL, its credentials, this machine's disk or
    the data there are not right; what has arrived whole is kept.
    """
    address = _address(config)
    if address is None or address.folder is not None:
        return
    place = cache_folder(config) / "fetched" / address.key
    with _disk_explained(place, address):
        if address.sha256 is not None and (place / address.sha256).is_dir():
            return  # whatever the server has by now
        version, bring = _look(address, place)
        place.mkdir(parents=True, exist_ok=True)
        # The system releases the lock if the process that holds it dies.
        with FileLock(place.with_name(f"{place.name}.lock")):
            if not (place / version).is_dir():
                bring(place / version)
        if address.sha256 is None and _read(place / "newest") != version:
            with files.atomic_write(place / "newest", durable=False) as partial:
                partial.write_text(version)


def folder_of(config: Config) -> Path | None:
    """The folder of config's data set on this machine; None if it has none.

    If data_dir is a URL: the copy that fetch() last found to be the newest; fetched now if there is none. Raises
    InputError as fetch() does.
    """
    address = _address(config)
    if address is None:
        return None if config.data_dir is None else Path(config.data_dir)
    if address.folder is not None:
        return address.folder
    place = cache_folder(config) / "fetched" / address.key
    for first in (True, False):
        copy = place / (address.sha256 or _read(place / "newest") or "none")
        if copy.is_dir():
            return folder_within(copy) if address.archive else copy
        if first:
            fetch(config)
    raise InputError(f"{address.place}: its copy in {place} was removed while it was opened: start again")


def url_of(config: Config) -> str | None:
    """The URL of config's data set, without its query; None if it has none."""
    address = _address(config)
    return None if address is None else address.place


@contextmanager
def named_by_source(config: Config, folder: Path | None) -> Iterator[None]:
    """Names the URL in an InputError about a file of its local copy, `folder`: it is there that it can be mended."""
    try:
        yield
    except InputError as error:
        raise InputError(told_by_source(str(error), config, folder)) from None


def told_by_source(text: str, config: Config, folder: Path | None) -> str:
    """A sentence about files of a local copy, with the URL in place of the folder."""
    address = _address(config)
    return text if address is None or folder is None else text.replace(str(folder), address.place)


def _address(config: Config) -> Address | None:
    if config.data_dir is None or config.dataset == "scenes":  # nothing is read for them
        return None
    return read_address(config.data_dir)


def _look(address: Address, place: Path) -> tuple[str, _Bring]:
    """The version that the source has now, and what makes a copy of it."""
    if address.web:
        version = address.sha256 or _key(download.version_of(address.url))
        return version, lambda copy: _bring_from_web(address, place, copy)
    with explained(address):
        source = open_file_system(address.url)
        found = _listed(source)
    if not found:
        raise InputError(f"{address.place}: there are no files: check the address")
    is_file = found[0].name == ""
    if is_file != address.archive:
        must, got = ("an archive", "a folder") if address.archive else ("a folder or an archive", "another file")
        raise InputError(f"{address.place}: must be {must}, got {got}: check the address")
    if address.archive:
        (file,) = found
        return address.sha256 or _key(file), lambda copy: _bring_archive(source, file, address, place, copy)
    raise_problems(
        [
            f"{address.place}: holds {file.name!r}, a name that leaves the folder: rename it there"
            for file in found
            if _leaves_the_folder(file.name)
        ]
    )
    return _key(sorted(found)), lambda copy: _bring_files(source, found, address, place, copy)


def _listed(source: FileSystem) -> list[RemoteFile]:
    for _ in range(_LOOKS - 1):
        try:
            return source.files()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            time.sleep(_PAUSE_SECONDS)
    return source.files()


def _leaves_the_folder(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\0" in name


def _bring_from_web(address: Address, place: Path, copy: Path) -> None:
    part = place / "archive.part"
    _say(f"fetching {address.place} to {place}")
    download.fetch(address.url, part, progress=_progress(address))
    _unpack(part, copy, address)
    drop(part)


def _bring_archive(source: FileSystem, file: RemoteFile, address: Address, place: Path, copy: Path) -> None:
    archive = _whole_files(source, [file], address, place)[file]
    _unpack(archive, copy, address)
    archive.unlink()


def _unpack(archive: Path, copy: Path, address: Address) -> None:
    try:
        unpack(archive, copy, "", address.place, address.sha256)
    except InputError as error:
        raise InputError(str(error).replace(str(archive), address.place)) from None


def _bring_files(source: FileSystem, found: Sequence[RemoteFile], address: Address, place: Path, copy: Path) -> None:
    whole = _whole_files(source, found, address, place)
    files.remove_leftovers(copy)
    with files.atomic_write(copy, durable=True) as partial:
        partial.mkdir()
        for file, path in whole.items():
            target = partial / file.name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(path, target)
            except (FileExistsError, NotADirectoryError):
                raise InputError(
                    f"{address.place}: holds {file.name!r}, whose place another file takes: rename one of the two"
                ) from None


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(path, target)


def _whole_files(
    source: FileSystem, found: Sequence[RemoteFile], address: Address, place: Path
) -> dict[RemoteFile, Path]:
    """Where each file lies when all are whole; those that aren't here yet are fetched."""
    kept = place / "files"
    kept.mkdir(parents=True, exist_ok=True)
    paths = {file: kept / _key(file) for file in found}
    missing = [file for file, path in paths.items() if not _is_whole(path, file.size)]
    if not missing:
        return paths
    size = sum(file.size or 0 for file in missing)
    here = f" ({len(found) - len(missing):,} more are here)" if len(missing) < len(found) else ""
    _say(f"fetching {address.place}: {len(missing):,} files, {size / 1e6:,.1f} MB{here}, to {place}")
    if size > shutil.disk_usage(place).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _fetch_all(source, {file: paths[file] for file in missing}, address, size)
    return paths


def _fetch_all(source: FileSystem, missing: dict[RemoteFile, Path], address: Address, size: int) -> None:
    progress = _progress(address)
    arrived, lock, ended = 0, threading.Lock(), threading.Event()

    def count(length: int) -> None:
        nonlocal arrived
        if ended.is_set():
            raise CancelledError
        with lock:
            arrived += length
            progress(arrived, size)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(_fetch_file, source, file, path, address, count) for file, path in missing.items()]
        try:
            for done in as_completed(waiting):
                done.result()
        except BaseException:  # Ctrl-C too: the other files end at their next bytes
            ended.set()
            pool.shutdown(cancel_futures=True)
            raise


def _is_whole(path: Path, size: int | None) -> bool:
    # A power cut may leave a name without the contents.
    return path.is_file() and size in (None, path.stat().st_size)


def _fetch_file(
    source: FileSystem, file: RemoteFile, path: Path, address: Address, count: Callable[[int], None]
) -> None:
    """Fetches a file, and gives it its name when it is whole. A part of it that is here already is continued."""
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        reason: Exception | None = None
        with part.open("ab") as target:
            reason = _append_rest(source, file, target, before, count)
        have = part.stat().st_size
        if reason is None and file.size in (None, have):
            part.chmod(0o444)  # a change in one copy would be one in all
            part.replace(path)
            return
        if file.size is not None and have > file.size:
            part.unlink()
            raise InputError(f"{address.place}/{file.name}: was changed while it was fetched: start again")
        failures = 0 if have > before else failures + 1
        if failures >= _ATTEMPTS:
            what = f"got {have} of its {file.size} bytes" if reason is None else str(reason).splitlines()[0]
            raise InputError(
                f"{address.place}/{file.name}: can't be fetched: {what}; what has arrived is kept: start again when it "
                "can be reached"
            )
        time.sleep(_PAUSE_SECONDS * 2**failures)


def _append_rest(
    source: FileSystem, file: RemoteFile, target: IO[bytes], have: int, count: Callable[[int], None]
) -> Exception | None:
    """Appends what follows the first `have` bytes. Returns the error of the source that ended it, None if none did."""
    try:
        opened = source.open(file.path)
    except Exception as error:  # of many kinds, all from the network
        return error
    with opened:
        if have:
            opened.seek(have)
        while True:
            try:
                chunk = opened.read(CHUNK)
            except Exception as error:
                return error
            if not chunk:
                return None
            target.write(chunk)
            count(len(chunk))


def _key(described: object) -> str:
    text = json.dumps(described, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None


def _progress(address: Address) -> Callable[[int, int | None], None]:
    """A function that is told how many bytes of how many have arrived, and says it now and then on stderr."""
    said_at = time.monotonic()

    def progress(done: int, whole: int | None) -> None:
        nonlocal said_at
        if time.monotonic() - said_at > _PROGRESS_SECONDS:
            said_at = time.monotonic()
            of = f" of {whole / 1e6:,.1f}" if whole else ""
            _say(f"fetching {address.place}: {done / 1e6:,.1f}{of} MB")

    return progress


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


@contextmanager
def _disk_explained(place: Path, address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in files.DISK_FULL:
            free = shutil.disk_usage(place).free if place.exists() else 0
            raise InputError(
                f"{place}: the disk is too full for {address.place}, {free / 1e6:,.1f} MB are free: make room, or set "
                "cache_dir elsewhere; what has arrived is kept"
            ) from None
        raise InputError(
            f"{place}: the data of {address.place} can't be written ({error.strerror or error}): set cache_dir to a "
            "folder that can"
        ) from None
