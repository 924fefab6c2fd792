"""The decoded pixels of a data set at one size: built once on a machine, and mapped read-only by every run.

    CACHE_DIR/KEY/           images.bin (F,H,W,3), labels.bin (F,H,W), index.json; KEY is a hash of the files' contents
    CACHE_DIR/listings/KEY   the key of those contents, by a hash of the files' paths, sizes and modification times

A run looks up the listing, for which no file is read, and maps the pixels of its key. If there is no such listing, the
files are hashed, so that a copy of the data set in another folder finds the same pixels. If there are no such pixels,
they are built under a lock in a temporary folder, which is then renamed: there is never half a cache, and what a killed
process leaves is removed by the next one. index.json also has the remarks on images from decoding, so that a run which
decodes nothing can still warn. The folder may be deleted while no run uses it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock

from fcn import files
from fcn.config import Config, cache_folder
from fcn.data.dataset import MOST_PROBLEMS_SHOWN, Dataset, Decoded, Pixels, raise_problems
from fcn.data.image_files import resize_image, resize_label
from fcn.data.readers import open_dataset
from fcn.errors import InputError

# Part of every key: raise it when decoding or resizing changes the pixels.
VERSION = 2

Progress = Callable[[int, int], None]  # frames done, frames in all


@dataclass(frozen=True)
class Cache:
    """The pixels of all frames, read-only.

    images: uint8 (F,H,W,3) RGB. labels: uint8 (F,H,W), the channel of each pixel's class, 255 for void.
    dataset: with a warning for each remark on its images. path: the folder that the pixels are mapped from; two caches
    with the same path hold the same pixels.
    """

    dataset: Dataset
    images: Pixels
    labels: Pixels
    path: Path

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels and labels."""
        return self.images.nbytes + self.labels.nbytes


def open_cache(config: Config, progress: Progress | None = None) -> Cache:
    """The pixels of config's data set at config.image_size. Decodes all files, unless an earlier run has done so.

    progress: called with (frames done, frames in all) while decoding.
    Raises InputError if something is wrong with the data set, a file is damaged, or the cache can't be written.
    """
    dataset = open_dataset(config)
    root = cache_folder(config)
    listing = root / "listings" / _listing_key(dataset, config)
    shape = (len(dataset.frames), *config.image_size)
    if listing.is_file():
        cache = _map(root / listing.read_text().strip(), dataset, shape)
        if cache is not None:
            return cache
    try:
        return _find_or_build(config, dataset, root, listing, progress)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(
                f"{root}: the cache can't be written ({error.strerror}): set cache_dir to a folder that can"
            ) from None
        if error.errno in files.DISK_FULL:
            raise InputError(_too_large(root, shape)) from None
        raise


def _describe(dataset: Dataset, config: Config) -> list[object]:
    return [VERSION, dataset.name, dataset.content, dataset.classes, config.classes, config.image_size]


def _listing_key(dataset: Dataset, config: Config) -> str:
    parts: list[object] = _describe(dataset, config)
    for frame in dataset.frames:
        parts.append(frame.name)
        for path in (frame.image, frame.label):
            if path is not None:
                status = path.stat()
                parts.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _content_key(dataset: Dataset, config: Config) -> str:
    digest = hashlib.sha256(json.dumps(_describe(dataset, config)).encode())
    for frame in dataset.frames:
        digest.update(frame.name.encode() + b"\0")
        for path in (frame.image, frame.label):
            if path is not None:
                digest.update(_file_digest(path))
    return f"{dataset.name}-{digest.hexdigest()[:24]}"


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None


def _find_or_build(config: Config, dataset: Dataset, root: Path, listing: Path, progress: Progress | None) -> Cache:
    key = _content_key(dataset, config)
    folder = root / key
    shape = (len(dataset.frames), *config.image_size)
    listing.parent.mkdir(parents=True, exist_ok=True)
    # The system releases the lock if the process that holds it dies, so a killed one never blocks the next.
    with FileLock(root / f"{key}.lock"):
        cache = _map(folder, dataset, shape)
        if cache is None:
            _build(folder, dataset, config.image_size, progress)
            cache = _map(folder, dataset, shape)
            assert cache is not None, f"{folder} does not open right after it was built"
    # Not durable: a listing that is empty after a power cut is written again.
    with files.atomic_write(listing, durable=False) as partial:
        partial.write_text(key)
    return cache


