"""`tuner.load("roads", storage="studies")`: a study's results in Python."""

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
from tuner.events.state import StudyRecord, record_of
from tuner.events.trial import TrialRecord
from tuner.spec.space import Dimension
from tuner.spec.study import StudySpec
from tuner.spec.study_tables import Objective
from tuner.storage.checkpoints import folder_of, trial_folder
from tuner.storage.storage import Storage

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class BestTrial:
    """The winner, or the trial that would win if the study ended now."""

    trial: int
    value: float
    """The objective at its best epoch; the first of several."""
    epoch: int
    params: dict[str, Any]
    values: dict[str, float]
    """Of every objective at that epoch, by metric."""


class Study:
    """A study at the time when it was loaded; it may still be running.

    Nothing here starts Ray, connects to MLflow or writes to the storage.
    """

    def __init__(self, record: StudyRecord, folder: Storage):
        """folder: the study's folder in the storage."""
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
        """Why it was interrupted or failed."""
        return self.record.reason

    @property
    def space(self) -> dict[str, Dimension]:
        """The sampled hyperparameters by name, each with its range."""
        return dict(self.spec.space)

    @property
    def best(self) -> BestTrial | None:
        """The best trial of those that ended without failing, of several objectives the knee of their front; None if
        there is none yet."""
        return next(map(self._best, self.record.ranking()), None)

    @property
    def front(self) -> list[BestTrial]:
        """Of several objectives, the trials that no other dominates, by the first objective; empty if there is one."""
        return list(map(self._best, self.record.front()))

    def _best(self, trial: TrialRecord) -> BestTrial:
        assert trial.value is not None
        assert trial.best_epoch is not None
        values = dict(zip((each.metric for each in self.spec.objectives), trial.values, strict=True))
        return BestTrial(trial.id, trial.value, trial.best_epoch, dict(trial.params), values)

    def by(self, objective: Objective) -> Study:
        """The study as if this one of its objectives were the only one: each trial has its best value of it."""
        spec = self.spec.model_copy(update={"objective": objective, "objectives": (objective,)})
        found = Study(record_of(spec, self.folder), self.folder)
        found.loaded_at = self.loaded_at
        return found

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """One row for each trial, indexed by its id; docs/python.md lists the columns."""
        from tuner.results.tables import trials_table

        return trials_table(self.record, self.folder, self.loaded_at)

    @functools.cached_property
    def metrics(self) -> pd.DataFrame:
        """One row for each trial and epoch, with a column for each metric (docs/python.md). Reads all events."""
        from tuner.results.tables import metrics_table

        return metrics_table(self.record, self.folder)

    def masks(self, trial: int, epoch: int | None = None) -> list[Path]:
        """Paths of the images that a trial stored for an epoch (default: its best); empty if it stored none.

        Images in a bucket are copied to a temporary folder, which is deleted with this object. Raises StudyError if the
        study has no such trial.
        """
        record = self.record.trials.get(trial)
        if record is None:
            raise StudyError(
                f"study {self.name}: must have the trial, got {trial!r}; it has {self._ids()}: give one of these"
            )
        folder = trial_folder(self.folder, trial)
        wanted = record.best_epoch if epoch is None else epoch
        images = f"images/{folder_of(wanted or 0)}"
        if not folder.names(images):
            return []
        copy = self._copies / f"{trial}-{wanted}"
        copy.mkdir(exist_ok=True)
        return sorted(file for file in folder.get(images, copy).iterdir() if file.is_file())

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
    """Load a study from a storage, read-only.

    name: default is the newest study. storage: a folder, or a URI such as s3://bucket/folder. Raises StudyError if
    there is no such study, or its files are damaged.
    """
    opened = Storage(os.fspath(storage))
    record = find(opened, name)
    return Study(record, opened / record.spec.name)
