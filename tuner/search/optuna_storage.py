"""A study written as an Optuna storage, which optuna-dashboard and Optuna's own functions open."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.search.optuna_study import frozen_trials
from tuner.storage.address import redacted


def write_optuna_storage(record: StudyRecord, to: str) -> None:
    """All of the study's trials, with user attributes, and with intermediate values if there is one objective.

    to: a database's URL, or the path of a journal file. Raises StudyError, and leaves nothing of the study there, if it
    can't be written or holds a study of that name.
    """
    name = record.spec.name
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = _storage(to)
        if name in optuna.get_all_study_names(storage):
            raise StudyError(f"--to: must hold no study {name}, but does; give another file or database")
        objectives = record.spec.objectives
        directions = [objective.direction for objective in objectives]
        study = optuna.create_study(storage=storage, study_name=name, directions=directions)
        try:
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                study.set_metric_names([objective.metric for objective in objectives])
            study.add_trials(frozen_trials(record, several=len(objectives) > 1))
        except BaseException:
            with contextlib.suppress(Exception):
                optuna.delete_study(study_name=name, storage=storage)
            raise
    except StudyError:
        raise
    except Exception as error:  # whatever a database's driver raises
        why = redacted(str(error).strip().split("\n")[0], to)
        raise StudyError(
            f"--to: a database's URL (sqlite:///FILE) or the path of a journal file is needed, got: {why}"
        ) from None


def _storage(to: str) -> BaseStorage:
    if "://" in to:
        return RDBStorage(to)
    path = Path(to).expanduser()
    if not path.parent.is_dir():
        raise StudyError(f"--to {to}: must be in a folder that is there; make {path.parent}, or give another path")
    return JournalStorage(JournalFileBackend(str(path)))
