"""A trial's checkpoints in the storage: published whole, the newest and the best kept while it runs.

Beside what the workload wrote, a checkpoint holds files.json, the size and CRC-32 of each file, and report.json, the
report it belongs to and the best so far. That arrives last, so a folder without it is what a kill left behind, and is
never read. One whose files aren't as files.json says is damaged: a trial goes on from the one before, or begins anew.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tuner.errors import StorageUnavailableError, StudyError
from tuner.storage.scratch import scratch
from tuner.storage.storage import STAGING, Storage

_REPORT = "report.json"
_FILES = "files.json"
_BLOCK = 8 << 20
_RESUME = "resume"  # the folder that only going on needs


@dataclass
class Progress:
    """How far a trial has come."""

    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_value: float | None = None
    best_epoch: int | None = None


def folder_of(epoch: int) -> str:
    return f"epoch-{epoch:06d}"


def epoch_of(folder: str) -> int:
    """The epoch of a checkpoint's or its images' folder, by the folder's name."""
    return int(folder.removeprefix("epoch-"))


class TrialCheckpoints:
    """The checkpoints of one trial. storage: the trial's folder."""

    def __init__(self, storage: Storage):
        self._storage = storage

    def newest(self) -> tuple[Progress, str] | None:
        """The newest checkpoint that can be gone on from, by its names: its progress and folder's name, or None."""
        return next(self._resumable(), None)

    def newest_intact(self, folder: Path) -> tuple[Progress, Path] | None:
        """The newest checkpoint to go on from that is as it was written, and a local directory with it, or None.

        folder: where a copy may be made, an empty one.
        """
        for progress, name in self._resumable():
            directory = self._storage.get(name, folder / name)
            if is_intact(directory) and self._best_is_intact(progress):
                return progress, directory
        return None

    def _resumable(self) -> Iterator[tuple[Progress, str]]:
        for name in reversed(self._names()):
            text = self._storage.read_text(f"{name}/{_REPORT}")
            if text is None or _RESUME not in self._storage.names(name):
                continue
            with contextlib.suppress(ValueError, TypeError):  # a report that can't be read is none
                yield Progress(**json.loads(text)), name

    def _best_is_intact(self, progress: Progress) -> bool:
        """Whether the best that a trial would go on with, and not train again, is as it was written if it is there."""
        if self._storage.local is None or progress.best_epoch is None:
            return True
        directory = self._storage.local / folder_of(progress.best_epoch)
        return not directory.exists() or is_intact(directory)

    def publish(self, directory: Path, progress: Progress) -> list[str]:
        """Bring a checkpoint directory into the storage, then drop what it makes superfluous.

        Of a running trial the newest checkpoint with resume/ stays, the best one's weights, and those of the best that
        the newest knows.
        Returns the paths of its images, under the trial's folder, if this epoch is the best so far.
        Disk full raises StorageUnavailableError and leaves the checkpoints before it, and `directory`, as they were.
        """
        name = folder_of(progress.epoch)
        needed = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        try:
            (directory / _FILES).write_text(json.dumps(_files_of(directory)), encoding="utf-8")
            (directory / _REPORT).write_text(json.dumps(asdict(progress)), encoding="utf-8")
            is_best = progress.best_epoch == progress.epoch
            images = self.publish_images(directory / "images", progress.epoch) if is_best else []
            self._storage.put(directory, name, last=_REPORT)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageUnavailableError(
                f"{self._storage.uri}: the checkpoint of epoch {progress.epoch} needs {needed / 1e6:.1f} MB, "
                "and the disk is full; make room, or set checkpoints.keep lower"
            ) from error
        # It has arrived: what can't be dropped now is dropped after the next.
        with contextlib.suppress(OSError, StudyError):
            self._delete_superseded(name, progress)
        return images

    def _delete_superseded(self, name: str, progress: Progress) -> None:
        needed_weights, whole = {progress.best_epoch}, {name}
        if newest := self.newest():
            # Whoever goes on from there has the best of then, until a better one comes.
            needed_weights.add(newest[0].best_epoch)
            whole.add(newest[1])
        for other in set(self._names()) - whole:
            self._drop(other, keep_weights=epoch_of(other) in needed_weights)

    def publish_images(self, folder: Path, epoch: int) -> list[str]:
        """Bring an epoch's *.png into the storage, in a folder of their own: tracking may read them much later.

        Returns their paths, under the trial's folder.
        """
        images = sorted(folder.glob("*.png"))
        if not images:
            return []
        target = f"images/{folder_of(epoch)}"
        with scratch("images") as here:
            copy = here / "images"
            copy.mkdir()
            for image in images:
                shutil.copyfile(image, copy / image.name)
            self._storage.put(copy, target)
        return [f"{target}/{image.name}" for image in images]

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A local folder to write in, from which `publish` is a rename where the storage is local too."""
        parent = self._storage.local
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=parent) as folder:
            yield Path(folder)

    def rewind(self, epoch: int) -> None:
        """Drop what lies there of later epochs: they will be trained again."""
        for name in self._names():
            if epoch_of(name) > epoch:
                self._drop(name, keep_weights=False)

    def images(self, epoch: int) -> list[str]:
        """Paths of an epoch's images, under the trial's folder."""
        folder = f"images/{folder_of(epoch)}"
        return [f"{folder}/{name}" for name in self._storage.names(folder)]

    def strip(self, best_epoch: int | None) -> None:
        """The trial has ended: keep the best checkpoint's weights, or nothing if best_epoch is None."""
        for name in self._names():
            self._drop(name, keep_weights=best_epoch is not None and name == folder_of(best_epoch))
        for name in self._storage.names():
            if name.startswith(STAGING):
                self._storage.delete(name)

    def fetch(self, epoch: int, folder: Path) -> Path | None:
        """A local directory with the checkpoint of this epoch, or None if it isn't kept, or not as it was written."""
        name = folder_of(epoch)
        if self._storage.read_text(f"{name}/{_REPORT}") is None:
            return None
        directory = self._storage.get(name, folder)
        return directory if is_intact(directory) else None

    def has(self, epoch: int) -> bool:
        """Whether the checkpoint of this epoch is kept."""
        return self._storage.read_text(f"{folder_of(epoch)}/{_REPORT}") is not None

    def _names(self) -> list[str]:
        return [name for name in self._storage.names() if name.startswith("epoch-")]

    def _drop(self, name: str, *, keep_weights: bool) -> None:
        self._storage.delete(f"{name}/{_RESUME}" if keep_weights else name)


def is_intact(directory: Path) -> bool:
    """Whether each file of a checkpoint is as it was written; resume/ may have been dropped.

    One without files.json, which an older version wrote, is taken as it is.
    """
    if not (directory / _FILES).exists():
        return directory.is_dir()
    try:
        written = json.loads((directory / _FILES).read_text(encoding="utf-8"))
        dropped = not (directory / _RESUME).exists()
        return all(
            [size, checksum] == _size_and_checksum(directory / name)
            for name, (size, checksum) in written.items()
            if not (dropped and name.startswith(f"{_RESUME}/"))
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _files_of(directory: Path) -> dict[str, list[int]]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): _size_and_checksum(path) for path in files}


def _size_and_checksum(path: Path) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return [size, checksum]


def trial_folder(study: Storage, trial: int) -> Storage:
    return study / f"trials/{trial}"
