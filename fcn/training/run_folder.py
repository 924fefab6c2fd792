"""The output folder of one run of `fcn train`: its checkpoints, metrics and curves.

After a kill at any moment every file in it is complete, and belongs to the run that can be resumed there:

- There is no best/ without last/. The first last/ is written before the first best/; if a kill comes between the two,
  resuming copies last/ to best/.
- From then on best/ is written before last/. After a kill best/ may be of a later epoch than last/, and resuming trains
  that epoch again.
- A run without validation has no best/, for it has no score to choose it by.
"""

import json
import shutil
import time
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from fcn import files
from fcn.config import Config
from fcn.errors import InputError
from fcn.model import checkpoint
from fcn.model.checkpoint import Checkpoint
from fcn.training.curves import draw_curves
from fcn.training.samples import drop_samples_after
from fcn.training.snapshot import Snapshot, SnapshotCopy

BEST_METRIC = "val/mean_iou"  # best/ is the epoch where it is highest
_WRITE_INTERVAL_FACTOR = 50  # the pause after writing a checkpoint, in multiples of the time that writing took


class RunFolder:
    """Reads and writes the folder. Used on rank 0 only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last, self.best = path / "last", path / "best"
        self.history, self.curves = path / "metrics.jsonl", path / "curves.png"
        self.batch_losses, self.samples = path / "batch_losses.jsonl", path / "samples"
        self._validates = True
        self._best_score = float("-inf")
        self._unwritten_best: SnapshotCopy | None = None
        self._unwritten: Snapshot | None = None
        self._next_write = 0.0

    def tidy(self) -> None:
        """Completes or removes what a killed run was writing. Raises InputError if the folder can't be written."""
        try:
            checkpoint.recover(self.last)
            checkpoint.recover(self.best)
            for partial in (*self.path.glob(f"{files.PARTIAL_PREFIX}*"), *self.path.glob(".*.partial")):
                files.remove(partial)
        except OSError as error:
            raise self._cannot_write(error) from error

    def start(self, *, resume: bool) -> Checkpoint | None:
        """The checkpoint to resume from, or None for a new run. Raises InputError if another run is in the folder."""
        if self.last.exists():
            if not resume:
                raise InputError(f"{self.path} holds a run already: add --resume to continue it, or choose another")
            return checkpoint.load(self.last)
        if self.best.exists():
            raise InputError(
                f"{self.path} holds {self.best.name}/ of another run and no {self.last.name}/ to resume from: "
                "choose another --output, or move it away"
            )
        return None

    def open(self, start: Checkpoint | None, config: Config) -> None:
        """Makes the folder, and removes from its files what is of epochs after `start` or of an earlier run.

        Raises InputError if it can't be written.
        """
        self._validates = config.val_fraction > 0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if start is None:
                self.curves.unlink(missing_ok=True)
                self.batch_losses.unlink(missing_ok=True)
            elif self._validates:
                self._open_best(start, config)
            epoch = 0 if start is None else start.epoch
            _drop_lines_after(epoch, self.history)
            if self.batch_losses.exists():
                _drop_lines_after(epoch, self.batch_losses)
            drop_samples_after(epoch, self.samples)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _open_best(self, start: Checkpoint, config: Config) -> None:
        best = checkpoint.load(self.best) if self.best.exists() else None
        # If best/ is of a later epoch than last/, another config will not train that epoch to the same weights.
        if best is None or (best.epoch > start.epoch and best.config != config):
            self._copy_last_to_best()
            best = checkpoint.load(self.best)
        self._best_score = best.metrics.get(BEST_METRIC, 0.0)

    def _copy_last_to_best(self) -> None:
        partial = self._partial(self.best)
        shutil.copytree(self.last, partial, ignore=shutil.ignore_patterns("resume"))
        checkpoint.replace(partial, self.best)

    def keep(self, metrics: dict[str, float], snapshot: Snapshot) -> None:
        """Appends the epoch's metrics, and writes its checkpoint unless the last one was written a short time ago."""
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        self._unwritten = snapshot
        if self._validates and metrics.get(BEST_METRIC, 0.0) > self._best_score:
            self._best_score = metrics.get(BEST_METRIC, 0.0)
            self._unwritten_best = snapshot.copy(resume=False)
        if time.monotonic() >= self._next_write:
            self.write_last()

    def keep_batch_losses(self, epoch: int, losses: Sequence[float]) -> None:
        """Appends a line for each batch of an epoch with its loss; null if the loss isn't finite."""
        with self.batch_losses.open("a", encoding="utf-8") as file:
            for step, loss in enumerate(losses, start=1):
                file.write(json.dumps({"epoch": epoch, "step": step, "loss": loss if isfinite(loss) else None}) + "\n")

    def write_last(self) -> None:
        """Writes last/, the newest epoch's checkpoint, and best/, each unless it is written already.

        May only be called between two epochs, while the snapshot that keep() got is valid.
        """
        if self._unwritten is None:
            return
        started = time.monotonic()
        # best/ first: if a kill comes before last/ is written, resuming trains this epoch again and writes both.
        self.write_best()
        self._write(self._unwritten.copy(resume=True), self.last)
        self._unwritten = None
        self.write_best()
        self._next_write = time.monotonic() + _WRITE_INTERVAL_FACTOR * (time.monotonic() - started)

    def write_best(self) -> None:
        """Writes best/, the best epoch's checkpoint, unless it is written already or there is no last/ yet."""
        if self._unwritten_best is not None and self.last.exists():
            self._write(self._unwritten_best, self.best)
            self._unwritten_best = None

    def _write(self, copy: SnapshotCopy, target: Path) -> None:
        partial = self._partial(target)
        copy.write(partial)
        checkpoint.replace(partial, target)

    def _partial(self, target: Path) -> Path:
        """Where a checkpoint is written before it replaces the old one. tidy() removes it after a kill."""
        return self.path / f"{files.PARTIAL_PREFIX}{target.name}"

    def metrics(self) -> list[dict[str, float]]:
        """The metrics of each epoch so far."""
        return _lines(self.history)

    def draw(self) -> None:
        """Draws the curves of all epochs so far, if there are any."""
        if metrics := self.metrics():
            with files.atomic_write(self.curves, durable=False) as partial:
                draw_curves(metrics, partial)

    def _cannot_write(self, error: OSError) -> InputError:
        return InputError(f"{self.path} can't be written ({error.strerror}): choose another --output")


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for line in path.read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            # The last line, cut off by a kill.
            break
    return found


def _drop_lines_after(epoch: int, path: Path) -> None:
    """Removes the lines of later epochs from a file of JSON lines, each with "epoch". Makes a missing file."""
    kept = [json.dumps(line) + "\n" for line in _lines(path) if line["epoch"] <= epoch]
    with files.atomic_write(path, durable=True) as partial:
        partial.write_text("".join(kept), "utf-8")
