"""Saved views of MLflow's runs page: a ranking of the trials, and charts.

A view is a tag of the experiment. MLflow's Views menu lists it by its name, and a link opens it. The format is that of
MLflow 3.17's own menu (Views, 'Save as new view').
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.spec.space import Choice
from tuner.spec.study import StudySpec
from tuner.spec.study_tables import Objective
from tuner.tracking.names import BEST_IMAGE, best_metric, fit_name, logarithm_of

PREFIX = "mlflow.sharedViewState."
_HASH = "tuner"  # a key that MLflow's own menu drops when a user overwrites the view
_MOST_IMAGES, _MOST_SCATTERS = 12, 24
# MLflow loads a hundred runs. Drawing all of them in each chart takes a browser as long as the rest of the page, so a
# larger study's charts begin with the best trials; parallel coordinates always have all that are loaded.
_MOST_DRAWN_TRIALS = 50
_SECTION = "study"


@dataclass(frozen=True)
class View:
    key: str
    """Of the tag, and in the link."""
    name: str
    state: Mapping[str, Any]

    @property
    def tag(self) -> str:
        return PREFIX + self.key


def study_views(spec: StudySpec, groups: Iterable[str], images: Iterable[str]) -> tuple[View, ...]:
    """The study's views. groups: of metrics that MLflow has. images: the keys of those that MLflow has."""
    first, *others = spec.objectives
    return (
        View(view_key(spec, "ranking"), "Ranking", _ranking(spec)),
        View(view_key(spec, "charts"), "Charts", _charts(spec, first, groups, images)),
        *(
            View(view_key(spec, f"charts-{number}"), f"Charts of {other.metric}", _charts(spec, other, groups, images))
            for number, other in enumerate(others, start=2)
        ),
    )


def view_link(spec: StudySpec, server: str, experiment: str) -> str:
    """The link to the study's ranking. server: http://host:port."""
    address = f"{server.rstrip('/')}/#/experiments/{experiment}/runs"
    return f"{address}?viewStateShareKey={view_key(spec, 'ranking')}&compareRunsMode=TABLE"


def view_key(spec: StudySpec, kind: str) -> str:
    return f"{spec.id[:12] if spec.id else spec.name}-{kind}"


def view_value(view: View, tags: Mapping[str, str], now: float) -> str | None:
    """The new value of a view's tag; None if the tag must not be changed.

    tags: all tags of the experiment. now: seconds since 1970.
    """
    there = tags.get(view.tag)
    if there is not None and not _is_unchanged(there):
        return None
    names = {_name(value) for tag, value in tags.items() if tag.startswith(PREFIX) and tag != view.tag}
    name = view.name if view.name not in names else f"{view.name} of {view.key.rpartition('-')[0][:6]}"
    state = "deflate;" + base64.b64encode(zlib.compress(json.dumps(view.state).encode(), 9)).decode()
    at = int(now * 1000)
    envelope = {"name": name, "createdAt": at, "updatedAt": at, "state": state, _HASH: _digest(name, state)}
    if there is not None:
        before = json.loads(there)
        if (before["name"], before["state"]) == (name, state):
            return None
        envelope["createdAt"] = before["createdAt"]
    return json.dumps(envelope)


def _is_unchanged(value: str) -> bool:
    """Whether no user has changed the view."""
    try:
        envelope = json.loads(value)
        return bool(envelope[_HASH] == _digest(envelope["name"], envelope["state"]))
    except (ValueError, LookupError, TypeError):
        return False


def _name(value: str) -> str | None:
    try:
        return str(json.loads(value)["name"])
    except (ValueError, LookupError, TypeError):
        return None


def _digest(name: str, state: str) -> str:
    return hashlib.sha256(f"{name}\n{state}".encode()).hexdigest()[:16]


def _of_trials(spec: StudySpec, objective: Objective) -> dict[str, Any]:
    """The filter and order of runs: this study's trials, best first by this objective."""
    of_study = f"tags.`tuner.study_id` = '{spec.id}'" if spec.id else f"tags.`tuner.study` = '{spec.name}'"
    return {
        "searchFilter": f"{of_study} AND tags.`tuner.trial` != 'study'",
        "orderByKey": f"metrics.`{_best(objective)}`",
        "orderByAsc": objective.direction == "minimize",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }


def _ranking(spec: StudySpec) -> dict[str, Any]:
    columns = [f"metrics.`{_best(objective)}`" for objective in spec.objectives]
    columns += [f"metrics.`trial/{name}`" for name in ("epochs", "seconds")]
    columns += [f"params.`{fit_name(name)}`" for name in spec.space]
    columns += ["tags.`tuner.state`", "tags.`tuner.reason`"]
    columns += ["tags.`tuner.front`"] if len(spec.objectives) > 1 else []
    return {**_of_trials(spec, spec.objective), "selectedColumns": columns, "runsHiddenMode": "FIRST_20_RUNS"}


