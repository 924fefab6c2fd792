"""Which checkpoints stay on disk: those of the study's best trials, weights only.

A full-width FCN-8s takes 537 MB of weights and 1.6 GB with its optimiser: a hundred trials that keep everything would
be 320 GB.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.storage.checkpoints import TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage

_THREADS = 16  # a bucket takes a tenth of a second to say that a trial's folder has nothing superfluous


class Retention:
    """Called when a trial has ended; a running trial looks after its own checkpoints."""

    def __init__(self, record: StudyRecord, study: Storage):
        self._record, self._study = record, study
        self._kept = set(self._best())
        self._not_deleted: set[int] = set()

    def tidy(self) -> None:
        """Strip every trial that has ended: a kill may have come between a trial's end and its tidying."""
        best = self._best()
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda trial: self._strip(trial.id, best), self._record.ended))

    def trial_ended(self, trial: int) -> None:
        """Strip the trial that ended, and drop the checkpoint of the one that it pushed out of the best."""
        best = self._best()
        for ended in {trial, *self._kept - best.keys()}:
            self._strip(ended, best)
        self._kept = set(best)

    def study_ended(self) -> None:
        """Strip what the storage refused to."""
        best = self._best()
        for trial in list(self._not_deleted):
            self._strip(trial, best)

    def _best(self) -> dict[int, int | None]:
        """The trials whose weights stay, each with its best epoch."""
        return {trial.id: trial.best_epoch for trial in self._record.ranking()[: self._record.spec.checkpoints.keep]}

    def _strip(self, trial: int, best: dict[int, int | None]) -> None:
        try:
            TrialCheckpoints(trial_folder(self._study, trial)).strip(best.get(trial))
            self._not_deleted.discard(trial)
        except (OSError, StudyError):
            # Too many checkpoints for a while are no reason to end a study.
            self._not_deleted.add(trial)
