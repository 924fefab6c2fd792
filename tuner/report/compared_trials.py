"""Compares the winner with the runner-up and the worst trial: values, hyperparameters, masks."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tuner.display.live import format_metric, number
from tuner.errors import StudyError
from tuner.events.trial import TrialRecord
from tuner.report.figures.figure import duration
from tuner.results.study import Study
from tuner.spec.study import StudySpec

_MAX_FRAMES = 4
_MAX_WIDTH = 960  # pixels; a page of three columns shows images smaller, and enlarges them on a click


@dataclass(frozen=True)
class Mask:
    """A stored image of a trial's best epoch."""

    trial: int
    epoch: int
    frame: str
    source: str
    """The image as a data: URL."""


@dataclass(frozen=True)
class ComparedTrial:
    """A trial in a comparison: one column of the table."""

    title: str
    trial: TrialRecord
    masks: dict[str, Mask]
    """By frame."""


@dataclass(frozen=True)
class Row:
    """A row of the comparison: a text for each trial, and whether it differs from the first trial's."""

    name: str
    texts: list[str]
    differs: list[bool]


def compared_trials(study: Study) -> list[ComparedTrial]:
    """Winner, runner-up and worst; fewer if fewer trials have ended, none if no trial can win. Of several objectives
    the knee of the front, and the best trial by each objective.
    """
    ranking, front = study.record.ranking(), study.record.front()
    if front:
        best = {
            f"best {each.metric}": max(front, key=lambda trial: each.signed(trial.values[place]))
            for place, each in enumerate(study.spec.objectives)
        }
        return [ComparedTrial(title, of, masks_of(study, of)) for title, of in {"knee": ranking[0], **best}.items()]
    ranks = [("winner", 0), ("runner-up", 1), ("worst", len(ranking) - 1)]
    chosen = [(title, ranking[rank]) for least, (title, rank) in enumerate(ranks) if least <= rank < len(ranking)]
    return [ComparedTrial(title, trial, masks_of(study, trial)) for title, trial in chosen]


def rows(found: list[ComparedTrial], spec: StudySpec) -> list[Row]:
    """Rows of the objectives, epochs and time, then of every hyperparameter."""
    trials = [compared.trial for compared in found]
    plain = {
        **{
            objective.metric: [format_metric(trial.values[place]) for trial in trials]
            for place, objective in enumerate(spec.objectives)
        },
        "best epoch": [f"{trial.best_epoch} of {trial.epoch}" for trial in trials],
        "ended": ["stopped early" if trial.state == "stopped" else trial.state for trial in trials],
        "duration": [duration(trial.seconds(trial.last_seen)) for trial in trials],
    }
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [
        *(Row(name, texts, [False] * len(texts)) for name, texts in plain.items()),
        *(
            Row(
                name,
                [_shown(trial.params, name) for trial in trials],
                [_differs(trials, trial, name) for trial in trials],
            )
            for name in names
        ),
    ]


def _shown(params: dict[str, Any], name: str) -> str:
    return number(params[name]) if name in params else "–"


def _differs(trials: list[TrialRecord], trial: TrialRecord, name: str) -> bool:
    return trial.params.get(name) != trials[0].params.get(name)


def frames(found: list[ComparedTrial]) -> list[str]:
    """The names of the frames of which a trial has a mask, at most _MAX_FRAMES."""
    return list(dict.fromkeys(frame for compared in found for frame in compared.masks))[:_MAX_FRAMES]


def masks_of(study: Study, trial: TrialRecord) -> dict[str, Mask]:
    """The masks of a trial's best epoch by frame, without files that can't be read as an image."""
    if trial.best_epoch is None:
        return {}
    try:
        paths = study.masks(trial.id)
    except (StudyError, OSError):
        return {}
    found = {}
    for path in paths[:_MAX_FRAMES]:
        # A file's name may hold bytes that aren't UTF-8.
        frame = path.stem.encode("utf-8", "replace").decode()
        if source := _data_address(path):
            found[frame] = Mask(trial.id, trial.best_epoch, frame, source)
    return found


def _data_address(path: Path) -> str | None:
    webp = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.load()
            thumbnail = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        thumbnail.thumbnail((_MAX_WIDTH, 4 * _MAX_WIDTH))
        thumbnail.save(webp, "WEBP", quality=85)
    except Exception:  # Pillow raises many kinds for a file that is damaged or no image
        return None
    return f"data:image/webp;base64,{base64.b64encode(webp.getvalue()).decode()}"