def _best(objective: Objective) -> str:
    return fit_name(best_metric(objective.metric))


def _charts(spec: StudySpec, objective: Objective, groups: Iterable[str], images: Iterable[str]) -> dict[str, Any]:
    """Charts of one objective; of several the others over it come first."""
    cards = [
        *_others(spec, objective),
        *_parallel(spec, objective),
        _curve(objective),
        *_scatters(spec, objective),
        *_masks(images),
    ]
    charts = [
        {
            "uuid": f"{_SECTION}-{number}",
            "metricSectionId": _SECTION,
            "runsCountToCompare": 100,
            "deleted": False,
            "isGenerated": False,
            **card,
        }
        for number, card in enumerate(cards)
    ]
    # MLflow adds a chart for every metric; these are in sections that start collapsed.
    names = sorted({group or "Model metrics" for group in groups} | {"Model metrics"})
    sections = [_section(_SECTION, f"Study {spec.name}", True)]
    sections += [_section(f"group-{group}", group, False) for group in names]
    return {
        **_of_trials(spec, objective),
        "runsHiddenMode": "SHOW_ALL" if spec.budget.trials <= _MOST_DRAWN_TRIALS else "FIRST_20_RUNS",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunSections": sections,
        "compareRunCharts": charts,
    }


def _section(uuid: str, name: str, shown: bool) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": shown, "isReordered": False, "deleted": False, "isGenerated": False}


def _others(spec: StudySpec, objective: Objective) -> Iterable[dict[str, Any]]:
    for other in spec.objectives:
        if other != objective:
            yield {
                "type": "SCATTER",
                "displayName": f"{objective.metric} and {other.metric}",
                "xaxis": {"key": _best(other), "type": "METRIC"},
                "yaxis": {"key": _best(objective), "type": "METRIC"},
            }


def _parallel(spec: StudySpec, objective: Objective) -> Iterable[dict[str, Any]]:
    """Parallel coordinates. MLflow leaves out runs that lack a hyperparameter, so each condition gets its own card."""
    always = [name for name, dimension in spec.space.items() if not dimension.when]
    conditions = {json.dumps(dimension.when, sort_keys=True): dimension.when for dimension in spec.space.values()}
    for when in conditions.values():
        names = [name for name, dimension in spec.space.items() if name in always or dimension.when == when]
        if len(conditions) > 1 and not when and len(always) < 2:
            continue
        several = len(spec.objectives) > 1
        title = "Hyperparameters and objectives" if several else "Hyperparameters and objective"
        if when:
            title += " where " + ", ".join(f"{name} is {' or '.join(map(str, of))}" for name, of in when.items())
        yield {
            "type": "PARALLEL",
            "displayName": title,
            "selectedParams": [_axis(spec, name) for name in names],
            # Lines are coloured by the last axis.
            "selectedMetrics": [*(_best(other) for other in spec.objectives if other != objective), _best(objective)],
            "showAllRuns": True,
        }


def _curve(objective: Objective) -> dict[str, Any]:
    metric = fit_name(objective.metric)
    return {
        "type": "LINE",
        "displayName": f"{objective.metric} by epoch",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "range": {},
    }


def _scatters(spec: StudySpec, objective: Objective) -> Iterable[dict[str, Any]]:
    for name in list(spec.space)[:_MOST_SCATTERS]:
        yield {
            "type": "SCATTER",
            "displayName": f"{name} and {objective.metric}",
            "xaxis": {"key": _axis(spec, name), "type": "PARAM"},
            "yaxis": {"key": _best(objective), "type": "METRIC"},
        }


def _masks(images: Iterable[str]) -> Iterable[dict[str, Any]]:
    """A card for each image, with the trials side by side and a slider over epochs; those of best epochs come first.

    MLflow shows the first ten runs. A card with several images would be too wide.
    """
    keys = sorted(images, key=lambda key: (not key.startswith(BEST_IMAGE), key))
    for key in keys[:_MOST_IMAGES]:
        yield {
            "type": "IMAGE",
            "imageKeys": [key],
            "showRunParams": False,
            "step": 0 if key.startswith(BEST_IMAGE) else 1,
        }


def _axis(spec: StudySpec, name: str) -> str:
    """The parameter for an axis; for a log range the parameter with its logarithm, since these axes are linear."""
    dimension = spec.space[name]
    return fit_name(logarithm_of(name) if not isinstance(dimension, Choice) and dimension.log else name)
