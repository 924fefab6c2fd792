"""A trial's checkpoints in the storage: published whole, the newest and the best kept while it runs.

Beside what the workload wrote, a checkpoint holds report.json: the report it belongs to and the best so far. It arrives
last, so a folder without it is what a kill left behind, and is never read.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tuner.errors import TrialError
from tuner.storage import Storage

_REPORT = "report.json"


@dataclass
class Progress:
    """How far a trial has come."""

    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_value: float | None = None
    best_epoch: int | None = None


def folder_of(epoch: int) -> str:
    return f"epoch-{epoch:06d}"


class TrialCheckpoints:
    """The checkpoints of one trial. storage: the trial's folder."""

    def __init__(self, storage: Storage):
        self._storage = storage

    def newest(self) -> tuple[Progress, str] | None:
        """The newest whole checkpoint's progress and folder name, or None."""
        for name in reversed(self._names()):
            text = self._storage.read_text(f"{name}/{_REPORT}")
            if text is not None and "resume" in self._storage.names(name):
                return Progress(**json.loads(text)), name
        return None

    def publish(self, directory: Path, progress: Progress) -> list[str]:
        """Bring a checkpoint directory into the storage, then drop what it makes superfluous.

        Returns the paths of its pictures, under the trial's folder, if this epoch is the best so far.
        Disk full raises TrialError and leaves the checkpoints before it as they were.
        """
        name = folder_of(progress.epoch)
        needed = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        try:
            (directory / _REPORT).write_text(json.dumps(asdict(progress)), encoding="utf-8")
            pictures = self._publish_pictures(directory, name) if progress.best_epoch == progress.epoch else []
            self._storage.put(directory, name, last=_REPORT)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise TrialError(
                f"{self._storage.uri}: the checkpoint of epoch {progress.epoch} needs {needed / 1e6:.1f} MB, "
                "and the disk is full; make room, or set checkpoints.keep lower"
            ) from error
        for older in self._names():
            if older < name:
                self._drop(older, keep_weights=progress.best_epoch == int(older.removeprefix("epoch-")))
        return pictures

    def pictures(self, epoch: int) -> list[str]:
        """Paths of an epoch's pictures, under the trial's folder."""
        folder = f"images/{folder_of(epoch)}"
        return [f"{folder}/{name}" for name in self._storage.names(folder)]

    def strip(self, best_epoch: int | None) -> None:
        """The trial has ended: keep the best checkpoint's weights, or nothing if best_epoch is None."""
        for name in self._names():
            self._drop(name, keep_weights=best_epoch is not None and name == folder_of(best_epoch))
        for name in self._storage.names():
            if name.startswith(".incoming-"):
                self._storage.delete(name)

    def fetch(self, epoch: int, folder: Path) -> Path | None:
        """A local directory with the checkpoint of this epoch, or None if it isn't kept."""
        name = folder_of(epoch)
        if self._storage.read_text(f"{name}/{_REPORT}") is None:
            return None
        return self._storage.get(name, folder)

    def _names(self) -> list[str]:
        return [name for name in self._storage.names() if name.startswith("epoch-")]

    def _drop(self, name: str, *, keep_weights: bool) -> None:
        self._storage.delete(f"{name}/resume" if keep_weights else name)

    def _publish_pictures(self, directory: Path, name: str) -> list[str]:
        """Pictures outlive their checkpoint: tracking may read them much later."""
        pictures = sorted((directory / "images").glob("*.png"))
        if not pictures:
            return []
        copy = Path(tempfile.mkdtemp(prefix="tuner-images-"))
        try:
            for picture in pictures:
                shutil.copyfile(picture, copy / picture.name)
            self._storage.put(copy, f"images/{name}")
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        return [f"images/{name}/{picture.name}" for picture in pictures]


def trial_folder(study: Storage, trial: int) -> Storage:
    return study / f"trials/{trial}"


def report_payload(
    progress: Progress, startup_seconds: float, gpu_share: float | None, images: list[str]
) -> dict[str, Any]:
    """What travels to the study's runner for one report."""
    return {
        "epoch": progress.epoch,
        "best": progress.best_value,
        "report": {
            "metrics": progress.metrics,
            "startup_seconds": startup_seconds,
            "gpu_share": gpu_share,
            "images": images,
        },
    }
