"""The comparison of studies with the same objective: which found better values, which was faster, what each cost."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.display.live import format_metric
from tuner.errors import StudyError
from tuner.report.compared_trials import ComparedTrial, frames, masks_of, rows
from tuner.report.figures.figure import duration, epochs
from tuner.report.figures.progress import Progress, progress, progress_figures
from tuner.report.html import render
from tuner.report.study_page import study_seconds, trial_seconds
from tuner.results.study import Study


def comparison_page(studies: Sequence[Study]) -> str:
    """The page as HTML. Raises StudyError if the studies have different objectives."""
    _check_objectives(studies)
    found = [progress(study) for study in studies]
    figures = list(progress_figures(found))
    metric, direction = studies[0].spec.objective.metric, studies[0].spec.objective.direction
    winners = [
        ComparedTrial(study.name, winner, masks_of(study, winner))
        for study in studies
        for winner in study.record.ranking()[:1]
    ]
    names = [study.name for study in studies]
    return render(
        "comparison.html",
        figures,
        [
            ("result", "Result"),
            *([("progress", "Progress")] if figures else []),
            *([("winners", "Winners")] if winners else []),
        ],
        title=" and ".join(names) if len(names) == 2 else ", ".join(names),
        lede=f"{len(studies)} studies, each to {direction} {metric}",
        names=names,
        verdict=verdict(found),
        facts=_facts(found),
        progress=figures,
        compared_trials=winners,
        rows=rows(winners, studies[0].spec),
        frames=frames(winners),
    )


def _check_objectives(studies: Sequence[Study]) -> None:
    objectives = {study.name: study.spec.goal for study in studies}
    if len(objectives) < len(studies):
        raise StudyError("report: a comparison needs different studies, got one name twice; remove it")
    if len(set(objectives.values())) > 1 or len(studies[0].spec.objectives) > 1:
        got = ", ".join(f"{name} ({objective})" for name, objective in objectives.items())
        raise StudyError(
            f"report: studies of one objective are needed to compare them, got {got}; make a report of each instead"
        )


def verdict(found: Sequence[Progress]) -> list[str]:
    """Sentences: which study found the better value, when it reached each other study's best, what each cost."""
    objective = found[0].study.spec.objective
    won = [(one, winner.value) for one in found if (winner := one.study.best)]
    said = [f"{one.study.name} has no trial yet that can win." for one in found if one.study.best is None]
    won.sort(key=lambda pair: pair[1], reverse=objective.direction == "maximize")
    for other, value in won[1:]:
        (first, best), name = won[0], other.study.name
        if best == value:
            said.append(f"{first.study.name} and {name} found the same: {objective.metric} {format_metric(best)}.")
        else:
            said.append(
                f"Better: {first.study.name}, {objective.metric} {format_metric(best)} against {format_metric(value)} "
                f"of {name}."
            )
        said.append(_faster(first, other, value))
    said.append(f"Cost: {'; '.join(_cost(one) for one in found)}.")
    return said


def _faster(first: Progress, other: Progress, value: float) -> str:
    """Which of two studies reached a value first. value: the other's best, which both have reached."""
    one, two = first.first_reached(value), other.first_reached(value)
    names = first.study.name, other.study.name
    if one is None or two is None:
        return f"When {names[0]} was as good as {names[1]}'s best is not known."
    at = [
        f"{name} after {duration(seconds)} and {epochs(spent)}"
        for name, (seconds, spent) in zip(names, (one, two), strict=True)
    ]
    if one[0] == two[0]:
        return f"Equally fast to {format_metric(value)}: {at[0]}, {at[1]}."
    ordered = at if one[0] < two[0] else at[::-1]
    return f"Faster to {format_metric(value)}: {ordered[0]}; {ordered[1]}."


def _cost(one: Progress) -> str:
    record, now = one.study.record, one.study.loaded_at
    return f"{one.study.name} {epochs(one.epochs)}, {duration(trial_seconds(record, now))} of trial time"


def _facts(found: Sequence[Progress]) -> list[tuple[str, list[str]]]:
    objective = found[0].study.spec.objective
    bests = [best.value for one in found if (best := one.study.best)]
    # The best value that all of them have reached.
    common = (min(bests) if objective.direction == "maximize" else max(bests)) if len(bests) == len(found) else None
    columns = [_column(one, common) for one in found]
    return [(name, [column[name] for column in columns]) for name in columns[0]]


def _column(one: Progress, common: float | None) -> dict[str, str]:
    record, best, now = one.study.record, one.study.best, one.study.loaded_at
    metric = record.spec.objective.metric
    failed = sum(trial.state == "failed" for trial in record.trials.values())
    column = {
        "state": one.study.state,
        f"best {metric}": format_metric(best.value) if best else "–",
        "best trial": f"{best.trial}, epoch {best.epoch}" if best else "–",
        "trials ended": f"{len(record.ended):,} of {record.spec.budget.trials:,}, {failed} failed",
        "epochs spent": f"{one.epochs:,}",
        "duration": duration(study_seconds(record, now)),
        "trial time": duration(trial_seconds(record, now)),
        "sampler, scheduler": f"{record.spec.search.sampler}, {record.spec.scheduler.name}",
    }
    reached = one.first_reached(best.value) if best else None
    column["time to its best"] = _when(reached)
    if common is not None:
        column[f"time to {metric} {format_metric(common)}"] = _when(one.first_reached(common))
    return column


def _when(reached: tuple[float, int] | None) -> str:
    return f"{duration(reached[0])}, {epochs(reached[1])}" if reached else "–"
