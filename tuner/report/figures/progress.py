"""The best value so far, of one study or of several: over time, and over the epochs that all trials spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tuner.display.live import format_metric
from tuner.report.figures.figure import COLORS, LEGEND_BELOW, Figure, duration, time_unit
from tuner.results.study import Study
from tuner.results.tables import metric_column


@dataclass(frozen=True)
class Progress:
    """When a study's best value improved. Reports of failed trials don't count, since a failed trial can't win."""

    study: Study
    steps: pd.DataFrame
    """A row for each time that the best value improved: trial, epoch, seconds since the study began, epochs spent by
    all trials until then, value."""
    seconds: float
    """From the study's start to its last report."""
    epochs: int
    """Of all trials, summed."""

    def first_reached(self, value: float) -> tuple[float, int] | None:
        """Seconds and epochs until the study was at least as good as this value; None if it never was."""
        objective = self.study.spec.objective
        there = self.steps[[not objective.better(value, found) for found in self.steps["value"]]]
        return None if there.empty else (float(there["seconds"].iloc[0]), int(there["spent"].iloc[0]))


def progress(study: Study) -> Progress:
    """A study's progress so far; empty if no trial has reported."""
    objective = study.spec.objective
    reports = study.metrics.sort_values("seconds", kind="stable").reset_index(drop=True)
    column = metric_column(objective.metric)
    if column not in reports:
        empty = pd.DataFrame(columns=["trial", "epoch", "seconds", "spent", "value"])
        return Progress(study, empty, 0.0, 0)
    spent, seconds = len(reports), float(reports["seconds"].max())
    failed = [id for id, trial in study.record.trials.items() if trial.state == "failed"]
    counted = reports.assign(spent=range(1, spent + 1), value=reports[column])
    counted = counted[~counted["trial"].isin(failed) & counted["epoch"].map(study.record.at_full_fidelity)]
    best = counted["value"].cummax() if objective.direction == "maximize" else counted["value"].cummin()
    improved = best.ne(best.shift()) & best.notna()
    return Progress(study, counted.loc[improved, ["trial", "epoch", "seconds", "spent", "value"]], seconds, spent)


def progress_figures(found: Sequence[Progress]) -> Iterator[Figure]:
    """The best value over time and over epochs. Studies without a report are left out."""
    found = [one for one in found if not one.steps.empty]
    if not found:
        return
    metric = found[0].study.spec.objective.metric
    unit, name = time_unit(max(one.seconds for one in found))
    yield Figure(
        "progress-time",
        "Best value over time",
        " ".join(_caption(one, f"{duration(one.steps['seconds'].iloc[-1])} after the start") for one in found),
        _plot(found, "seconds", unit, f"{name} since the start", metric),
        half=True,
    )
    yield Figure(
        "progress-epochs",
        "Best value over epochs spent",
        " ".join(
            _caption(one, f"when {one.steps['spent'].iloc[-1]:,} of {one.epochs:,} epochs were spent") for one in found
        ),
        _plot(found, "spent", 1, "epochs spent by all trials", metric),
        half=True,
    )


def _caption(one: Progress, when: str) -> str:
    first, last = one.steps.iloc[0], one.steps.iloc[-1]
    metric = one.study.spec.objective.metric
    if len(one.steps) == 1:
        return f"{one.study.name}: {metric} {format_metric(first['value'])} from its first report on."
    return (
        f"{one.study.name}: {metric} went from {format_metric(first['value'])} to {format_metric(last['value'])} in "
        f"{len(one.steps) - 1} steps, the last of them {when}, by trial {int(last['trial'])}."
    )


def _plot(found: Sequence[Progress], column: str, unit: float, x_title: str, y_title: str) -> Any:
    figure = go.Figure()
    for one, color in zip(found, _cycle(len(found)), strict=True):
        steps, end = one.steps, (one.seconds if column == "seconds" else one.epochs) / unit
        x, y = [value / unit for value in steps[column]], list(steps["value"])
        who = [f"trial {trial}, epoch {epoch}" for trial, epoch in zip(steps["trial"], steps["epoch"], strict=True)]
        group = {"legendgroup": one.study.name, "name": one.study.name}
        line = {"shape": "hv", "color": color, "width": 2}
        figure.add_scatter(x=[*x, end], y=[*y, y[-1]], mode="lines", line=line, hoverinfo="skip", showlegend=False)
        figure.add_scatter(
            x=x, y=y, text=who, mode="markers", marker={"color": color, "size": 7},
            hovertemplate="%{y:.5g}<br>%{text}<extra></extra>", **group,
        )  # fmt: skip
    figure.update_layout(xaxis_title=x_title, yaxis_title=y_title, showlegend=len(found) > 1, legend=LEGEND_BELOW)
    figure.update_xaxes(rangemode="tozero")
    return figure


def _cycle(count: int) -> list[str]:
    # Blue first: orange is the winner's elsewhere.
    colors = (COLORS[1], COLORS[0], *COLORS[2:])
    return [colors[number % len(colors)] for number in range(count)]
