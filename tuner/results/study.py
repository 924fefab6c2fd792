"""A study as Python sees it: `tuner.load("roads", storage="studies")`."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.display.show import find
from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.spec.space import Dimension
from tuner.spec.study import StudySpec
from tuner.storage.checkpoints import folder_of, trial_folder
from tuner.storage.storage import Storage

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class BestTrial:
    """The trial that has won, or would if the study ended now."""

    trial: int
    value: float
    """The objective at its best epoch."""
    epoch: int
    params: dict[str, Any]


class Study:
    """A study as it was when it was loaded; a study that runs is read as far as it has come.

    Nothing here starts Ray, asks MLflow or writes the storage.
    """

    def __init__(self, record: StudyRecord, folder: Storage):
        """folder: the study's own, in its storage."""
        self.record, self.folder = record, folder
        self.loaded_at = time.time()
        """Seconds since 1970."""

    @property
    def spec(self) -> StudySpec:
        """The study file, checked."""
        return self.record.spec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def state(self) -> str:
        """running, finished, interrupted or failed."""
        return self.record.state

    @property
    def reason(self) -> str | None:
        """Why it was interrupted or has failed, in a sentence."""
        return self.record.reason

    @property
    def space(self) -> dict[str, Dimension]:
        """The sampled hyperparameters by name; str() of one says its range."""
        return dict(self.spec.space)

    @property
    def best(self) -> BestTrial | None:
        """None as long as no trial that has ended, and not failed, reported the objective."""
        ranking = self.record.ranking()
        if not ranking:
            return None
        winner = ranking[0]
        assert winner.value is not None
        assert winner.best_epoch is not None
        return BestTrial(winner.id, winner.value, winner.best_epoch, dict(winner.params))

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial, by its id: docs/python.md says which columns."""
        from tuner.results.tables import trials_table

        return trials_table(self.record, self.folder, self.loaded_at)

    @functools.cached_property
    def metrics(self) -> pd.DataFrame:
        """One row a trial and epoch, every metric a column: docs/python.md says which others. Reads all events."""
        from tuner.results.tables import metrics_table

        return metrics_table(self.record, self.folder)

    def masks(self, trial: int, epoch: int | None = None) -> list[Path]:
        """The images that a trial stored of an epoch, its best one if none is given; none if it stored none.

        Images in a bucket are copied to this machine, and their copies deleted with this object. Raises StudyError if
        the study has no such trial.
        """
        record = self.record.trials.get(trial)
        if record is None:
            raise StudyError(f"study {self.name}: trials {self._ids()} are there, got {trial!r}; give one of those")
        place = trial_folder(self.folder, trial)
        wanted = record.best_epoch if epoch is None else epoch
        images = f"images/{folder_of(wanted or 0)}"
        if not place.names(images):
            return []
        copy = self._copies / f"{trial}-{wanted}"
        copy.mkdir(exist_ok=True)
        return sorted(file for file in place.get(images, copy).iterdir() if file.is_file())

    def _ids(self) -> str:
        ids = sorted(self.record.trials)
        return f"{ids[0]} to {ids[-1]}" if ids else "none"

    @functools.cached_property
    def _copies(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="tuner-images-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def __repr__(self) -> str:
        best, metric = self.best, self.spec.objective.metric
        reached = f", best {metric} {best.value:.6g} (trial {best.trial})" if best else ""
        return f"<Study {self.name}: {self.state}, {len(self.record.trials)} trials{reached}>"


def load(name: str | None = None, storage: str | os.PathLike[str] = "studies") -> Study:
    """A study of a storage, to look at: reads it and nothing else.

    name: the newest study if left out. storage: a folder, or a URI such as s3://bucket/folder. Raises StudyError if
    there is no such study, or its files are damaged.
    """
    place = Storage(os.fspath(storage))
    record = find(place, name)
    return Study(record, place / record.spec.name)
