"""Overlays of the same images after chosen epochs, which show how a run learns.

FOLDER/epoch-0010/NAME.png    after epoch 10, at the images' native resolution
"""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fcn.errors import InputError
from fcn.prediction.pipeline import predict_images
from fcn.prediction.plan import plan
from fcn.training.snapshot import Snapshot

_EPOCH = re.compile(r"epoch-(\d+)")
_IMAGES_AT_ONCE = 8


class Samples:
    """The sample images of one run. One that can't be read or written is reported and left out; the run goes on."""

    def __init__(
        self, paths: Sequence[Path], epochs: frozenset[int] | None, folder: Path, warn: Callable[[str], None]
    ) -> None:
        """paths: images, and folders with images at any depth. epochs: those to write overlays after; None: the last.

        warn: called with a sentence for each image that is left out. Raises InputError for a path without images.
        """
        self._folder, self._epochs, self._warn = folder, epochs, warn
        self._jobs, problems, left_out = plan(paths, folder, frames_as_images=True)
        problems += [f"{job.source}: samples are of images, and this is a video" for job in self._jobs if job.video]
        if problems:
            raise InputError("\n".join(f"--samples {problem}" for problem in problems))
        for note in left_out:
            warn(note)

    def after(self, snapshot: Snapshot) -> None:
        """Writes the overlays of the epoch that has just ended, if it is one of the chosen epochs."""
        if self._epochs is not None and snapshot.epoch in self._epochs:
            self._take(snapshot)

    def at_the_end(self, snapshot: Snapshot) -> None:
        """Writes the overlays of the run's last epoch, if no epochs were chosen."""
        if self._epochs is None:
            self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        if not self._jobs:
            return
        folder = self._folder / f"epoch-{snapshot.epoch:04d}"
        jobs = [replace(job, target=folder / job.target.relative_to(self._folder)) for job in self._jobs]
        at_once = min(_IMAGES_AT_ONCE, snapshot.micro_batch)
        try:
            with snapshot.predictor() as predictor:
                predict_images(jobs, predictor, at_once, _nothing, self._warn, _no_remark)
        except InputError as error:
            self._warn(str(error))


def drop_samples_after(epoch: int, folder: Path) -> None:
    """Removes the samples of later epochs, and nothing else that lies in the folder."""
    for path in folder.glob("epoch-*"):
        match = _EPOCH.fullmatch(path.name)
        if match and int(match[1]) > epoch:
            shutil.rmtree(path)


def chosen_epochs(text: str, last: int) -> frozenset[int]:
    """Epochs as in "1,10,50". Raises InputError for one that isn't from 1 to `last`, the run's last epoch."""
    epochs = [part.strip() for part in text.split(",")]
    for part in epochs:
        if not part.isdecimal() or not 1 <= int(part) <= last:
            raise InputError(f"--sample-epochs {text}: must be epochs from 1 to {last}, as in 1,{last}; got {part!r}")
    return frozenset(map(int, epochs))


def _nothing() -> None: ...


def _no_remark(image: Path, remark: str) -> None: ...
