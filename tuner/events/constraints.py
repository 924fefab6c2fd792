"""Why a study has no winner, for a person: its constraints, or no trial at full fidelity."""

from __future__ import annotations

from tuner.events.state import StudyRecord
from tuner.events.trial import Breach


def no_winner(record: StudyRecord) -> str | None:
    """Why a study has no winner, if trials have ended and its constraints or fidelity are why; None otherwise."""
    broken = [trial for trial in record.ended if trial.breach]
    ranking = record.ranking()
    if ranking and not record.at_full_fidelity(ranking[0].best_epoch or 0):
        changes = record.spec.scheduler.changes
        return (
            f"none of {len(record.ended)} ended trials has a value at full fidelity, which begins after epoch "
            f"{changes[-1]} (scheduler.fidelity)"
        )
    if ranking or not broken:
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
