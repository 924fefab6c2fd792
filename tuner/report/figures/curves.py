"""Learning curves: the objective of each trial by epoch, with early stopping's rungs and the end of each trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count, takewhile
from typing import Any

import plotly.graph_objects as go

from tuner.events.trial import TrialRecord
from tuner.report.figures.figure import COLORS, GREY, LEGEND_BELOW, Figure
from tuner.results.study import Study
from tuner.spec.study import StudySpec

_FAINT = "rgba(128,138,150,0.35)"
_COLORED = 5
_MAX_POINTS = 20_000  # a browser is slow with more


def learning_curves(study: Study) -> Figure | None:
    """The figure; None if no trial has reported yet."""
    record, metric = study.record, study.spec.objective.metric
    trials = [trial for trial in record.trials.values() if trial.curve]
    if not trials:
        return None
    top = record.ranking()[:_COLORED]
    best = {trial.id for trial in top}
    others = _thinned([trial for trial in trials if trial.id not in best])
    longest = max(trial.curve[-1][0] for trial in trials)
    figure = go.Figure([*_faint(others), *_colored(top)])
    figure.update_layout(xaxis_title="epoch", yaxis_title=metric, legend=LEGEND_BELOW)
    # Half an epoch more on both sides: with one epoch the axis would have no width.
    figure.update_xaxes(range=[0.5, longest + 0.5], dtick=1 if longest <= 12 else None)
    reached = rungs(study.spec, longest)
    for rung in reached:
        figure.add_vline(x=rung, line={"dash": "dot", "width": 1, "color": GREY}, annotation_text="rung")
    return Figure("curves", "Learning curves", _caption(study, trials, others, top, reached), figure)


def _faint(others: list[TrialRecord]) -> list[Any]:
    x: list[float | None] = []
    y: list[float | None] = []
    for trial in others:
        x += [*(epoch for epoch, _ in trial.curve), None]
        y += [*(value for _, value in trial.curve), None]
    lines = {"color": _FAINT, "width": 1}
    curves = go.Scatter(x=x, y=y, mode="lines", name="other trials", line=lines, hoverinfo="skip")
    found = [curves] if others else []
    for state, name, symbol, color in (
        ("stopped", "stopped early", "line-ns-open", GREY),
        ("failed", "failed", "x-thin-open", "#d62839"),
        ("running", "running", "circle-open", COLORS[2]),
    ):
        ended = [trial for trial in others if trial.state == state]
        if ended:
            found.append(
                go.Scatter(
                    x=[trial.curve[-1][0] for trial in ended], y=[trial.curve[-1][1] for trial in ended],
                    text=[f"trial {trial.id}" for trial in ended], mode="markers", name=name,
                    marker={"symbol": symbol, "size": 7, "color": color, "line": {"width": 1.5, "color": color}},
                    hovertemplate="%{text}: %{y:.5g}",
                )
            )  # fmt: skip
    return found


def _colored(top: list[TrialRecord]) -> list[Any]:
    return [
        go.Scatter(
            x=[epoch for epoch, _ in trial.curve], y=[value for _, value in trial.curve],
            name=f"trial {trial.id}{' (winner)' if rank == 0 else ''}",
            mode="lines+markers", line={"color": color, "width": 3 if rank == 0 else 2}, marker={"size": 5},
            hovertemplate="epoch %{x}: %{y:.5g}",
        )
        for rank, (color, trial) in enumerate(zip(COLORS, top, strict=False))
    ]  # fmt: skip


def _thinned(trials: list[TrialRecord]) -> list[TrialRecord]:
    """Every n-th trial by value, so that the curves have about _MAX_POINTS points together."""
    ordered = sorted(trials, key=lambda trial: (trial.value or 0.0, trial.id))
    points = sum(len(trial.curve) for trial in ordered)
    return ordered[:: max(1, math.ceil(points / _MAX_POINTS))]


def rungs(spec: StudySpec, longest: float) -> list[float]:
    """The epochs at which early stopping compares trials, up to `longest`; none without it, or if it is every epoch."""
    if spec.scheduler.name in ("none", "median"):
        return []
    grace, factor = spec.scheduler.grace_epochs, spec.scheduler.reduction_factor
    return list(takewhile(lambda rung: rung <= longest, (grace * factor**number for number in count())))


def _caption(
    study: Study, trials: list[TrialRecord], others: list[TrialRecord], top: list[TrialRecord], reached: Sequence[float]
) -> str:
    metric, scheduler = study.spec.objective.metric, study.spec.scheduler.name
    by = "" if scheduler == "none" else f" by {scheduler} or the time budget"
    stopped = sum(trial.state == "stopped" for trial in trials)
    sentences = [f"Trials that reported {metric}: {len(trials):,}; stopped{by}: {stopped:,}."]
    if reached:
        sentences.append(f"Trials were compared at epochs {', '.join(f'{rung:g}' for rung in reached)}.")
    elif scheduler == "median":
        sentences.append(f"Trials were compared at each epoch from {study.spec.scheduler.grace_epochs} on.")
    if control := [f"trial {trial.id}" for trial in trials if trial.control]:
        sentences.append(f"Early stopping left the control trials alone: {_listed(control)}.")
    if top:
        sentences.append(f"In colour: {_listed([f'trial {trial.id}' for trial in top])}, best first.")
    if len(others) + len(top) < len(trials):
        sentences.append(f"Of the others {len(others):,} are drawn, spread over their values.")
    return " ".join(sentences)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
