"""The report of one study as an HTML page."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from tuner.display.live import format_metric, front_marks, number
from tuner.events.control_outcome import control_sentence
from tuner.events.outcome import compare
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialState
from tuner.report.compared_trials import compared_trials, frames, rows
from tuner.report.failures import causes
from tuner.report.figures.curves import learning_curves
from tuner.report.figures.figure import Figure, duration
from tuner.report.figures.front import front_figure
from tuner.report.figures.hyperparameters import LEAST_TRIALS, hyperparameter_figures
from tuner.report.figures.progress import progress, progress_figures
from tuner.report.figures.time_spent import time_figure
from tuner.report.html import render
from tuner.report.reproduction import command, origin, study_file
from tuner.report.rungs import Rung, rungs
from tuner.report.trial_table import trial_table
from tuner.results.study import Study
from tuner.search.schedulers.reliability import warning
from tuner.spec.study import StudySpec
from tuner.storage.address import HIDDEN

_STATES: dict[TrialState, str] = {
    "finished": "finished",
    "stopped": "stopped early",
    "failed": "failed",
    "running": "running",
    "paused": "paused",
    "interrupted": "interrupted",
}


def study_page(study: Study) -> str:
    """The page as HTML. A running study, or one without an ended trial, gets what can be shown so far."""
    record, metric = study.record, study.spec.objective.metric
    progress_plots = list(progress_figures([progress(study)]))
    time, front = time_figure(study), front_figure(record)
    views = [study.by(objective) for objective in study.spec.objectives] if record.front() else [study]
    curves = [_of_view(each, view, views) for view in views if (each := learning_curves(view))]
    hyperparameter_plots = [
        _of_view(each, view, views) for view in views for each in hyperparameter_figures(view.record)
    ]
    found = compared_trials(study)
    comparisons, early, control = compare(record, study.folder), _rungs(record), control_sentence(record)
    parts = [
        ("winner", "Knee" if record.front() else "Winner"),
        *([("front", "Front")] if record.front() else []),
        *([("progress", "Progress")] if progress_plots else []),
        *([("learning", "Learning")] if curves else []),
        *([("rungs", "Early stopping")] if early or control else []),
        ("hyperparameters", "Hyperparameters"),
        ("failures", "Failures"),
        *([("times", "Time")] if time else []),
        *([("forecast", "Forecast")] if comparisons else []),
        ("trials", "Trials"),
        ("again", "Run it again"),
    ]
    return render(
        "study.html",
        [*([front] if front else []), *progress_plots, *curves, *hyperparameter_plots, *([time] if time else [])],
        parts,
        title=f"{study.name}: report",
        study=study,
        metric=metric,
        lede=_lede(study),
        facts=_facts(record, study.loaded_at),
        front=front,
        front_table=_front_table(record),
        compared_trials=found,
        rows=rows(found, record.spec),
        frames=frames(found),
        progress=progress_plots,
        curves=curves,
        hyperparameters=hyperparameter_plots,
        least_trials=LEAST_TRIALS,
        causes=causes(record.trials[id] for id in sorted(record.trials)),
        time=time,
        comparisons=comparisons,
        rungs=early,
        control=control,
        control_warning=warning(record),
        stops_early=study.spec.scheduler.name != "none",
        forecast_notes=record.forecast.notes if record.forecast else (),
        table=trial_table(record),
        states=sorted({trial.state for trial in record.trials.values()}),
        command=command(record),
        study_file=study_file(study.spec),
        origin=origin(study),
        hidden=HIDDEN,
    )


def _rungs(record: StudyRecord) -> list[Rung]:
    """None of several objectives, by whose dominance trials are compared and not by a value."""
    return rungs(record) if len(record.spec.objectives) == 1 else []


def _of_view(figure: Figure, view: Study, views: list[Study]) -> Figure:
    """A figure with its objective in id and title, if there are several."""
    if len(views) == 1:
        return figure
    number = views.index(view) + 1
    return replace(figure, id=f"{figure.id}-{number}", title=f"{figure.title}: {view.spec.objective.metric}")


def _front_table(record: StudyRecord) -> list[list[str]]:
    """A row for each trial of the front: its number, values and hyperparameters."""
    marks = front_marks(record)
    return [
        [
            f"{trial.id}{' (knee)' if marks[trial.id] == 'knee' else ''}",
            *map(format_metric, trial.values),
            *(number(trial.params[name]) if name in trial.params else "–" for name in record.spec.space),
        ]
        for trial in record.front()
    ]


def _lede(study: Study) -> str:
    spec, scheduler = study.spec, study.spec.scheduler.name
    began = datetime.fromtimestamp(study.record.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
    reason = f" ({study.reason})" if study.reason else ""
    search = f"{spec.search.sampler}{'' if scheduler == 'none' else f' and {scheduler}'}"
    return (
        f"{study.state}{reason}; begun {began}; {spec.workload}, to {spec.goal}{_constraints(spec)}, with "
        f"{search}{_earlier(spec)}"
    )


def _earlier(spec: StudySpec) -> str:
    return "".join(f"; first trials from {name}: {taken}" for name, taken in spec.taken_from().items())


def _constraints(spec: StudySpec) -> str:
    limits = " and ".join(f"{each.metric} {each}" for each in spec.constraints)
    return f" where {limits}" if limits else ""


def _facts(record: StudyRecord, now: float) -> list[tuple[str, str, str]]:
    """The key numbers at the top of the page: name, text, detail."""
    trials, ranking = list(record.trials.values()), record.ranking()
    counts = Counter(trial.state for trial in trials)
    states = ", ".join(f"{counts[state]} {name}" for state, name in _STATES.items() if counts[state])
    facts = [("trials", f"{len(record.ended):,} of {record.spec.budget.trials:,}", states)]
    if ranking:
        best = ranking[0]
        where = f"trial {best.id}, epoch {best.best_epoch}{', the knee of the front' if record.front() else ''}"
        name = "" if record.front() else "best "
        facts[:0] = [
            (f"{name}{objective.metric}", format_metric(value), where)
            for objective, value in zip(record.spec.objectives, best.values, strict=True)
        ]
    facts.append(("epochs", f"{sum(trial.epoch for trial in trials):,}", "spent by all trials"))
    facts.append(
        ("duration", duration(study_seconds(record, now)), f"{duration(trial_seconds(record, now))} summed over trials")
    )
    return facts


def study_seconds(record: StudyRecord, now: float) -> float:
    """Seconds from the study's start to its last report or trial's end, breaks included; to `now` if it is running."""
    if record.state == "running":
        return max(0.0, now - record.created)
    seen = [time for trial in record.trials.values() for time in (trial.last_seen, trial.ended or 0.0)]
    return max(0.0, max(seen, default=record.created) - record.created)


def trial_seconds(record: StudyRecord, now: float) -> float:
    """Seconds of all trials, summed."""
    return sum(trial.seconds(now) for trial in record.trials.values())
