"""How to train the winner again: the study file, a command, and what the study ran on."""

from __future__ import annotations

import shlex
from typing import Any

from tuner.events.event import RunBegan
from tuner.events.log import read_events
from tuner.events.state import StudyRecord
from tuner.results.study import Study
from tuner.spec.space import is_active
from tuner.spec.study import StudySpec
from tuner.spec.toml import study_toml, toml
from tuner.storage.address import HIDDEN, is_secret_name, without_secrets_in

_LIBRARIES = ("python", "tuner", "ray", "torch", "optuna", "mlflow", "numpy")
"""Packages whose versions the report shows; MLflow has those of all installed packages."""


def study_file(spec: StudySpec) -> str:
    """The study as TOML, with the secrets in its addresses, and in fields such as `token` or `password`, replaced."""
    return without_secrets_in(study_toml(spec.model_copy(update={"fixed": _hidden(spec.fixed)})))


def _hidden(table: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            shown[name] = _hidden(value)
        else:
            shown[name] = HIDDEN if isinstance(value, str) and is_secret_name(name) else value
    return shown


def command(record: StudyRecord) -> str | None:
    """The command that trains the winner's hyperparameters as a study of one trial, without early stopping.

    None if no trial can win, or if the winner's hyperparameters lie outside the space, which was changed since.
    """
    ranking = record.ranking()
    if not ranking:
        return None
    spec, params = record.spec, ranking[0].params
    active = {name for name, dimension in spec.space.items() if is_active(dimension, params)}
    if active != set(params) or not all(spec.space[name].contains(value) for name, value in params.items()):
        return None
    changes = ["budget.trials=1", "scheduler.name=none", f"first_trials={toml([params])}"]
    if spec.scheduler.control_trials:
        changes.append("scheduler.control_trials=0")
    if spec.search.from_studies:
        changes.append("search.from_studies=[]")
    options = " ".join(f"--set {shlex.quote(change)}" for change in changes)
    return f"python -m tuner run {spec.name}.toml --name {spec.name[:90]}-winner {options}"


def origin(study: Study) -> list[tuple[str, str]]:
    """Name and text of what the first run used: command, code, data, machine, versions. Unknown ones are left out."""
    began = next((event for event in read_events(study.folder) if isinstance(event, RunBegan)), None)
    if began is None:
        return []
    git = began.git or {}
    code = ", ".join(git[part] for part in ("commit", "branch", "tree", "repository") if part in git)
    versions = ", ".join(f"{name} {began.versions[name]}" for name in _LIBRARIES if name in began.versions)
    parts = {
        "command": began.command or "",
        "code": code,
        "data": ", ".join(f"{name} {text}" for name, text in (began.data or {}).items()),
        "machine": ", ".join([began.host, *(f"{name} {text}" for name, text in (began.hardware or {}).items())]),
        "versions": versions,
    }
    return [(name, text) for name, text in parts.items() if text]
