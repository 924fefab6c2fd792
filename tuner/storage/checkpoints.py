"""A trial's checkpoints in the storage: published atomically; the newest and the best are kept while the trial runs.

Beside the workload's own files a checkpoint has two. files.json lists the size and CRC-32 of each file. report.json
holds the epoch's report and the best value so far, and is written last: a folder without it is incomplete, left by a
kill, and is ignored. A checkpoint that doesn't match its files.json is damaged: the trial resumes from the one before
it, or starts from its first epoch.
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
_RESUME = "resume"  # the folder that is needed only to resume


@dataclass
class Progress:
    """How far a trial has trained, and its best epoch so far."""

    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_value: float | None = None
    best_epoch: int | None = None
    further_best: list[float] = field(default_factory=list)
    """At the best epoch, the values of the objectives after the first."""


@dataclass(frozen=True)
class CheckpointSize:
    """In bytes."""

    weights: int
    """With all that isn't deleted when the trial ends."""
    resume: int
    """Of what only resuming needs; 0 if it was never written."""


def folder_of(epoch: int) -> str:
    """The name of the folder that holds the checkpoint of an epoch."""
    return f"epoch-{epoch:06d}"


def epoch_of(folder: str) -> int:
    """The epoch in a folder's name: the inverse of `folder_of`."""
    return int(folder.removeprefix("epoch-"))


class TrialCheckpoints:
    """The checkpoints of one trial. storage: the trial's folder."""

    def __init__(self, storage: Storage):
        self._storage = storage

    def newest(self) -> tuple[Progress, str] | None:
        """Progress and folder name of the newest checkpoint with resume/, or None; its files are not checked."""
        return next(self._resumable(), None)

    def newest_intact(self, folder: Path) -> tuple[Progress, Path] | None:
        """Progress and local directory of the newest checkpoint to resume from whose files are undamaged, or None.

        folder: an empty one, for a copy if the storage is a bucket.
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
            with contextlib.suppress(ValueError, TypeError):  # a damaged report.json: not a checkpoint to resume from
                yield Progress(**json.loads(text)), name

    def _best_is_intact(self, progress: Progress) -> bool:
        """Whether the best epoch's checkpoint is undamaged or deleted; a resumed trial doesn't train it again."""
        if self._storage.local is None or progress.best_epoch is None:
            return True
        directory = self._storage.local / folder_of(progress.best_epoch)
        return not directory.exists() or is_intact(directory)

    def publish(self, directory: Path, progress: Progress) -> list[str]:
        """Move a checkpoint directory into the storage, then delete the checkpoints that are no longer needed.

        A running trial keeps its newest checkpoint with resume/, the weights of its best epoch, and the weights of the
        best epoch that the newest checkpoint refers to.
        Returns the paths of the checkpoint's images, relative to the trial's folder, if this epoch is the best so far.
        Raises StorageUnavailableError if the disk is full; `directory` and all older checkpoints are then unchanged.
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
        # The checkpoint is published: what can't be deleted now is deleted after the next one.
        with contextlib.suppress(OSError, StudyError):
            self._delete_superseded(name, progress)
        return images

    def _delete_superseded(self, name: str, progress: Progress) -> None:
        needed_weights, complete = {progress.best_epoch}, {name}
        if newest := self.newest():
            # A trial that resumes from there refers to the best epoch of that time.
            needed_weights.add(newest[0].best_epoch)
            complete.add(newest[1])
        for other in set(self._names()) - complete:
            self._drop(other, keep_weights=epoch_of(other) in needed_weights)

    def publish_images(self, folder: Path, epoch: int) -> list[str]:
        """Copy an epoch's *.png into the storage, in a folder of their own: tracking may read them much later.

        Returns their paths, relative to the trial's folder.
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
        """A temporary local folder, on the storage's own file system if that is local: `publish` is then a rename."""
        parent = self._storage.local
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=parent) as folder:
            yield Path(folder)

    def rewind(self, epoch: int) -> None:
        """Delete the checkpoints of later epochs, which will be trained again."""
        for name in self._names():
            if epoch_of(name) > epoch:
                self._drop(name, keep_weights=False)

    def images(self, epoch: int) -> list[str]:
        """Paths of an epoch's images, relative to the trial's folder."""
        folder = f"images/{folder_of(epoch)}"
        return [f"{folder}/{name}" for name in self._storage.names(folder)]

    def strip(self, best_epoch: int | None) -> None:
        """Delete everything of an ended trial but the weights of its best epoch; these too if best_epoch is None."""
        for name in self._names():
            self._drop(name, keep_weights=best_epoch is not None and name == folder_of(best_epoch))
        for name in self._storage.names():
            if name.startswith(STAGING):
                self._storage.delete(name)

    def fetch(self, epoch: int, folder: Path) -> Path | None:
        """A local directory with the checkpoint of this epoch, or None if it was deleted or is damaged."""
        name = folder_of(epoch)
        if self._storage.read_text(f"{name}/{_REPORT}") is None:
            return None
        directory = self._storage.get(name, folder)
        return directory if is_intact(directory) else None

    def has(self, epoch: int) -> bool:
        """Whether the checkpoint of this epoch is kept."""
        return self._storage.read_text(f"{folder_of(epoch)}/{_REPORT}") is not None

    def size(self, epoch: int) -> CheckpointSize | None:
        """Of the checkpoint of this epoch; None if it isn't kept, can't be read or is of an older version."""
        try:
            files = json.loads(self._storage.read_text(f"{folder_of(epoch)}/{_FILES}") or "").items()
            sizes = {name: int(size) for name, (size, _) in files}
        except (ValueError, TypeError, AttributeError, StudyError):
            return None
        resume = sum(size for name, size in sizes.items() if name.startswith(f"{_RESUME}/"))
        return CheckpointSize(sum(sizes.values()) - resume, resume)

    def _names(self) -> list[str]:
        return [name for name in self._storage.names() if name.startswith("epoch-")]

    def _drop(self, name: str, *, keep_weights: bool) -> None:
        self._storage.delete(f"{name}/{_RESUME}" if keep_weights else name)


def is_intact(directory: Path) -> bool:
    """Whether each file of a checkpoint has the size and checksum of files.json; resume/ may have been deleted.

    A checkpoint of an older version has no files.json, and is taken for undamaged.
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
    """A trial's folder. study: the study's folder; trial: the trial's number."""
    return study / f"trials/{trial}"
