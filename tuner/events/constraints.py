"""What a study's constraints have left of it, for a person."""

from __future__ import annotations

from tuner.events.state import Breach, StudyRecord


def no_winner(record: StudyRecord) -> str | None:
    """Why a study has no winner, if trials have ended and its constraints are why; None otherwise."""
    broken = [trial for trial in record.ended if trial.breach]
    if record.ranking() or not broken:
        return None
    found = []
    for constraint in record.spec.constraints:
        breaches = [breach for trial in broken for breach in trial.breaches if breach.constraint == constraint]
        if breaches:
            trials = sum(any(breach.constraint == constraint for breach in trial.breaches) for trial in broken)
            found.append(
                f"{constraint.metric} {constraint} ({trials} broke it, the nearest with {_nearest(breaches):g})"
            )
    return f"none of {len(record.ended)} ended trials keeps the constraints: {', '.join(found)}"


def _nearest(breaches: list[Breach]) -> float:
    return min((breach.value for breach in breaches), key=lambda value: abs(value - breaches[0].constraint.limit))
