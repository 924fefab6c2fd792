"""The winner beside the runner-up and the worst: values, hyperparameters, masks."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tuner.display.live import format_metric, number
from tuner.errors import StudyError
from tuner.events.state import TrialRecord
from tuner.report.figures.figure import duration
from tuner.results.study import Study

_FRAMES = 4
_WIDEST = 960  # pixels; three images of three frames in a row are shown at a third of that, and can be enlarged


@dataclass(frozen=True)
class Mask:
    """An image of a trial's best epoch."""

    trial: int
    epoch: int
    frame: str
    source: str
    """A data: address."""


@dataclass(frozen=True)
class Standing:
    """One of those that are compared."""

    title: str
    trial: TrialRecord
    masks: dict[str, Mask]
    """By frame."""


@dataclass(frozen=True)
class Row:
    """What is compared: a text for each standing, and which of them differ from the winner's."""

    name: str
    texts: list[str]
    differs: list[bool]


def standings(study: Study) -> list[Standing]:
    """Winner, runner-up and worst, as far as there are so many; none as long as no trial can win."""
    ranking = study.record.ranking()
    places = [("winner", 0), ("runner-up", 1), ("worst", len(ranking) - 1)]
    chosen = [(title, ranking[place]) for number, (title, place) in enumerate(places) if number <= place < len(ranking)]
    return [Standing(title, trial, masks_of(study, trial)) for title, trial in chosen]


def rows(found: list[Standing], metric: str) -> list[Row]:
    """Objective, epochs and time, then every hyperparameter."""
    trials = [standing.trial for standing in found]
    plain = {
        metric: [format_metric(trial.value or 0.0) for trial in trials],
        "best epoch": [f"{trial.best_epoch} of {trial.epoch}" for trial in trials],
        "ended": ["stopped early" if trial.state == "stopped" else trial.state for trial in trials],
        "took": [duration(trial.seconds(trial.last_seen)) for trial in trials],
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


def frames(found: list[Standing]) -> list[str]:
    """Those that the masks show, each once."""
    return list(dict.fromkeys(frame for standing in found for frame in standing.masks))[:_FRAMES]


def masks_of(study: Study, trial: TrialRecord) -> dict[str, Mask]:
    """By frame, of its best epoch; what can't be read as an image isn't there."""
    if trial.best_epoch is None:
        return {}
    try:
        paths = study.masks(trial.id)
    except (StudyError, OSError):
        return {}
    found = {}
    for path in paths[:_FRAMES]:
        # A file's name need not be text that can be written.
        frame = path.stem.encode("utf-8", "replace").decode()
        if source := _data_address(path):
            found[frame] = Mask(trial.id, trial.best_epoch, frame, source)
    return found


def _data_address(path: Path) -> str | None:
    small = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.load()
            picture = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        picture.thumbnail((_WIDEST, 4 * _WIDEST))
        picture.save(small, "WEBP", quality=85)
    except Exception:  # whatever Pillow raises for a file that is damaged or none of an image's
        return None
    return f"data:image/webp;base64,{base64.b64encode(small.getvalue()).decode()}"
