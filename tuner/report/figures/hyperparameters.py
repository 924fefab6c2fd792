"""How the hyperparameters relate to the objective: Optuna's figures, in the report's colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plotly.colors import find_intermediate_color, label_rgb, unlabel_rgb

from tuner.display.live import number
from tuner.events.state import StudyRecord
from tuner.report.figures.figure import COLORS, GREY, Figure
from tuner.search import optuna_figures
from tuner.search.importance import RESAMPLES, Importance, importances

LEAST_TRIALS = 6
"""The figures need this many trials that ended with a value; fewer say nothing about a hyperparameter."""
_SLICES = 8
_WORST, _BEST = "rgb(141,162,189)", "rgb(213,94,0)"
_SCALE = ((0.0, _WORST), (1.0, _BEST))


def hyperparameter_figures(record: StudyRecord) -> Iterator[Figure]:
    """Parallel coordinates, importance, contour of the two most important, slices. None below LEAST_TRIALS trials."""
    ranking = record.ranking()
    if len(ranking) < LEAST_TRIALS:
        return
    yield _parallel(record)
    found = importances(record)
    if found:
        yield _importance(record, found)
    names = [one.name for one in found] or list(record.spec.space)
    pair = _pair(record, names)
    if pair:
        yield _contour(record, *pair)
    yield _slices(record, [name for name in names if any(name in trial.params for trial in ranking)][:_SLICES])


def _parallel(record: StudyRecord) -> Figure:
    ranking = record.ranking()
    tenth = ranking[: max(1, len(ranking) // 10)]
    ranges = "; ".join(f"{name} {_range(tenth, name)}" for name in record.spec.space if _range(tenth, name))
    few = f" {optuna_figures.MAX_TRIALS} of {len(ranking):,} trials are drawn, spread over the ranking."
    return Figure(
        "parallel",
        "Parallel coordinates",
        f"Each line is a trial. The best {'trial has' if len(tenth) == 1 else f'{len(tenth)} trials have'} {ranges}."
        f"{few if len(ranking) > optuna_figures.MAX_TRIALS else ''}",
        _themed(optuna_figures.parallel_coordinates(record), record),
        least_width=140 * (1 + len(record.spec.space)),
    )


def _range(trials: list[Any], name: str) -> str:
    """The values of one hyperparameter in words; empty if none of the trials has it."""
    values = [trial.params[name] for trial in trials if name in trial.params]
    if not values:
        return ""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = number(min(values)), number(max(values))
        return low if low == high else f"{low} to {high}"
    return " or ".join(dict.fromkeys(str(value) for value in values))


def _importance(record: StudyRecord, found: list[Importance]) -> Figure:
    shares = "; ".join(f"{one.name} {one.share:.0%} ({one.low:.0%} to {one.high:.0%})" for one in found[:_SLICES])
    figure = _themed(optuna_figures.importance_bars(record, found), record)
    figure.update_layout(xaxis_title="importance", yaxis_title=None)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    return Figure(
        "importance",
        "Importance",
        f"{shares}. PED-ANOVA: how far the values of the best tenth of the trials differ from those of all. In "
        f"brackets and as whiskers: the lowest and the highest of {RESAMPLES} resamples; if they are far apart, the "
        "importance is uncertain.",
        figure,
        half=True,
    )


def _pair(record: StudyRecord, names: list[str]) -> tuple[str, str] | None:
    """The two most important hyperparameters for which a contour can be drawn."""
    pairs = ((first, second) for rank, first in enumerate(names) for second in names[rank + 1 :])
    return next((pair for pair in pairs if optuna_figures.has_values_of_both(record, *pair)), None)


def _contour(record: StudyRecord, first: str, second: str) -> Figure:
    best = next(trial for trial in record.ranking() if first in trial.params and second in trial.params)
    return Figure(
        "contour",
        f"{first} and {second}",
        f"{record.spec.objective.metric} over the two most important hyperparameters, interpolated between trials "
        f"(points). Best at {first} {number(best.params[first])}, {second} {number(best.params[second])}.",
        _themed(optuna_figures.contour(record, first, second), record),
        half=True,
    )


def _slices(record: StudyRecord, names: list[str]) -> Figure:
    left_out = len(record.spec.space) - len(names)
    more = f" The {left_out} least important hyperparameters are left out." if left_out > 0 else ""
    best = record.ranking()[0]
    at = ", ".join(f"{name} {number(best.params[name])}" for name in names if name in best.params)
    return Figure(
        "slices",
        "Slices",
        f"{record.spec.objective.metric} of every trial over each hyperparameter; the more orange, the later. "
        f"The winner has {at}.{more}",
        _themed(optuna_figures.slices(record, names), record),
        least_width=220 * len(names),
    )


def _themed(figure: Any, record: StudyRecord) -> Any:
    """Set colours that fit a light and a dark page. Lines of better trials are stronger."""
    minimize = record.spec.objective.direction == "minimize"
    for trace in figure.data:
        if trace.type == "contour":
            trace.update(colorscale="Viridis", reversescale=minimize)
        elif trace.type == "bar":
            # The numbers would overlap the whiskers; they are in the caption.
            trace.update(marker_color=COLORS[1], textposition="none")
            trace.error_x.update(color=GREY, thickness=2)
        elif trace.type == "parcoords":
            trace.line.update(colorscale=_SCALE)
        elif trace.mode == "lines" and trace.showlegend is False:
            # A line starts on the objective's axis, scaled to 0..1.
            share = min(1.0, max(0.0, 1.0 - trace.y[0] if minimize else trace.y[0]))
            trace.update(line_color=_between(share), opacity=0.3 + 0.6 * share)
        elif trace.marker.colorscale:
            trace.marker.update(colorscale=_SCALE)
    figure.update_layout(plot_bgcolor=None)
    figure.update_annotations(font_color=None)
    # On a narrow axis the labels between powers of ten overlap.
    figure.update_xaxes(dtick=1, exponentformat="power", selector={"type": "log"})
    figure.update_yaxes(exponentformat="power", selector={"type": "log"})
    return figure


def _between(share: float) -> str:
    """A colour between the worst trial's, share 0, and the best's, share 1."""
    mixed = find_intermediate_color(unlabel_rgb(_WORST), unlabel_rgb(_BEST), share)
    # Whole numbers: of the best but one trial a part may be 1.8e-05, a notation in which Plotly knows no colour.
    return str(label_rgb(tuple(round(part) for part in mixed)))
