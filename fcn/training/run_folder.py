"""The folder of one run of `fcn train`: its checkpoints, its metrics, its curves.

What lies there is whole after a kill at any moment, and of the run that continues there, not of one before it:

- best/ never stands without last/. The first last/ is written before the first best/, which is then a copy of it.
- After that best/ is written first: its epoch may be one that last/ lacks, and is then trained again.
- A run without validation has no best/: nothing tells which epoch it is.
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

BEST_METRIC = "val/mean_iou"  # the metric that best/ is the best of
_WRITE_INTERVAL_FACTOR = 50  # times as long as it took to write a checkpoint, until the next is written


class RunFolder:
    """What a run leaves behind. Only rank 0 writes."""

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
        """Ends or removes what a killed run was writing. Raises InputError."""
        try:
            checkpoint.recover(self.last)
            checkpoint.recover(self.best)
            for partial in (*self.path.glob(f"{files.PARTIAL_PREFIX}*"), *self.path.glob(".*.partial")):
                files.remove(partial)
        except OSError as error:
            raise self._cannot_write(error) from error

    def start(self, *, resume: bool) -> Checkpoint | None:
        """The checkpoint to resume from; None: a new run. Raises InputError where the folder is another run's."""
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
        """Makes the folder of a run that resumes after `start`, and takes out what is of later epochs or other runs.

        Raises InputError where it can't be written.
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
        # With another config an epoch that last/ lacks will not be trained again as it was.
        if best is None or (best.epoch > start.epoch and best.config != config):
            self._copy_last_to_best()
            best = checkpoint.load(self.best)
        self._best_score = best.metrics.get(BEST_METRIC, 0.0)

    def _copy_last_to_best(self) -> None:
        partial = self._partial(self.best)
        shutil.copytree(self.last, partial, ignore=shutil.ignore_patterns("resume"))
        checkpoint.replace(partial, self.best)

    def keep(self, metrics: dict[str, float], snapshot: Snapshot) -> None:
        """Takes an epoch in; writes its checkpoint if it is time to."""
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        self._unwritten = snapshot
        if self._validates and metrics.get(BEST_METRIC, 0.0) > self._best_score:
            self._best_score = metrics.get(BEST_METRIC, 0.0)
            self._unwritten_best = snapshot.copy(resume=False)
        if time.monotonic() >= self._next_write:
            self.write_last()

    def keep_batch_losses(self, epoch: int, losses: Sequence[float]) -> None:
        """Takes in the loss of each batch of an epoch, a line a batch; one that isn't finite is null."""
        with self.batch_losses.open("a", encoding="utf-8") as file:
            for step, loss in enumerate(losses, start=1):
                file.write(json.dumps({"epoch": epoch, "step": step, "loss": loss if isfinite(loss) else None}) + "\n")

    def write_last(self) -> None:
        """The newest epoch's checkpoint, if training has not continued since; with it, the best's."""
        if self._unwritten is None:
            return
        started = time.monotonic()
        # In this order: whatever a kill leaves undone, the epoch is run again and done again.
        self.write_best()
        self._write(self._unwritten.copy(resume=True), self.last)
        self._unwritten = None
        self.write_best()
        self._next_write = time.monotonic() + _WRITE_INTERVAL_FACTOR * (time.monotonic() - started)

    def write_best(self) -> None:
        """The best epoch's checkpoint, if it isn't written yet and there is a last/ beside it."""
        if self._unwritten_best is not None and self.last.exists():
            self._write(self._unwritten_best, self.best)
            self._unwritten_best = None

    def _write(self, copy: SnapshotCopy, target: Path) -> None:
        partial = self._partial(target)
        copy.write(partial)
        checkpoint.replace(partial, target)

    def _partial(self, target: Path) -> Path:
        """Where a checkpoint is made before it takes the place of another: tidy() removes it after a kill."""
        return self.path / f"{files.PARTIAL_PREFIX}{target.name}"

    def metrics(self) -> list[dict[str, float]]:
        """Those of each epoch so far."""
        return _lines(self.history)

    def draw(self) -> None:
        """The curves of all epochs so far, if there are any."""
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
            # The line that a kill cut off.
            break
    return found


def _drop_lines_after(epoch: int, path: Path) -> None:
    """Of a file with a JSON object a line, each with its epoch; makes the file."""
    kept = [json.dumps(line) + "\n" for line in _lines(path) if line["epoch"] <= epoch]
    with files.atomic_write(path, durable=True) as partial:
        partial.write_text("".join(kept), "utf-8")
