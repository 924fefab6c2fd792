"""A study's folder as a study of many trials leaves it, made without training: curves, masks, early stops, failures.

python -m tests.generated_study FOLDER [--trials N] makes one to look at.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tuner.events.forecast import Forecast, Range
from tuner.spec.study import StudySpec, to_json
from tuner.storage.storage import Storage

EPOCHS = 9
FRAMES = ("night_0001", "noon_0002")
_BEGAN = 1_790_000_000.0
_SECONDS = {
    "time/data_seconds": 0.04,
    "time/compute_seconds": 0.3,
    "time/evaluation_seconds": 0.08,
    "time/checkpoint_seconds": 0.02,
    "time/epoch_seconds": 0.5,
}
_SYSTEM = {"process_cpu_cores": 0.9, "process_memory_megabytes": 640.0}


def spec(name: str, trials: int, objectives: Sequence[dict[str, str]] = ({"metric": "val/iou_road"},)) -> StudySpec:
    return StudySpec.model_validate(
        {
            "id": f"{random.Random(name).getrandbits(128):032x}",
            "name": name,
            "workload": "tests.workloads.replay",
            "objectives": objectives,
            "budget": {"trials": trials},
            "fixed": {"epochs": EPOCHS},
            "space": {
                "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
                "dropout": {"type": "float", "low": 0, "high": 0.6},
                "batch_size": {"type": "choice", "choices": [4, 8, 16]},
                "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
                "momentum": {"type": "float", "low": 0.5, "high": 0.99, "when": {"optimizer": ["sgd"]}},
            },
        }
    )


def generated_study(
    storage: Storage,
    name: str = "streets",
    trials: int = 30,
    objectives: Sequence[dict[str, str]] = ({"metric": "val/iou_road"},),
) -> StudySpec:
    """Write the study's folder. Images are written for every tenth trial, and for each of the first 24."""
    assert storage.local is not None
    found, study, draw = spec(name, trials, objectives), storage / name, random.Random(7)
    study.write_text("study.json", to_json(found))
    events: list[dict[str, Any]] = [
        {
            "event": "run",
            "number": 1,
            "host": "h",
            "pid": 1,
            "versions": {"tuner": "0"},
            "overrides": [],
            "tracking_uri": "",
            "forecast": _forecast(trials).to_json(),
        }
    ]
    best_so_far: list[float] = []
    for trial in range(1, trials + 1):
        params: dict[str, Any] = {
            "learning_rate": 10 ** draw.uniform(-4, -1),
            "dropout": draw.uniform(0, 0.6),
            "batch_size": draw.choice([4, 8, 16]),
            "optimizer": draw.choice(["adam", "sgd"]),
        }
        if params["optimizer"] == "sgd":
            params["momentum"] = draw.uniform(0.5, 0.99)
        events.append({"event": "start", "trial": trial, "params": params})
        reach = 0.92 - 0.12 * (math.log10(params["learning_rate"]) + 2.5) ** 2 - 0.2 * params["dropout"]
        state, reason, best, best_epoch = "finished", None, -1.0, 1
        for epoch in range(1, EPOCHS + 1):
            value = max(0.0, reach * (1 - math.exp(-epoch / 2.5)) + draw.gauss(0, 0.01))
            metrics = {"epoch": epoch, "val/iou_road": value, "train/loss": 1.2 - value, **_SECONDS}
            metrics["model/gflops"] = 40.0 - 60 * params["dropout"]
            events.append(
                {
                    "event": "report",
                    "trial": trial,
                    "epoch": epoch,
                    "metrics": metrics,
                    "startup_seconds": 0.02,
                    "system": _SYSTEM | {"cpu_utilization_percentage": 60 + 3.0 * epoch},
                }
            )
            if value > best:
                best, best_epoch = value, epoch
                if trial <= 24 or trial % 10 == 0:
                    events.append(
                        {
                            "event": "images",
                            "trial": trial,
                            "images": _images(storage.local / name, trial, epoch, value),
                        }
                    )
            if epoch == 3 and len(best_so_far) > 3 and value < sorted(best_so_far)[len(best_so_far) // 2]:
                state, reason = "stopped", "asha stopped it at epoch 3"
                break
            if trial % 17 == 0 and epoch == 2:
                state, reason = "failed", "loss is nan (learning_rate=0.1)"
                break
            if epoch == 3:
                best_so_far.append(value)
        events.append(
            {"event": "end", "trial": trial, "state": state, "reason": reason, "value": best, "best_epoch": best_epoch}
        )
    events.append({"event": "stop", "state": "finished", "reason": None})
    with (storage.local / name / "events.jsonl").open("w") as file:
        for number, event in enumerate(events):
            file.write(json.dumps({**event, "time": _BEGAN + 0.5 * number}) + "\n")
    return found


def _forecast(trials: int) -> Forecast:
    reached = {3: Range(trials, trials), EPOCHS: Range(trials // 4, trials // 2)}
    hours = Range(1.5 * trials / 3600, 2.5 * trials / 3600)
    return Forecast(reached, Range(4 * trials, 6 * trials), hours, notes=("an epoch takes 0.5 s, as in study lanes",))


def _images(folder: Path, trial: int, epoch: int, value: float) -> list[str]:
    """A road whose edge is the further off, the worse the trial is."""
    found = []
    for number, frame in enumerate(FRAMES):
        image = Image.new("RGB", (192, 64), (90, 110 + 60 * number, 130))
        off = int((1 - value) * 60)
        ImageDraw.Draw(image).polygon([(20 + off, 63), (90, 20), (100, 20), (170 - off, 63)], fill=(60, 200, 90))
        path = f"images/epoch-{epoch:06d}/{frame}.png"
        place = folder / "trials" / str(trial) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
        found.append(path)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--trials", type=int, default=30)
    arguments = parser.parse_args()
    generated_study(Storage(arguments.folder), trials=arguments.trials)
