"""`run --or-resume`: one command that starts a study or resumes it.

Job schedulers need it: they run a command again when its machine was lost.
"""

from __future__ import annotations

from rich.console import Console

from tuner.driver import run as runs
from tuner.errors import StudyError
from tuner.events.state import StudyRecord, load_record
from tuner.search.earlier_studies import with_own_seed
from tuner.spec.space import Scalar
from tuner.spec.study import StudySpec
from tuner.spec.toml import override

_UNCHANGEABLE = ("workload", "objectives", "constraints", "search", "scheduler", "fixed", "space")
_CHANGEABLE = ("budget", "resources", "checkpoints", "failures")


def run_or_resume(spec: StudySpec, options: runs.Options, overrides: list[str], console: Console) -> StudyRecord:
    """Start the study, or resume it if the storage has it; a finished study is left as it is.

    The tables in _CHANGEABLE may differ from those in the storage. Raises StudyError if anything else differs.
    """
    study = options.storage / spec.name
    if study.read_text("study.json") is None:
        return runs.run(spec, options, overrides, console)
    begun = load_record(study).spec
    if begun.taken:
        spec = spec.model_copy(update={"search": with_own_seed(spec.search)})
    changed = [key for key in _UNCHANGEABLE if getattr(spec, key) != getattr(begun, key)]
    if _own_first_trials(begun) not in (None, spec.first_trials):
        changed.append("first_trials")
    if changed:
        raise StudyError(
            f"{', '.join(changed)}: must be the same as when the study {spec.name} in {options.storage.uri} began, got "
            "something else; give the new study another --name, or the old study file to resume the old one"
        )
    return runs.resume(spec.name, options, _changes(begun, spec), console)


def _own_first_trials(begun: StudySpec) -> tuple[dict[str, Scalar], ...] | None:
    """Those of the study's file, without those that it took from earlier studies; None if it doesn't say which it took,
    since it began with an earlier version.
    """
    if begun.search.from_studies and not begun.taken:
        return None
    return begun.first_trials[: len(begun.first_trials) - sum(len(each.trials) for each in begun.taken)]


def _changes(begun: StudySpec, spec: StudySpec) -> list[str]:
    """The values that differ in the tables that may, as `--set` takes them."""
    before, after = begun.model_dump(mode="json"), spec.model_dump(mode="json")
    return [
        override(f"{table}.{key}", value)
        for table in _CHANGEABLE
        for key, value in after[table].items()
        if value != before[table][key] and value is not None
    ]
