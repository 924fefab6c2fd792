"""The only writer to MLflow while a study runs.

Tracking follows the study's events file from where it got to last time, in a process of its own (tracking_process.py),
so training never waits for MLflow and an outage loses nothing: what couldn't be written is read again later. Writing an
event twice does no harm: runs are found by their tags before one is made, and MLflow drops a metric that it has.

One parent run a study, one child a trial; pictures of a trial's best epochs are images of its run.
"""

from __future__ import annotations

import collections
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tuner.address import redacted, without_secrets
from tuner.checkpoints import epoch_of
from tuner.errors import StudyError
from tuner.storage import Storage
from tuner.study import StudySpec

# MLflow's own patience is minutes a call; here an outage is met by reading the events again.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")

ABANDONED_SECONDS = 5.0  # what is left for MLflow when the process that runs the study was killed
_STATE = "tracking.json"
# MLflow takes 1000 metrics, tags and parameters together in a call, of the latter two at most 100 each.
_METRICS_A_CALL = 800
_BYTES_A_STEP = 1 << 20
# Between two steps: _REST times as long as the step took. What comes meanwhile goes in one call a run, which takes a
# quarter of the time that one a report would.
_REST, _LEAST_REST_SECONDS, _MOST_REST_SECONDS = 3, 0.5, 10.0
# The UI then opens on runs and charts, not on MLflow's pages for language models.
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}


def default_tracking_uri(storage: Storage) -> str:
    """An SQLite file in the storage. Raises StudyError if the storage is a bucket."""
    if storage.local is None:
        raise StudyError(
            f"--tracking-uri: a storage in a bucket ({storage.uri}) can't hold MLflow's database; "
            "give the address of an MLflow server"
        )
    import sqlalchemy

    path = str(storage.local / "mlflow.db")
    plain = f"sqlite:///{path}"
    # Quoted only where SQLAlchemy takes a sign of the path for one of its own, as it does % and ?.
    return plain if sqlalchemy.make_url(plain).database == path else str(sqlalchemy.URL.create("sqlite", database=path))


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite database's address, None for any other."""
    import sqlalchemy

    if not uri.startswith("sqlite:///"):
        return None
    return Path(sqlalchemy.make_url(uri).database or "")


def artifact_location(uri: str, study: Storage) -> str | None:
    """Where a study's pictures lie: beside an SQLite file, else in the storage; None leaves it to an MLflow server."""
    if database := sqlite_file(uri):
        return (database.resolve().parent / "artifacts").as_uri()
    if uri.startswith("http") or study.local is None:
        return None
    return (study.local.parent / "artifacts").as_uri()


@dataclass
class _Batch:
    """What a step has for one run. Every call is a transaction, so all of it goes in one."""

    params: dict[str, Any] = field(default_factory=dict)
    metrics: list[Any] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


_Batches = collections.defaultdict[str, _Batch]
"""By MLflow's run id."""


