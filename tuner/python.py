"""`tuner.run`: does what `python -m tuner run` does, and raises exceptions for mistakes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.results.study import Study
from tuner.spec.study import StudySpec, tables
from tuner.spec.toml import override
from tuner.storage.storage import Storage


def run(
    study: StudySpec | Mapping[str, Any] | str | os.PathLike[str],
    storage: str | os.PathLike[str] = "studies",
    *,
    overrides: Mapping[str, Any] | None = None,
    name: str | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
) -> Study:
    """Run a new study to its end, and load it.

    study: the path of a study file, its tables, or the `spec` of another study. overrides: values that replace those of
    the study, by "table.key": {"budget.trials": 20, "fixed.data_dir": Path("frames")}. storage, name, tracking_uri,
    address: the options of `python -m tuner run`; a name is needed if the tables have none.

    Prints its progress as the command does. Raises StudyError if the study can't start, before anything is written, and
    if it fails or is interrupted; KeyboardInterrupt if Ctrl-C stopped it: `python -m tuner resume` then continues it.
    """
    # Imported here: Ray takes seconds, and who only loads a study doesn't need it.
    from rich.console import Console

    from tuner.driver import run as driver

    changes = [_override(key, value) for key, value in (overrides or {}).items()]
    opened = Storage(os.fspath(storage))
    options = driver.Options(opened, tracking_uri, address)
    spec = study_spec(study, changes, name)
    return ended(driver.run(spec, options, changes, Console(emoji=False, markup=False)), opened)


def ended(record: StudyRecord, storage: Storage) -> Study:
    """The study of a run that has ended. Raises what `run` raises if it didn't finish."""
    if record.state == "interrupted" and record.reason in ("SIGINT", "SIGTERM"):
        raise KeyboardInterrupt(f"study {record.spec.name} was stopped by {record.reason}")
    if record.state != "finished":
        raise StudyError(f"study {record.spec.name}: {record.state}: {record.reason}")
    return Study(record, storage / record.spec.name)


def _override(key: str, value: Any) -> str:
    try:
        return override(key, value)
    except TypeError as error:
        raise StudyError(f"overrides: {key}: {error}") from None


def study_spec(
    study: StudySpec | Mapping[str, Any] | str | os.PathLike[str], changes: list[str], name: str | None
) -> StudySpec:
    """The checked study for an argument of `run`. changes: "table.key=value" each."""
    from tuner.spec.study_file import read_study, study_of_tables

    if isinstance(study, str | os.PathLike):
        return read_study(Path(study), changes, name)
    given = dict(study) if isinstance(study, Mapping) else tables(study)
    if isinstance(study, StudySpec):
        # Another study's id is not this one's, and what it took from earlier ones is among its first trials.
        del given["id"], given["taken"]
        if study.taken:
            given["search"]["from_studies"] = []
    return study_of_tables(given, changes, name, place="study")
