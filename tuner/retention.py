"""Which checkpoints stay on disk: those of the study's best trials, weights only.

A full-width FCN-8s takes 537 MB of weights and 1.6 GB with its optimiser: a hundred trials that keep everything would
be 320 GB.
"""

from __future__ import annotations

from tuner.checkpoints import TrialCheckpoints, trial_folder
from tuner.record import StudyRecord
from tuner.storage import Storage


class Retention:
    """Called when a trial has ended; a running trial looks after its own checkpoints."""

    def __init__(self, record: StudyRecord, study: Storage):
        self._record, self._study = record, study
        self._kept: set[int] = set()
        # A kill may have come between a trial's end and its tidying.
        self._untidy = {trial.id for trial in record.ended}

    def trial_ended(self, trial: int) -> None:
        """Strip the trial that ended, and drop the checkpoint of the one that it pushed out of the best."""
        best = {t.id: t.best_epoch for t in self._record.ranking()[: self._record.spec.checkpoints.keep]}
        for ended in {trial, *self._untidy, *self._kept - best.keys()}:
            TrialCheckpoints(trial_folder(self._study, ended)).strip(best.get(ended))
        self._kept, self._untidy = set(best), set()
