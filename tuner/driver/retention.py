"""Which checkpoints stay on disk: those of the study's best trials, weights only.

A full-width FCN-8s has 537 MB of weights, 1.6 GB with its optimizer's state. A hundred trials that each kept their
newest and their best checkpoint whole would take 320 GB.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.storage.checkpoints import TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage

_THREADS = 16  # listing one trial's folder in a bucket takes a tenth of a second


class Retention:
    """Deletes the checkpoints of ended trials; a running trial deletes its own."""

    def __init__(self, record: StudyRecord, study: Storage):
        self._record, self._study = record, study
        self._kept = set(self._best())
        self._not_deleted: set[int] = set()

    def tidy(self) -> None:
        """Strip every ended trial: a kill may have come between a trial's end and this."""
        best = self._best()
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda trial: self._strip(trial.id, best), self._record.ended))

    def trial_ended(self, trial: int) -> None:
        """Strip the trial that ended, and delete the weights of the one that is no longer among the best."""
        best = self._best()
        for ended in {trial, *self._kept - best.keys()}:
            self._strip(ended, best)
        self._kept = set(best)

    def study_ended(self) -> None:
        """Strip the trials again whose checkpoints the storage failed to delete."""
        best = self._best()
        for trial in list(self._not_deleted):
            self._strip(trial, best)

    def _best(self) -> dict[int, int | None]:
        """The trials whose weights stay, each with its best epoch."""
        return {trial.id: trial.best_epoch for trial in self._record.kept()}

    def _strip(self, trial: int, best: dict[int, int | None]) -> None:
        try:
            TrialCheckpoints(trial_folder(self._study, trial)).strip(best.get(trial))
            self._not_deleted.discard(trial)
        except (OSError, StudyError):
            # A surplus of checkpoints is no reason to end a study.
            self._not_deleted.add(trial)
