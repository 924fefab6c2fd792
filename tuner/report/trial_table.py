"""The report's table of all trials, best first."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from tuner.display.live import control_text, format_metric, front_marks, number
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.storage.address import without_secrets_in

MAX_ROWS = 2000
"""A browser is slow with more rows."""


@dataclass(frozen=True)
class Cell:
    """text: as shown. sort: the number to sort by, as text; None to sort by the text."""

    text: str
    sort: str | None = None


@dataclass(frozen=True)
class TrialTable:
    heads: list[tuple[str, bool]]
    """The columns: title, and whether it holds numbers."""
    rows: list[tuple[TrialRecord, list[Cell]]]
    left_out: int
    """How many trials have no row."""


def trial_table(record: StudyRecord) -> TrialTable:
    """The table, with the trials that can win first, best first, then the others by number."""
    ranking = record.ranking()
    ranked = {trial.id for trial in ranking}
    rest = [record.trials[id] for id in sorted(record.trials) if id not in ranked]
    names = list(
        dict.fromkeys([*record.spec.space, *(name for trial in record.trials.values() for name in trial.params)])
    )
    numeric = {name: _all_numbers(record, name) for name in names}
    marks = front_marks(record)
    heads = [("trial", True), ("state", False), *((each.metric, True) for each in record.spec.objectives)]
    heads += [*([("front", False)] if marks else []), ("best epoch", True)]
    control = any(trial.control for trial in record.trials.values())
    heads += [("epochs", True), ("seconds", True), *numeric.items()]
    heads += [*([("control", False)] if control else []), ("why it ended", False)]
    now = time.time()
    shown = [*ranking, *rest][:MAX_ROWS]
    rows = [(trial, _cells(record, trial, names, marks, control, now)) for trial in shown]
    return TrialTable(heads, rows, len(record.trials) - len(shown))


def _all_numbers(record: StudyRecord, name: str) -> bool:
    values = [trial.params[name] for trial in record.trials.values() if name in trial.params]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _cells(
    record: StudyRecord, trial: TrialRecord, names: list[str], marks: dict[int, str], control: bool, now: float
) -> list[Cell]:
    seconds = trial.seconds(now)
    values = [Cell(format_metric(value), repr(value)) for value in trial.values]
    return [
        Cell(str(trial.id), str(trial.id)),
        Cell(trial.state),
        *(values or [Cell("")] * len(record.spec.objectives)),
        *([Cell(marks.get(trial.id, ""))] if marks else []),
        Cell("") if trial.best_epoch is None else Cell(str(trial.best_epoch), str(trial.best_epoch)),
        Cell(str(trial.epoch), str(trial.epoch)),
        Cell(f"{seconds:,.1f}", repr(seconds)),
        *(_value(trial.params[name]) if name in trial.params else Cell("") for name in names),
        *([Cell(control_text(record, trial))] if control else []),
        Cell(without_secrets_in(trial.why or "")),
    ]


def _value(value: Any) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return Cell(number(value), repr(value))
    return Cell(str(value))
