"""Writes a trial's snapshots to the storage, in a thread beside training, and only those that are needed:

- a checkpoint to resume from, so seldom that writing takes at most a fiftieth of the time. After a kill the epochs
  since the newest one are trained again. A trial that is paused writes one at once;
- the best epoch's weights, with the next such checkpoint, or when the trial ends if they would be kept
  (tuner/driver/retention.py). Until then a copy of them is held in memory;
- the best epoch's images, with its weights or when the trial ends.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tuner.spec.workload import Snapshot, SnapshotCopy
from tuner.storage.checkpoints import Progress, TrialCheckpoints
from tuner.storage.scratch import scratch
from tuner.worker.storage_retry import StorageRetry

_INTERVAL_FACTOR = 50  # the pause after a checkpoint, as a multiple of the time that writing it took


@dataclass
class LastWrite:
    """Kept from one trial of a process to the next: a trial shorter than the pause writes no checkpoint."""

    seconds: float = 0.0
    """How long writing the last checkpoint took."""


last_write = LastWrite()


@dataclass
class _Best:
    """The best epoch so far, until its weights are in the storage."""

    progress: Progress
    copy: SnapshotCopy
    images_written: bool = False


class SnapshotWriter:
    """The snapshots of one trial, on its rank 0. Methods raise the write errors that StorageRetry doesn't retry."""

    def __init__(self, checkpoints: TrialCheckpoints, retry: StorageRetry):
        self._checkpoints, self._retry = checkpoints, retry
        self._best: _Best | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshots")
        self._writing: Future[list[str]] | None = None
        self._next = time.monotonic() + _INTERVAL_FACTOR * last_write.seconds
        self._images: list[str] = []

    def add_images(self, paths: list[str]) -> None:
        """Add paths of images that were written to the storage elsewhere."""
        self._images += paths

    def images(self) -> list[str]:
        """Paths of the images written to the storage since the last call."""
        if self._writing and self._writing.done():
            self._wait()
        found, self._images = self._images, []
        return found

    def copy_if_best(self, progress: Progress, snapshot: Snapshot) -> None:
        """Copy the snapshot in memory if its epoch is the best so far."""
        if progress.best_epoch == progress.epoch:
            self._best = _Best(progress, snapshot.copy(resume=False))

    def flush(self, keep: bool) -> None:
        """Write the best epoch's images, and with keep its weights, and wait until nothing is being written.

        Called before the trial ends: its folder may be cleaned up at once afterwards.
        """
        self._wait()
        best = self._best
        if best is None:
            return
        if keep:
            self._images += self._publish(best.progress, best.copy)
            self._best = None
        elif not best.images_written:
            best.images_written = True
            epoch = best.progress.epoch
            self._images += self._retry.call(
                f"the images of epoch {epoch}", lambda: self._publish_images(epoch, best.copy)
            )

    def write_if_due(self, progress: Progress, snapshot: Snapshot) -> None:
        """Start to write a checkpoint in the thread, if the pause since the last one is over."""
        if time.monotonic() < self._next or (self._writing and not self._writing.done()):
            return
        self._begin_writing(progress, snapshot)

    def write(self, progress: Progress, snapshot: Snapshot) -> None:
        """Write a checkpoint to resume from, and wait until it is in the storage."""
        self._begin_writing(progress, snapshot)
        self._wait()

    def _begin_writing(self, progress: Progress, snapshot: Snapshot) -> None:
        self._wait()
        began = time.monotonic()
        best, self._best = self._best, None
        copies = [(progress, snapshot.copy(resume=True))]
        if best and best.progress.epoch != progress.epoch:
            # The best goes first: a trial that resumes from the newest checkpoint doesn't train it again.
            copies.insert(0, (best.progress, best.copy))
        self._writing = self._thread.submit(self._write, copies, began)

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._images += writing.result()

    def close(self) -> None:
        """End the thread, whatever it is doing, and release the copies."""
        self._retry.cancel()
        self._thread.shutdown(wait=True)
        self._best = self._writing = None

    def _write(self, copies: list[tuple[Progress, SnapshotCopy]], began: float) -> list[str]:
        images = [path for progress, copy in copies for path in self._publish(progress, copy)]
        now = time.monotonic()
        last_write.seconds = now - began
        self._next = now + _INTERVAL_FACTOR * last_write.seconds
        return images

    def _publish(self, progress: Progress, copy: SnapshotCopy) -> list[str]:
        return self._retry.call(f"the checkpoint of epoch {progress.epoch}", lambda: self._put(progress, copy))

    def _put(self, progress: Progress, copy: SnapshotCopy) -> list[str]:
        with self._checkpoints.staging() as folder:
            copy.write(folder / "checkpoint")
            return self._checkpoints.publish(folder / "checkpoint", progress)

    def _publish_images(self, epoch: int, copy: SnapshotCopy) -> list[str]:
        with scratch("images") as folder:
            copy.write_images(folder)
            return self._checkpoints.publish_images(folder, epoch)
