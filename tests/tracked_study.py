"""A study's folder with events, and all that MLflow holds of it."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from PIL import Image

from tests.studies import study_spec
from tuner.storage.storage import Storage
from tuner.tracking.address import default_tracking_uri
from tuner.tracking.tracker import Tracker


def lines() -> list[dict[str, Any]]:
    """A study of three trials: one finished with images, one failed, one that is under way when it stops.

    The second went back an epoch after a kill, and reports it again with other values.
    """
    at = 1_700_000_000.0
    events: list[dict[str, Any]] = [
        {"event": "run", "number": 1, "host": "h", "pid": 1, "versions": {"ray": "2.60"}, "overrides": []}
    ]
    for trial in (1, 2, 3):
        events.append({"event": "start", "trial": trial, "params": {"x": 0.1 * trial}})
    for epoch in (1, 2, 3):
        for trial in (1, 2, 3):
            metrics = {"epoch": float(epoch), "score": 0.1 * trial * epoch, "loss": 1.0 / epoch}
            events.append({"event": "report", "trial": trial, "epoch": epoch, "metrics": metrics})
            if trial == 1:
                events.append({"event": "images", "trial": 1, "images": [f"images/epoch-{epoch:06d}/frame_a.png"]})
    events.append({"event": "back", "trial": 2, "epoch": 2})
    again = {"epoch": 3.0, "score": 0.123, "loss": 0.456}
    events.append({"event": "report", "trial": 2, "epoch": 3, "metrics": again, "again": True})
    end = {"event": "end", "reason": None, "best_epoch": 3}
    events.append({**end, "trial": 1, "state": "finished", "value": 0.1 * 1 * 3})
    events.append({**end, "trial": 2, "state": "failed", "value": 0.1 * 2 * 3, "reason": "ValueError: no"})
    events.append({"event": "stop", "state": "interrupted", "reason": "SIGINT"})
    return [{**event, "time": at + number, "tracking_uri": ""} for number, event in enumerate(events)]


class TrackedStudy:
    """A study's folder with events, and MLflow beside it."""

    def __init__(self, folder: Path, uri: str | None = None, name: str = "roads", study_id: str | None = None):
        self.storage = Storage(str(folder))
        self.spec = study_spec(name=name, id=study_id, fixed={"epochs": 3})
        self.study = self.storage / name
        self.events = folder / name / "events.jsonl"
        self.uri = uri or default_tracking_uri(self.storage)
        self.tracker: Tracker | None = None
        """The last one."""
        for epoch in (1, 2, 3):
            self.draw(f"images/epoch-{epoch:06d}/frame_a.png")

    def draw(self, path: str, trial: int = 1) -> Path:
        """An image of a trial's."""
        image = self.events.parent / "trials" / str(trial) / path
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), len(path) + trial).save(image, "PNG")
        return image

    def write(self, events: list[dict[str, Any]]) -> None:
        with self.events.open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)

    def track(self, uri: str | None = None, patience_seconds: float = 60) -> int:
        self.tracker = Tracker(self.spec, self.study, self.events, uri or self.uri)
        self.tracker.start()
        return self.tracker.finish(patience_seconds)

    def skipped(self) -> list[str]:
        """What MLflow will never take, a sentence each."""
        skipped: list[str] = json.loads((self.events.parent / "tracking.json").read_text())["skipped"]
        return skipped

    def seen(self, uri: str | None = None) -> dict[str, Any]:
        """All that MLflow holds of the study, without its own ids and clock; each trial has one run, and one parent."""
        client = MlflowClient(uri or self.uri)
        experiment = client.get_experiment_by_name(self.spec.name)
        assert experiment is not None
        runs = list(client.search_runs([experiment.experiment_id]))
        keys = [run.data.tags["tuner.trial"] for run in runs]
        assert len(keys) == len(set(keys)), f"two runs of a trial: {sorted(keys)}"
        parent = runs[keys.index("study")].info.run_id
        return {key: _held(client, run, parent) for key, run in zip(keys, runs, strict=True)}


def _held(client: MlflowClient, run: Any, parent: str) -> dict[str, Any]:
    assert run.data.tags.get("mlflow.parentRunId", parent) == parent
    return {
        "status": run.info.status,
        "params": run.data.params,
        "child": "mlflow.parentRunId" in run.data.tags,
        "reason": run.data.tags.get("tuner.reason"),
        "metrics": {
            name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        },
        "images": collections.Counter(
            there.path.split("+timestamp+")[0] + Path(there.path).suffix
            for there in client.list_artifacts(run.info.run_id, "images")
        ),
    }


def _at_the_end(trial: int) -> dict[str, list[tuple[int, float]]]:
    """What a trial's run has when it has ended."""
    return {
        "best/score": [(3, 0.1 * trial * 3)],
        "trial/epochs": [(3, 3.0)],
        "trial/seconds": [(3, 17.0)],
    }


EXPECTED: dict[str, Any] = {
    "study": {
        "status": "SCHEDULED",
        "params": {"objective": "maximize score", "epochs": "3"},
        "child": False,
        "reason": "SIGINT",
        "metrics": {"best/score": [(1, 0.1 * 1 * 3), (2, 0.1 * 2 * 3)]},
        "images": {},
    },
    **{
        str(trial): {
            "status": status,
            "params": {"x": str(0.1 * trial)},
            "child": True,
            "reason": "ValueError: no" if status == "FAILED" else None,
            "metrics": {
                "score": [(epoch, 0.1 * trial * epoch) for epoch in (1, 2, 3)],
                "loss": [(epoch, 1.0 / epoch) for epoch in (1, 2, 3)],
                **({} if status == "SCHEDULED" else _at_the_end(trial)),
            },
            "images": {}
            if trial > 1
            else {
                f"images/{key}+step+{step}{kind}": 1
                for key, step in (("frame_a", 1), ("frame_a", 2), ("frame_a", 3), ("best frame_a", 0))
                for kind in (".png", ".webp")
            },
        }
        for trial, status in ((1, "FINISHED"), (2, "FAILED"), (3, "SCHEDULED"))
    },
}
