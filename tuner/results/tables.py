"""A study's trials and metrics as pandas tables, and these tables as files.

A column is named after its hyperparameter or metric. If another column of the table has that name, `param.` or
`metric.` is put before it: a sampled `epochs` is `param.epochs`, since `epochs` counts the epochs that a trial ran.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tuner.errors import StudyError
from tuner.events.control_outcome import would_stop_at
from tuner.events.event import EpochReported, TrialRewound
from tuner.events.log import read_events
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.spec.space import Float, Int
from tuner.storage.storage import Storage
from tuner.tracking.state import run_ids

_TRIAL_COLUMNS = (
    "trial", "state", "value", "front", "best_epoch", "epochs", "seconds", "startup_seconds", "started", "ended",
    "reason", "control", "would_stop_at", "mlflow_run_id",
)  # fmt: skip
_METRIC_COLUMNS = ("trial", "epoch", "seconds")


def trials_table(record: StudyRecord, folder: Storage, now: float) -> pd.DataFrame:
    """One row for each trial, indexed by its id: its hyperparameters, then its results.

    folder: the study's. now: seconds since 1970, up to which the time of a running trial is counted.
    """
    trials = [record.trials[id] for id in sorted(record.trials)]
    runs = run_ids(folder)
    columns: dict[str, Any] = {}
    for name, values in _hyperparameters(record).items():
        columns[column_of(name)] = values
    return pd.DataFrame(
        {
            **columns,
            "state": pd.Series([trial.state for trial in trials], dtype="str"),
            "value": pd.Series([trial.value for trial in trials], dtype="float64"),
            **_front_columns(record, trials),
            "best_epoch": pd.Series([trial.best_epoch for trial in trials], dtype="Int64"),
            "epochs": pd.Series([trial.epoch for trial in trials], dtype="int64"),
            "seconds": pd.Series([round(trial.seconds(now), 3) for trial in trials], dtype="float64"),
            "startup_seconds": pd.Series([trial.startup_seconds for trial in trials], dtype="float64"),
            "started": _times([trial.started for trial in trials]),
            "ended": _times([trial.ended for trial in trials]),
            "reason": pd.Series([trial.why for trial in trials], dtype="str"),
            **_control_columns(record, trials),
            "mlflow_run_id": pd.Series([runs.get(str(trial.id)) for trial in trials], dtype="str"),
        }
    ).set_axis(pd.Index([trial.id for trial in trials], name="trial", dtype="int64"))


def _front_columns(record: StudyRecord, trials: list[TrialRecord]) -> dict[str, pd.Series[Any]]:
    """Of several objectives the values of all, by metric, and whether a trial is in the front; none of one."""
    objectives, front = record.spec.objectives, {trial.id for trial in record.front()}
    if len(objectives) == 1:
        return {}
    values = [dict(zip((each.metric for each in objectives), trial.values, strict=False)) for trial in trials]
    return {
        **{each.metric: pd.Series([of.get(each.metric) for of in values], dtype="float64") for each in objectives},
        "front": pd.Series([trial.id in front for trial in trials], dtype="bool"),
    }


def _control_columns(record: StudyRecord, trials: list[TrialRecord]) -> dict[str, pd.Series[Any]]:
    """None for a study without control trials."""
    if not any(trial.control for trial in trials):
        return {}
    return {
        "control": pd.Series([trial.control for trial in trials], dtype="bool"),
        "would_stop_at": pd.Series([would_stop_at(record, trial) for trial in trials], dtype="Int64"),
    }


def column_of(hyperparameter: str) -> str:
    """The name of a hyperparameter's column in the table of trials."""
    return f"param.{hyperparameter}" if hyperparameter in _TRIAL_COLUMNS else hyperparameter


def _hyperparameters(record: StudyRecord) -> dict[str, pd.Series[Any]]:
    """The hyperparameters in the study's order, then those that only trials of an earlier search space have."""
    trials = [record.trials[id] for id in sorted(record.trials)]
    names = dict.fromkeys([*record.spec.space, *(name for trial in trials for name in trial.params)])
    return {name: _series(record, name, [trial.params.get(name) for trial in trials]) for name in names}


