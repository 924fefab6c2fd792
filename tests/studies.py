"""The small study of tests: on tests/workloads/replay.py, to maximize its score over x."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.spec.study import StudySpec


def study_tables(**changes: Any) -> dict[str, Any]:
    """The study file's tables. changes: what differs; a table is merged with the one here, key by key."""
    study: dict[str, Any] = {
        "workload": "tests.workloads.replay",
        "objective": {"metric": "score"},
        "budget": {"trials": 10},
        "space": {"x": {"type": "float", "low": 0, "high": 1}},
    }
    if "objectives" in changes:
        del study["objective"]
    for key, value in changes.items():
        study[key] = {**study.get(key, {}), **value} if isinstance(value, dict) else value
    return study


def study_spec(**changes: Any) -> StudySpec:
    """The study, checked; its name is s unless changes say otherwise."""
    return StudySpec.model_validate({"name": "s", **study_tables(**changes)})


def write_study(path: Path, **changes: Any) -> Path:
    """The study as a file, which gives it its name."""
    study = study_tables(**changes)
    lines = [f"{key} = {_toml(value)}" for key, value in study.items() if not isinstance(value, dict)]
    for name, table in study.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return json.dumps(value if not isinstance(value, Path) else str(value))
