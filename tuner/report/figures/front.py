"""The Pareto front of a study with several objectives, by Optuna."""

from __future__ import annotations

from typing import Any

from tuner.display.live import format_values
from tuner.events.state import StudyRecord
from tuner.report.figures.figure import COLORS, GREY, LEGEND_BELOW, Figure
from tuner.search.optuna_figures import pareto_front


def front_figure(record: StudyRecord) -> Figure | None:
    """None if there are not two objectives, or no trial can win yet."""
    front, objectives = record.front(), record.spec.objectives
    if not front or len(objectives) > 2:  # what is drawn in space needs WebGL
        return None
    listed = "; ".join(f"trial {trial.id}: {format_values(record.spec, trial.values)}" for trial in front[:10])
    more = f"; and {len(front) - 10} more" if len(front) > 10 else ""
    return Figure(
        "pareto-front",
        "Objectives",
        f"A point for each trial that can win, at the values of its best epoch. In the front: {listed}{more}.",
        _themed(pareto_front(record), record),
    )


def _themed(plot: Any, record: StudyRecord) -> Any:
    """Blue points for the front, grey ones for the others, and an orange ring for the knee."""
    knee = record.ranking()[0]
    for place, trace in enumerate(plot.data):
        best = place == len(plot.data) - 1
        trace.update(name="in the front" if best else "other trials", showlegend=True)
        trace.marker = {"color": COLORS[1] if best else GREY, "size": 10 if best else 6}
    x, y = knee.values
    ring = {"color": "rgba(0,0,0,0)", "size": 16, "line": {"color": COLORS[0], "width": 3}}
    plot.add_scatter(x=[x], y=[y], mode="markers", name=f"knee: trial {knee.id}", marker=ring, hoverinfo="skip")
    plot.update_layout(plot_bgcolor=None, showlegend=True, legend=LEGEND_BELOW)
    return plot