def _series(record: StudyRecord, name: str, values: list[Any]) -> pd.Series[Any]:
    """A column with the type of the hyperparameter's range; for a choice, the type that all its values share."""
    dimension, known = record.spec.space.get(name), [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    if isinstance(dimension, Float) and kinds <= {float, int}:
        return pd.Series(values, dtype="float64")
    if isinstance(dimension, Int) and kinds <= {int}:
        return pd.Series(values, dtype="Int64")
    same = {frozenset({bool}): "boolean", frozenset({int}): "Int64", frozenset({str}): "str"}
    numbers = "float64" if kinds == {float} or kinds == {float, int} else "object"
    return pd.Series(values, dtype=same.get(frozenset(kinds), numbers))


def _times(seconds: list[float | None]) -> pd.Series[Any]:
    return pd.Series(pd.to_datetime(pd.Series(seconds, dtype="float64"), unit="s", utc=True))


def metrics_table(record: StudyRecord, folder: Storage) -> pd.DataFrame:
    """One row for each trial and epoch, sorted by both: trial, epoch, seconds, then a column for each metric.

    seconds: from the study's start to the report. Of epochs that a killed trial replayed, only the second report is
    included. If the study is running, events that are newer than the record are left out.
    """
    rows = _rows(record, folder)
    names = dict.fromkeys(name for *_, metrics in rows for name in metrics)
    names.pop("epoch", None)
    columns: dict[str, Any] = {
        "trial": pd.Series([trial for trial, *_ in rows], dtype="int64"),
        "epoch": pd.Series([epoch for _, epoch, *_ in rows], dtype="int64"),
        "seconds": pd.Series([round(time - record.created, 3) for _, _, time, _ in rows], dtype="float64"),
    }
    for name in names:
        columns[metric_column(name)] = pd.Series([metrics.get(name) for *_, metrics in rows], dtype="float64")
    return pd.DataFrame(columns)


def metric_column(metric: str) -> str:
    """The name of a metric's column in the table of metrics."""
    return f"metric.{metric}" if metric in _METRIC_COLUMNS else metric


def _rows(record: StudyRecord, folder: Storage) -> list[tuple[int, int, float, dict[str, float]]]:
    """(trial, epoch, time, metrics) of each report, without those that were replayed."""
    reports: dict[int, dict[int, tuple[float, dict[str, float]]]] = {trial: {} for trial in sorted(record.trials)}
    for event in read_events(folder):
        match event:
            case EpochReported() if event.trial in reports:
                reports[event.trial][event.epoch] = event.time, event.metrics
            case TrialRewound() if event.trial in reports:
                for epoch in [epoch for epoch in reports[event.trial] if epoch > event.epoch]:
                    del reports[event.trial][epoch]
            case _:
                pass
    return [
        (trial, epoch, *report)
        for trial, known in reports.items()
        for epoch, report in known.items()
        if epoch <= record.trials[trial].epoch
    ]


def write_csv(table: pd.DataFrame, file: Path) -> None:
    """Write a table as CSV: missing values are empty, times ISO 8601. Raises StudyError if it can't be written."""
    with _writing(file):
        _whole(table).to_csv(file, index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ")


def write_parquet(table: pd.DataFrame, file: Path) -> None:
    """Write a table as Parquet. A column with values of several types becomes text.

    Raises StudyError if it can't be written.
    """
    whole = _whole(table)
    mixed = [name for name in whole.columns if whole[name].dtype == object]
    texts = {name: whole[name].map(str, na_action="ignore").astype("str") for name in mixed}
    with _writing(file):
        whole.assign(**texts).to_parquet(file, index=False)


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    return table.reset_index() if table.index.name else table


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"{file}: must be a file that can be written, got: {error.strerror or error}; give another"
        ) from None
