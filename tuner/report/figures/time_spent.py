"""Each trial's time by part: start-up, data, compute, evaluation, checkpoints, as far as the trainer reports them."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from tuner.report.figures.figure import COLORS, GREY, LEGEND_BELOW, Figure, duration, time_unit
from tuner.results.study import Study

_MAX_BARS = 300
_ORDER = ("start-up", "data", "compute", "evaluation", "checkpoint")


def time_figure(study: Study) -> Figure | None:
    """A figure with one bar for each trial; None if no trial has used any time yet."""
    parts = time_parts(study)
    total = float(parts.to_numpy().sum())
    if not total:
        return None
    shown = parts
    if len(parts) > _MAX_BARS:
        shown = parts.iloc[[round(bar * (len(parts) - 1) / (_MAX_BARS - 1)) for bar in range(_MAX_BARS)]]
    unit, name = time_unit(float(shown.sum(axis=1).max()))
    figure = go.Figure()
    for part, color in zip(shown.columns, (*COLORS, *COLORS), strict=False):
        figure.add_bar(
            x=[f"{trial}" for trial in shown.index], y=list(shown[part] / unit), name=part, marker_line_width=0,
            marker_color=GREY if part in ("other", "training") else color, hovertemplate="trial %{x}: %{y:.3g} " + name,
        )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.15 if len(shown) < 100 else 0, xaxis_title="trial", yaxis_title=name)
    figure.update_layout(legend=LEGEND_BELOW)
    figure.update_xaxes(type="category", nticks=20)
    shares = ", ".join(f"{part} {parts[part].sum() / total:.1%}" for part in parts.columns)
    some = f" Bars are drawn of {_MAX_BARS} trials, evenly spread." if len(shown) < len(parts) else ""
    return Figure(
        "time",
        "Where the time went",
        f"{len(parts):,} trials used {duration(total)} in total: {shares}.{some}",
        figure,
    )


def time_parts(study: Study) -> pd.DataFrame:
    """Seconds by trial (rows) and part (columns).

    `other` is the rest: reports, and epochs that were lost when an attempt ended. If the trainer reports no
    `time/PART_seconds`, the rest is called `training`.
    """
    trials, metrics = study.trials, study.metrics
    reported = {name.removeprefix("time/").removesuffix("_seconds"): name for name in metrics.columns if _is_part(name)}
    sums = metrics.groupby("trial")[list(reported.values())].sum() if reported else pd.DataFrame(index=trials.index)
    parts = {"start-up": trials["startup_seconds"].fillna(0.0)}
    for part in sorted(reported, key=lambda part: (_ORDER.index(part) if part in _ORDER else len(_ORDER), part)):
        parts[part] = sums[reported[part]].reindex(trials.index).fillna(0.0)
    known = pd.DataFrame(parts)
    rest = (trials["seconds"] - known.sum(axis=1)).clip(lower=0.0)
    return known.assign(**{"other" if reported else "training": rest})


def _is_part(metric: str) -> bool:
    # time/epoch_seconds is the sum of the parts.
    return metric.startswith("time/") and metric.endswith("_seconds") and metric != "time/epoch_seconds"
