"""Config fields whose value changes at the rungs of early stopping: scheduler.fidelity of a study file."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.spec.study_tables import Scheduler


def with_full_fidelity(raw: dict[str, Any]) -> dict[str, Any]:
    """The tables of a study file with the last value of each field of scheduler.fidelity in [fixed] too.

    A field that is there already, or is sampled, isn't changed: `fidelity_problems` says what is wrong with it.
    """
    scheduler, fixed, space = (raw.get(table, {}) for table in ("scheduler", "fixed", "space"))
    fields = scheduler.get("fidelity") if isinstance(scheduler, dict) else getattr(scheduler, "fidelity", None)
    if not isinstance(fields, dict) or not isinstance(fixed, dict) or not isinstance(space, dict):
        return raw
    lists = {name: values for name, values in fields.items() if isinstance(values, list | tuple) and values}
    full = {name: values[-1] for name, values in lists.items() if name not in space}
    return {**raw, "fixed": full | fixed}


def fidelity_problems(scheduler: Scheduler, fixed: Mapping[str, Any], space: Container[str]) -> Iterable[str]:
    """What is wrong with scheduler.fidelity, a sentence each."""
    fields = scheduler.fidelity
    if not fields:
        return
    if scheduler.name in ("none", "median"):
        yield (
            "scheduler.fidelity: fields change at the rungs of asha, promotion and hyperband, and scheduler.name = "
            f'"{scheduler.name}" has none; name one of the three, or remove fidelity'
        )
    for name, values in fields.items():
        place = f"scheduler.fidelity.{name}"
        if name in space:
            yield f"{place}: a field of [space] can't change within a trial; remove one of the two"
        if len(values) < 2:
            yield f"{place}: two or more values are needed, the last for full trials, got {len(values)}; add some"
        elif name in fixed and fixed[name] != values[-1]:
            yield (
                f"{place}: the last value must be that of fixed.{name}, {fixed[name]!r}, got {values[-1]!r}; "
                "correct one of the two"
            )
    if len({len(values) for values in fields.values()}) > 1:
        counts = ", ".join(f"{len(values)} of {name}" for name, values in fields.items())
        yield f"scheduler.fidelity: each field needs as many values as the others, got {counts}; add or remove some"
    changes = scheduler.changes
    if len(set(changes)) < len(changes):
        yield (
            "scheduler.fidelity: each change needs an epoch of its own, got changes after the epochs "
            f"{', '.join(map(str, changes))}; raise grace_epochs or reduction_factor"
        )


def length_problem(scheduler: Scheduler, epochs: int) -> str | None:
    """What is wrong if a trial of so many epochs never comes to its last value."""
    if not scheduler.changes or scheduler.changes[-1] < epochs:
        return None
    fitting = 1 + sum(change < epochs for change in scheduler.changes)
    return (
        f"scheduler.fidelity: a trial of {epochs} epochs has room for {fitting} values of each field, with changes "
        f"after the epochs {', '.join(map(str, scheduler.changes))}; got {len(scheduler.changes) + 1}: give fewer, or "
        "lower grace_epochs"
    )
