"""A study's folder as a study leaves it, written line by line, so that a test knows every number in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.studies import study_spec
from tuner.spec.study import to_json
from tuner.storage.storage import Storage

BEGAN = 1_790_000_000.0
SPACE: dict[str, Any] = {
    "x": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "batch_size": {"type": "int", "low": 1, "high": 64},
    "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd"]}},
}
Line = dict[str, Any]


def run(number: int = 1) -> Line:
    run = {"number": number, "host": "h", "pid": 1, "versions": {"tuner": "0"}, "overrides": [], "tracking_uri": ""}
    return {"event": "run", **run}


def start(trial: int, **params: Any) -> Line:
    return {"event": "start", "trial": trial, "params": params}


def report(trial: int, epoch: int, score: float, **metrics: float) -> Line:
    found = {"epoch": float(epoch), "score": score, **metrics}
    return {"event": "report", "trial": trial, "epoch": epoch, "metrics": found, "startup_seconds": 0.5}


def back(trial: int, epoch: int) -> Line:
    return {"event": "back", "trial": trial, "epoch": epoch}


def end(trial: int, state: str = "finished", reason: str | None = None, value: float | None = None) -> Line:
    return {"event": "end", "trial": trial, "state": state, "reason": reason, "value": value, "best_epoch": 1}


def stop(state: str = "finished", reason: str | None = None) -> Line:
    return {"event": "stop", "state": state, "reason": reason}


def write_study(storage: Path, name: str, *lines: Line, **changes: Any) -> Storage:
    """Write a study of these events, a second apart. changes: to the study of tests/studies.py."""
    folder = Storage(str(storage)) / name
    folder.write_text("study.json", to_json(study_spec(**{"name": name, "space": SPACE, **changes})))
    text = "".join(json.dumps({"time": BEGAN + at, **line}) + "\n" for at, line in enumerate(lines))
    (storage / name / "events.jsonl").write_text(text)
    return folder


def write_mask(storage: Path, name: str, trial: int, epoch: int, frame: str = "frame_a.png") -> Path:
    path = storage / name / "trials" / str(trial) / "images" / f"epoch-{epoch:06d}" / frame
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 32), (40 * trial, 8 * epoch, 90)).save(path)
    return path


ROADS: tuple[Line, ...] = (
    run(),
    start(1, x=0.25, batch_size=4, optimizer="adam"),
    start(2, x=0.5, batch_size=8, optimizer="sgd", momentum=0.5),
    report(1, 1, 0.1, loss=0.9),
    report(2, 1, 0.3),
    report(1, 2, 0.2, loss=0.8),
    back(1, 1),
    report(1, 2, 0.25, loss=0.75),
    end(1, value=0.25),
    report(2, 2, 0.4),
    end(2, "stopped", "asha stopped it at epoch 2", 0.4),
    start(3, x=0.75, batch_size=16, optimizer="adam"),
    end(3, "failed", "ValueError: loss is nan"),
    start(4, x=0.125, batch_size=32, optimizer="adam"),
    report(4, 1, 0.05),
)
"""Trial 1 rewound once and finished, 2 stopped with the best value, 3 failed before any report, 4 under way."""
