"""The same command again: what schedulers of jobs need, who start a command once more when its machine was lost."""

from __future__ import annotations

import json

from rich.console import Console

from tuner.driver import run as runs
from tuner.errors import StudyError
from tuner.events.state import StudyRecord, load_record
from tuner.spec.study import StudySpec

_FIXED = ("workload", "objective", "search", "scheduler", "fixed", "space")
_FREE = ("budget", "resources", "failures")


def run_or_resume(spec: StudySpec, options: runs.Options, overrides: list[str], console: Console) -> StudyRecord:
    """Start the study, or resume it if its storage has it; one that is finished is left as it is.

    Budget, resources and failures may have changed. Raises StudyError if more has: it is another study then.
    """
    study = options.storage / spec.name
    if study.read_text("study.json") is None:
        return runs.run(spec, options, overrides, console)
    begun = load_record(study).spec
    changed = [key for key in _FIXED if getattr(spec, key) != getattr(begun, key)]
    if changed:
        raise StudyError(
            f"{', '.join(changed)}: must be what the study {spec.name} in {options.storage.uri} began with, got "
            "something else; give the new one another --name, or the old file to resume the old one"
        )
    return runs.resume(spec.name, options, _changes(begun, spec), console)


def _changes(begun: StudySpec, spec: StudySpec) -> list[str]:
    """What differs in the tables that may, as `--set` takes it."""
    before, after = begun.model_dump(mode="json"), spec.model_dump(mode="json")
    return [
        f"{table}.{key}={json.dumps(value)}"
        for table in _FREE
        for key, value in after[table].items()
        if value != before[table][key] and value is not None
    ]