def _map(folder: Path, dataset: Dataset, shape: tuple[int, int, int]) -> Cache | None:
    """The cache in a folder; None if there is none, or if it is incomplete or of other frames."""
    try:
        index = json.loads((folder / "index.json").read_text())
        if index["version"] != VERSION or tuple(index["shape"]) != shape:
            return None
        if index["names"] != [frame.name for frame in dataset.frames]:
            return None
        for name in ("images.bin", "labels.bin"):
            if _sample_checksum(folder / name) != index["checksums"][name]:
                return None
        # Mapped pages are in memory only once, for all runs together.
        images = np.memmap(folder / "images.bin", dtype=np.uint8, mode="r", shape=(*shape, 3))
        labels = np.memmap(folder / "labels.bin", dtype=np.uint8, mode="r", shape=shape)
        dataset = dataset.with_remarks(index["remarks"])
    except (FileNotFoundError, NotADirectoryError, LookupError, TypeError, ValueError):
        return None
    return Cache(dataset, images, labels, folder)


def _sample_checksum(path: Path) -> str:
    """Length and CRC of 64 evenly spaced pages: it detects an incomplete file, and takes no longer for a large one."""
    length = path.stat().st_size
    checksum = 0
    with path.open("rb") as file:
        for offset in np.linspace(0, max(0, length - 4096), 64, dtype=np.int64).tolist():
            file.seek(offset)
            checksum = zlib.crc32(file.read(4096), checksum)
    return f"{length}:{checksum:08x}"


def _build(folder: Path, dataset: Dataset, size: tuple[int, int], progress: Progress | None) -> None:
    """Decodes all frames into `folder`. The caller must hold the folder's lock."""
    files.remove_leftovers(folder)
    shape = (len(dataset.frames), *size)
    if shutil.disk_usage(folder.parent).free < _bytes_needed(shape):
        raise InputError(_too_large(folder.parent, shape))
    with files.atomic_write(folder, durable=True) as partial:
        partial.mkdir()
        with (partial / "images.bin").open("wb") as images, (partial / "labels.bin").open("wb") as labels:
            remarks = _write_pixels(dataset, size, images, labels, progress)
        index = {
            "version": VERSION,
            "shape": shape,
            "names": [frame.name for frame in dataset.frames],
            "remarks": remarks,
            "checksums": {name: _sample_checksum(partial / name) for name in ("images.bin", "labels.bin")},
        }
        (partial / "index.json").write_text(json.dumps(index))
        files.remove(folder)  # an incomplete cache; a process that has mapped it keeps its pages


def _write_pixels(
    dataset: Dataset, size: tuple[int, int], images: BinaryIO, labels: BinaryIO, progress: Progress | None
) -> dict[str, list[int]]:
    """Writes each frame's pixels in order. Returns the remarks, each with the indices of its frames.

    Raises one InputError that names the frames that can't be read.
    """
    problems: list[str] = []
    remarks: dict[str, list[int]] = {}
    for done, decoded in enumerate(_decode_ahead(dataset, size), start=1):
        if isinstance(decoded, InputError):
            problems.append(str(decoded))
            # A few problems show what is wrong, so the rest of a large data set isn't read first.
            if len(problems) > MOST_PROBLEMS_SHOWN:
                break
        elif not problems:
            images.write(decoded.image.tobytes())
            labels.write(decoded.label.tobytes())
            for remark in decoded.remarks:
                remarks.setdefault(remark, []).append(done - 1)
        if progress is not None:
            progress(done, len(dataset.frames))
    raise_problems(problems)
    return remarks


def _decode_ahead(dataset: Dataset, size: tuple[int, int]) -> Iterator[Decoded | InputError]:
    """Each frame's pixels at `size`, or its error, in order. A thread for each core decodes a few frames ahead."""

    def decode(index: int) -> Decoded | InputError:
        try:
            image, label, remarks = dataset.decoded(index)
        except InputError as error:
            return error
        return Decoded(resize_image(image, size), resize_label(label, size), remarks)

    # Threads are enough, since Pillow releases the interpreter's lock while it decodes and resizes.
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Decoded | InputError]] = deque()
        try:
            for index in range(len(dataset.frames)):
                waiting.append(pool.submit(decode, index))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _bytes_needed(shape: tuple[int, int, int]) -> int:
    frames, height, width = shape
    return frames * height * width * 4


def _too_large(folder: Path, shape: tuple[int, int, int]) -> str:
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    return (
        f"{folder}: the cache of {shape[0]} frames of {shape[1]}x{shape[2]} needs "
        f"{_bytes_needed(shape) / 1e6:.0f} MB, got {free / 1e6:.0f} MB of free disk: make room, set "
        "cache_dir elsewhere, or lower image_size"
    )