class Tracker(threading.Thread):
    """Writes a study's events to MLflow until told to finish."""

    def __init__(self, spec: StudySpec, study: Storage, events: Path, uri: str):
        """study: the study's folder. events: its events file. uri: where MLflow is."""
        super().__init__(name="tracking", daemon=True)
        self._spec, self._study, self._events, self._uri = spec, study, events, uri
        state = json.loads(study.read_text(_STATE) or "{}")
        self._offset: int = state.get("offset", 0) if state.get("uri") == without_secrets(uri) else 0
        self.runs: dict[str, str] = {}
        """MLflow's run id by trial, "study" for the parent run; found when MLflow is connected to."""
        self._experiment: str | None = None
        self._client: Any = None
        self._taken = 0
        """What MLflow has taken so far: a run, what there was for a run, a picture, each counted once."""
        self._new: set[str] = set()
        """Runs made since the last trouble: what they hold is known."""
        self._ending = threading.Event()
        self._woken = threading.Event()
        self.trouble: str | None = None
        """Why MLflow takes nothing at the moment, or None."""

    def run(self) -> None:
        patience = _LEAST_REST_SECONDS
        while True:
            began = time.monotonic()
            try:
                busy = self._step()
                self.trouble, patience = None, _LEAST_REST_SECONDS
                if self._ending.is_set() and not busy:
                    return
            except Exception as error:  # whatever MLflow, its database or the network raise
                self.trouble = self._sentence(error)
                # What broke off may have got through: look at what is there before going on.
                self._client = None
                busy = False
                patience = min(patience * 2, 1.0 if self._ending.is_set() else 30.0)
            if busy and self._ending.is_set():
                continue
            rest = min(max(_LEAST_REST_SECONDS, _REST * (time.monotonic() - began)), _MOST_REST_SECONDS)
            self._woken.wait(patience if self.trouble else rest)
            self._woken.clear()

    def _sentence(self, error: Exception) -> str:
        """The error's first line; MLflow's may hold the whole address."""
        text = str(error).strip().split("\n")[0] or type(error).__name__
        return redacted(text, self._uri)[:200]

    def finish(self, patience_seconds: float, abandoned: Callable[[], bool] = lambda: False) -> int:
        """Write what is left, until MLflow takes nothing for that long. Returns how many events are left then.

        abandoned: whether nobody waits for it any more; then it ends soon.
        """
        self._ending.set()
        self._woken.set()
        last, taken, patient_until = math.inf, -1, 0.0
        while self.is_alive():
            now = time.monotonic()
            if self._taken != taken:
                taken, patient_until = self._taken, now + patience_seconds
            if last == math.inf and abandoned():
                last = now + ABANDONED_SECONDS
            if now > min(last, patient_until):
                break
            self.join(0.1)
        return self.left() if self.is_alive() or self.trouble else 0

    def left(self) -> int:
        """How many events MLflow hasn't got, counted up to a few thousand."""
        return len(self._pending()[0])

    def _pending(self) -> tuple[list[dict[str, Any]], int]:
        with self._events.open("rb") as stream:
            stream.seek(max(self._offset - 1, 0))
            if self._offset and stream.read(1) != b"\n":
                # The file lost lines that we have read: a bucket's copy is seconds old, a machine may have lost power.
                self._offset = 0
                stream.seek(0)
            data = stream.read(_BYTES_A_STEP)
        whole = data.rfind(b"\n") + 1
        return [json.loads(line) for line in data[:whole].splitlines()], self._offset + whole

    def _step(self) -> bool:
        """Write the events that have come since the last step. Returns whether there were any."""
        events, offset = self._pending()
        if not events:
            return False
        if self._client is None:
            self._connect()
        batches: _Batches = collections.defaultdict(_Batch)
        for event in events:
            getattr(self, f"_on_{event['event']}")(event, batches)
        self._send_all(batches)
        self._offset = offset
        self._study.write_text(_STATE, json.dumps({"uri": without_secrets(self._uri), "offset": offset}))
        return True

    def _connect(self) -> None:
        # Imported here: MLflow takes seconds, which the first trials need not wait for.
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._uri)
        experiment = client.get_experiment_by_name(self._spec.name)
        self._new.clear()
        if experiment:
            self._experiment = experiment.experiment_id
            self._find_runs(client)
        else:
            self._experiment = client.create_experiment(
                self._spec.name, artifact_location=artifact_location(self._uri, self._study), tags=_TRAINING
            )
        self._client = client

    def _find_runs(self, client: Any) -> None:
        """The runs of this study that MLflow has. From here on nobody but this tracker makes any."""
        page = None
        while True:
            runs = client.search_runs([self._experiment], max_results=1000, page_token=page)
            for run in runs:
                # Compared here: a path may hold what MLflow's filters can't.
                if run.data.tags.get("tuner.storage") == self._study.uri and "tuner.trial" in run.data.tags:
                    self.runs[run.data.tags["tuner.trial"]] = run.info.run_id
            page = runs.token
            if not page:
                return

    def _run_id(self, trial: int | None, started: float) -> str:
        """The MLflow run of a trial, or the parent run for None; made if there is none."""
        key = "study" if trial is None else str(trial)
        if key not in self.runs:
            self.runs[key] = self._make_run(key, started)
        return self.runs[key]

    def _make_run(self, key: str, started: float) -> str:
        name = self._spec.name if key == "study" else f"trial {key}"
        tags = {"tuner.trial": key, "tuner.study": self._spec.name, "tuner.storage": self._study.uri}
        if key != "study":
            tags["mlflow.parentRunId"] = self._run_id(None, started)
        run = self._client.create_run(self._experiment, start_time=_ms(started), tags=tags, run_name=name)
        self._new.add(run.info.run_id)
        self._taken += 1
        return str(run.info.run_id)

    def _on_run(self, event: dict[str, Any], batches: _Batches) -> None:
        run = self._begin(None, event["time"])
        objective = self._spec.objective
        batches[run].params |= {"objective": f"{objective.direction} {objective.metric}", **self._spec.fixed}
        batches[run].tags |= {f"tuner.version.{name}": version for name, version in event["versions"].items()}

    def _on_start(self, event: dict[str, Any], batches: _Batches) -> None:
        run = self._begin(event["trial"], event["time"])
        batches[run].params |= event["params"]

    def _begin(self, trial: int | None, at: float) -> str:
        """The run, which runs now; one that was just made does so already."""
        there = self.runs.get("study" if trial is None else str(trial))
        if there is not None:
            self._client.update_run(there, status="RUNNING")
        return there or self._run_id(trial, at)

    def _on_report(self, event: dict[str, Any], batches: _Batches) -> None:
        run = self._run_id(event["trial"], event["time"])
        epoch, at = event["epoch"], event["time"]
        if event.get("again"):
            # MLflow can't forget: of an epoch that was trained again it keeps the first report.
            return
        batches[run].metrics += [
            _metric(name, value, at, epoch) for name, value in event["metrics"].items() if name != "epoch"
        ]

    def _on_images(self, event: dict[str, Any], _: _Batches) -> None:
        run = self._run_id(event["trial"], event["time"])
        for path in event["images"]:
            self._log_image(run, event["trial"], path)

    def _on_back(self, event: dict[str, Any], _: _Batches) -> None:
        """MLflow has the reports, and keeps them."""

    def _on_end(self, event: dict[str, Any], batches: _Batches) -> None:
        run = self._run_id(event["trial"], event["time"])
        batches[run].tags["tuner.state"] = event["state"]
        if event.get("reason"):
            batches[run].tags["tuner.reason"] = event["reason"][:4000]
        if event.get("value") is not None:
            # The run's own metric ends on its last epoch; a comparison of runs wants their best.
            best = f"best/{self._spec.objective.metric.removeprefix('best/')}"
            batches[run].metrics.append(_metric(best, event["value"], event["time"], event["best_epoch"]))
            parent = self._run_id(None, event["time"])
            batches[parent].metrics.append(_metric(best, event["value"], event["time"], event["trial"]))
        self._send(run, batches.pop(run))
        self._client.set_terminated(run, _STATUS[event["state"]], _ms(event["time"]))

    def _on_stop(self, event: dict[str, Any], batches: _Batches) -> None:
        self._send_all(batches)
        run = self._run_id(None, event["time"])
        # A trial that is to go on later doesn't run now.
        children = f"tags.`mlflow.parentRunId` = '{run}' and attributes.status = 'RUNNING'"
        for child in self._client.search_runs([self._experiment], filter_string=children):
            self._client.set_terminated(child.info.run_id, _STATUS["interrupted"], _ms(event["time"]))
        self._client.set_terminated(run, _STATUS[event["state"]], _ms(event["time"]))

    def _send_all(self, batches: _Batches) -> None:
        for run, batch in batches.items():
            self._send(run, batch)
        batches.clear()

    def _send(self, run: str, batch: _Batch) -> None:
        from mlflow.entities import Param, RunTag

        params = batch.params
        if params and run not in self._new:
            # Parameters can't change in MLflow: what is there stays, which a resume relies on.
            known = self._client.get_run(run).data.params
            params = {name: value for name, value in params.items() if name not in known}
        self._client.log_batch(
            run,
            metrics=batch.metrics[:_METRICS_A_CALL],
            params=[Param(name, str(value)) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in batch.tags.items()],
        )
        for start in range(_METRICS_A_CALL, len(batch.metrics), _METRICS_A_CALL):
            self._client.log_batch(run, metrics=batch.metrics[start : start + _METRICS_A_CALL])
        self._taken += 1

    def _log_image(self, run: str, trial: int, path: str) -> None:
        folder, name = path.rsplit("/", 1)
        key, epoch = Path(name).stem, epoch_of(folder.rpartition("/")[2])
        # MLflow names each image anew: what an earlier, broken-off attempt left must be looked for.
        if any(f"/{key}+step+{epoch}+" in there.path for there in self._client.list_artifacts(run, "images")):
            return
        with tempfile.TemporaryDirectory() as scratch:
            local = self._study.get(f"trials/{trial}/{folder}", Path(scratch)) / name
            if not local.is_file():
                return
            with Image.open(local) as image:
                image.load()
                self._client.log_image(run, image, key=key, step=epoch)
        self._taken += 1


def _metric(name: str, value: float, at: float, step: int) -> Any:
    from mlflow.entities import Metric

    return Metric(name, value, _ms(at), step)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
