"""The study file, and the command that trains the winner once more."""

from __future__ import annotations

import shlex
from typing import Any

from tuner.events.state import StudyRecord
from tuner.spec.space import is_active
from tuner.spec.study import StudySpec
from tuner.spec.toml import study_toml, toml
from tuner.storage.address import HIDDEN, is_secret_name, without_secrets_in


def study_file(spec: StudySpec) -> str:
    """The study as TOML, without the secrets of its addresses, and of fields whose name says that they are secret."""
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
    """Trains the winner's hyperparameters as a study of one trial, without early stopping.

    None if no trial can win, or the winner's hyperparameters are none of the space, which was changed since.
    """
    ranking = record.ranking()
    if not ranking:
        return None
    spec, params = record.spec, ranking[0].params
    active = {name for name, dimension in spec.space.items() if is_active(dimension, params)}
    if active != set(params) or not all(spec.space[name].contains(value) for name, value in params.items()):
        return None
    changes = ["budget.trials=1", "scheduler.name=none", f"first_trials={toml([params])}"]
    options = " ".join(f"--set {shlex.quote(change)}" for change in changes)
    return f"python -m tuner run {spec.name}.toml --name {spec.name[:90]}-winner {options}"
