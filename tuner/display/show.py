"""The output of `list` and `show`: JSON with stable keys for programs, tables for people."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from tuner.display.live import format_values, number, trial_table
from tuner.errors import StudyError
from tuner.events.constraints import no_winner
from tuner.events.control_outcome import would_stop_at
from tuner.events.log import EVENTS
from tuner.events.state import SPEC, StudyRecord, load_record
from tuner.events.trial import TrialRecord
from tuner.search.schedulers.reliability import reliability
from tuner.storage.storage import Storage


@dataclass(frozen=True)
class Damaged:
    """A study whose files can't be read."""

    name: str
    reason: str


def studies(storage: Storage) -> tuple[list[StudyRecord], list[Damaged]]:
    """All studies of a storage, oldest first; those that can't be read are returned separately."""
    records, damaged = [], []
    for name in storage.names():
        study = storage / name
        try:
            if study.exists(SPEC) or study.exists(EVENTS):
                records.append(load_record(study))
        except StudyError as error:
            damaged.append(Damaged(name, str(error)))
    return sorted(records, key=lambda record: (record.created, record.spec.name)), damaged


def find(storage: Storage, name: str | None) -> StudyRecord:
    """The study of that name, or the newest. Raises StudyError if there is none."""
    if name is not None:
        return load_record(storage / name)
    found, damaged = studies(storage)
    if not found and damaged:
        raise StudyError(damaged[0].reason)
    if not found:
        raise StudyError(
            f"--storage {storage.uri}: a study is needed there, got none; "
            "start one with `python -m tuner run STUDY_FILE`"
        )
    return found[-1]


def study_json(record: StudyRecord | Damaged) -> dict[str, Any]:
    """Keys: name, state, created (ISO 8601, UTC; null for a damaged one)."""
    if isinstance(record, Damaged):
        return {"name": record.name, "state": "damaged", "created": None}
    created = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
    return {"name": record.spec.name, "state": record.state, "created": created}


def record_json(record: StudyRecord) -> dict[str, Any]:
    """Keys: name, state, reason, objective and direction (the first of several), objectives, best, front (of several
    objectives, the trials that none dominates), left_out (nodes of its newest run that got no trials), from_studies
    (what became first trials, by earlier study), trials. A missing value is null.
    """
    ranking = record.ranking()
    best = ranking[0] if ranking else None
    return {
        "name": record.spec.name,
        "state": record.state,
        "reason": record.reason,
        "objective": record.spec.objective.metric,
        "direction": record.spec.objective.direction,
        "objectives": [each.model_dump() for each in record.spec.objectives],
        "best": best and {"trial": best.id, "value": best.value, "epoch": best.best_epoch, "params": best.params},
        "front": [trial.id for trial in record.front()],
        "left_out": [{"node": node, "reason": reason} for node, reason in record.left_out.items()],
        "from_studies": [_taken_json(record, name) for name in record.spec.search.from_studies],
        "trials": [_trial_json(record, trial) for trial in sorted(record.trials.values(), key=lambda trial: trial.id)],
    }


def _taken_json(record: StudyRecord, name: str) -> dict[str, Any]:
    """The numbers are null in a study of an earlier version, which doesn't say what it took."""
    taken = next((each for each in record.spec.taken if each.study == name), None)
    return {
        "study": name,
        "trials": list(taken.trials) if taken else None,
        "ended": taken.ended if taken else None,
        "without": list(taken.without) if taken else None,
        "reason": taken.reason if taken else None,
    }


def _trial_json(record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    return {
        "id": trial.id,
        "state": trial.state,
        "params": trial.params,
        "value": trial.value,
        "values": dict(zip((each.metric for each in record.spec.objectives), trial.values, strict=False)),
        "epochs": trial.epoch,
        "startup_seconds": trial.startup_seconds,
        "seconds": round(trial.seconds(time.time()), 3),
        "reason": trial.why,
        "nodes": list(trial.nodes),
        "control": trial.control,
        "would_stop_at": would_stop_at(record, trial),
    }


def print_studies(records: list[StudyRecord], damaged: list[Damaged], console: Console) -> None:
    for record in records:
        created = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M")
        done = f"{len(record.ended)} of {record.spec.budget.trials} trials"
        ranking = record.ranking()
        name = "knee" if record.front() else "best"
        best = f"  {name} {format_values(record.spec, ranking[0].values)}" if ranking else ""
        console.print(
            f"{record.spec.name:<24} {record.state:<12} {created}  {done}{best}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    for study in damaged:
        console.print(f"{study.name:<24} damaged", highlight=False, markup=False, soft_wrap=True)
        console.print(f"  {study.reason}", style="dim", highlight=False, markup=False, soft_wrap=True)


def print_record(record: StudyRecord, console: Console, rows: int | None = None, skipped: str | None = None) -> None:
    """Print the ranking, then the other trials. rows: at most so many; None: all. skipped: what MLflow rejected."""
    done = f"{len(record.ended)} of {record.spec.budget.trials} trials"
    goal = f"to {record.spec.goal}"
    # A Text, since rich would interpret square brackets in a string as markup.
    console.print(Text.assemble((record.spec.name, "bold"), f"  {record.state}  {done}, {goal}"), soft_wrap=True)
    if record.reason:
        console.print(f"{record.state}: {record.reason}", style="dim", highlight=False, markup=False, soft_wrap=True)
    ranking = record.ranking()
    ranked = {trial.id for trial in ranking}
    rest = [trial for trial in record.trials.values() if trial.id not in ranked]
    console.print(trial_table(record, [*ranking, *rest][:rows]))
    hidden = len(record.trials) - (rows or len(record.trials))
    if hidden > 0:
        more = f"… and {hidden} more: python -m tuner show {record.spec.name}"
        console.print(more, style="dim", highlight=False, markup=False)
    for trial in rest:
        if trial.why:
            console.print(
                f"trial {trial.id} {trial.state}: {trial.why}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    for name, taken in record.spec.taken_from().items():
        console.print(f"first trials from {name}: {taken}", highlight=False, markup=False, soft_wrap=True)
    if sentence := no_winner(record):
        console.print(sentence, style="yellow", highlight=False, markup=False, soft_wrap=True)
    for node, reason in record.left_out.items():
        console.print(
            f"node {node} got no trials: {reason}", style="yellow", highlight=False, markup=False, soft_wrap=True
        )
    for sentence in reliability(record):
        style = "yellow" if sentence.startswith("warning") else None
        console.print(sentence, style=style, highlight=False, markup=False, soft_wrap=True)
    if skipped:
        console.print(skipped, style="yellow", highlight=False, markup=False, soft_wrap=True)


def best_line(record: StudyRecord) -> str | None:
    """One line on the winner; None if no trial can win."""
    ranking = record.ranking()
    if not ranking:
        return None
    best = ranking[0]
    params = ", ".join(f"{name} {number(value)}" for name, value in best.params.items())
    values = format_values(record.spec, best.values)
    front = record.front()
    name = f"knee of a front of {len(front)}" if front else "best"
    return f"{name}: trial {best.id}, {values} at epoch {best.best_epoch}, with {params}"
