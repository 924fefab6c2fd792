"""What `python -m tuner run` does, as a function: `tuner.run`. Its mistakes are exceptions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.results.study import Study
from tuner.spec.study import StudySpec
from tuner.spec.toml import toml
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

    study: a study file's path; its tables; or a study, such as another's `spec`. overrides: by "table.key", what
    replaces what the study says: {"budget.trials": 20, "fixed.data_dir": Path("frames")}. storage, name, tracking_uri,
    address: as the options of `python -m tuner run`; a name is needed where the tables have none.

    Progress is printed as the command prints it. Raises StudyError before anything is written if the study can't start,
    and when it has failed or could not go on; KeyboardInterrupt when Ctrl-C has stopped it, in order, so that
    `python -m tuner resume` continues it.
    """
    # Late: Ray takes seconds, which those who only load a study need not wait for.
    from rich.console import Console

    from tuner.driver import run as driver

    changes = [_override(key, value) for key, value in (overrides or {}).items()]
    place = Storage(os.fspath(storage))
    options = driver.Options(place, tracking_uri, address)
    spec = study_spec(study, changes, name)
    return ended(driver.run(spec, options, changes, Console(emoji=False, markup=False)), place)


def ended(record: StudyRecord, storage: Storage) -> Study:
    """The study whose run has ended so. Raises what `run` raises of one that hasn't finished."""
    if record.state == "interrupted" and record.reason in ("SIGINT", "SIGTERM"):
        raise KeyboardInterrupt(f"study {record.spec.name} was stopped by {record.reason}")
    if record.state != "finished":
        raise StudyError(f"study {record.spec.name}: {record.state}: {record.reason}")
    return Study(record, storage / record.spec.name)


def _override(key: str, value: Any) -> str:
    try:
        return f"{key}={toml(value)}"
    except TypeError as error:
        raise StudyError(f"overrides: {key}: {error}") from None


def study_spec(
    study: StudySpec | Mapping[str, Any] | str | os.PathLike[str], changes: list[str], name: str | None
) -> StudySpec:
    """The checked study of what `run` takes; changes: "table.key=value"."""
    from tuner.spec.study_file import read_study, study_of_tables

    if isinstance(study, str | os.PathLike):
        return read_study(Path(study), changes, name)
    # Another study's id is not this one's.
    tables = study.model_dump(mode="json", exclude={"id"}) if isinstance(study, StudySpec) else study
    return study_of_tables(tables, changes, name, place="study")
