"""Tracking: what gets into MLflow, once, whatever happens between."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from PIL import Image

from tuner.errors import StudyError
from tuner.storage import Storage
from tuner.study import StudySpec
from tuner.tracking import Tracker, default_tracking_uri

# What MLflow and its database library warn of is theirs.
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def spec(name: str = "roads") -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": name,
            "workload": "tests.workloads.replay",
            "objective": {"metric": "score"},
            "budget": {"trials": 4},
            "fixed": {"epochs": 3},
            "space": {"x": {"type": "float", "low": 0, "high": 1}},
        }
    )


def lines() -> list[dict[str, Any]]:
    """A study of three trials: one finished with pictures, one failed, one that is under way when it stops.

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


class Study:
    """A study's folder with events, and MLflow beside it."""

    def __init__(self, folder: Path, uri: str | None = None):
        self.storage = Storage(str(folder))
        self.study = self.storage / "roads"
        self.events = folder / "roads" / "events.jsonl"
        self.uri = uri or default_tracking_uri(self.storage)
        for epoch in (1, 2, 3):
            picture = folder / "roads" / "trials" / "1" / "images" / f"epoch-{epoch:06d}" / "frame_a.png"
            picture.parent.mkdir(parents=True)
            Image.new("RGB", (4, 4), (epoch, 0, 0)).save(picture)

    def write(self, events: list[dict[str, Any]]) -> None:
        with self.events.open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)

    def track(self, uri: str | None = None, patience_seconds: float = 60) -> int:
        tracker = Tracker(spec(), self.study, self.events, uri or self.uri)
        tracker.start()
        return tracker.finish(patience_seconds)

    def seen(self, uri: str | None = None) -> dict[str, Any]:
        """All that MLflow holds of the study, without its own ids and clock."""
        client = MlflowClient(uri or self.uri)
        experiment = client.get_experiment_by_name("roads")
        assert experiment is not None
        found: dict[str, Any] = {}
        for run in client.search_runs([experiment.experiment_id]):
            key = run.data.tags["tuner.trial"]
            assert key not in found, f"two runs of trial {key}"
            found[key] = {
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
        return found


EXPECTED: dict[str, Any] = {
    "study": {
        "status": "KILLED",
        "params": {"objective": "maximize score", "epochs": "3"},
        "child": False,
        "reason": None,
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
                **({} if status == "KILLED" else {"best/score": [(3, 0.1 * trial * 3)]}),
            },
            "images": {}
            if trial > 1
            else {f"images/frame_a+step+{epoch}{kind}": 1 for epoch in (1, 2, 3) for kind in (".png", ".webp")},
        }
        for trial, status in ((1, "FINISHED"), (2, "FAILED"), (3, "KILLED"))
    },
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def study(tmp_path: Path, database: Path) -> Study:
    (tmp_path / "mlflow.db").write_bytes(database.read_bytes())
    return Study(tmp_path)


def test_mlflow_holds_each_number_once_with_its_trial(study: Study) -> None:
    study.write(lines())
    assert study.track() == 0
    assert study.seen() == EXPECTED


def test_tracking_the_same_events_twice_doubles_nothing(study: Study) -> None:
    study.write(lines())
    study.track()
    (study.events.parent / "tracking.json").unlink()
    study.track()
    assert study.seen() == EXPECTED


def test_tracking_goes_on_where_it_got_to(study: Study) -> None:
    events = lines()
    for part in (events[:5], events[5:6], [], events[6:]):
        study.write(part)
        assert study.track() == 0
    assert study.seen() == EXPECTED
    state = json.loads((study.events.parent / "tracking.json").read_text())
    assert state["offset"] == study.events.stat().st_size


def test_a_line_that_is_being_written_is_left_for_later(study: Study) -> None:
    text = "".join(json.dumps(event) + "\n" for event in lines())
    half = len(text) * 2 // 3
    study.events.write_text(text[:half])
    assert study.track() == 0
    with study.events.open("a") as file:
        file.write(text[half:])
    study.track()
    assert study.seen() == EXPECTED


def test_a_journal_that_lost_lines_that_were_tracked_is_read_anew(study: Study) -> None:
    """A bucket's copy is seconds old when the machine dies; a disk may lose what was not synced."""
    events = lines()
    study.write(events[:-2])
    study.track()
    kept = study.events.read_text().split("\n")[:7]
    study.events.write_text("\n".join(kept) + "\n")
    study.write([*events[7:-2], *events[-2:]])
    assert study.track() == 0
    assert study.seen() == EXPECTED


def test_a_trial_that_goes_on_has_one_run_and_runs_again(study: Study) -> None:
    events = lines()
    study.write([*events, events[0], {**events[3], "time": events[-1]["time"] + 1}])
    study.track()
    seen = study.seen()
    assert seen["3"]["status"] == "RUNNING"
    assert seen["study"]["status"] == "RUNNING"
    assert seen["3"]["metrics"]["score"] == EXPECTED["3"]["metrics"]["score"]


def test_an_mlflow_that_is_down_loses_nothing(study: Study) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    events = lines()
    study.write(events)
    began = time.monotonic()
    assert study.track(dead, patience_seconds=3) == len(events)
    assert time.monotonic() - began < 15
    # Another address has none of it, so all is written there.
    assert study.track() == 0
    assert study.seen() == EXPECTED


def test_two_storages_with_a_study_of_one_name_share_a_server_without_mixing(tmp_path: Path, database: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(database.read_bytes())
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for folder in ("a", "it's"):
        study = Study(tmp_path / folder, uri)
        study.write(lines())
        assert study.track() == 0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("roads")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert collections.Counter(run.data.tags["tuner.storage"] for run in runs) == {
        str(tmp_path / "a" / "roads"): 4,
        str(tmp_path / "it's" / "roads"): 4,
    }


def test_the_end_waits_as_long_as_mlflow_takes_something(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.write(lines()[:5])

    def slow(tracker: Tracker) -> bool:
        time.sleep(0.3)
        with study.events.open("rb") as file:
            file.seek(tracker._offset)
            line = file.readline()
        tracker._offset += len(line)
        tracker._taken += 1
        return bool(line)

    monkeypatch.setattr(Tracker, "_step", slow)
    assert study.track(patience_seconds=0.8) == 0, "five events of 0.3 s each"


def test_the_end_does_not_wait_for_an_mlflow_that_takes_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.write(lines())
    monkeypatch.setattr(Tracker, "_step", lambda _: time.sleep(60))
    began = time.monotonic()
    assert study.track(patience_seconds=0.5) == len(lines())
    assert time.monotonic() - began < 10


def test_the_end_is_soon_when_nobody_waits_for_it_any_more(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.write([])

    def endless(tracker: Tracker) -> bool:
        time.sleep(0.01)
        tracker._taken += 1
        return True

    monkeypatch.setattr(Tracker, "_step", endless)
    monkeypatch.setattr("tuner.tracking.ABANDONED_SECONDS", 0.3)
    tracker = Tracker(spec(), study.study, study.events, study.uri)
    tracker.start()
    began = time.monotonic()
    tracker.finish(60, abandoned=lambda: True)
    assert time.monotonic() - began < 10
    monkeypatch.undo()  # the thread ends with its next step
    tracker.join(60)


def test_a_password_in_the_address_is_never_written(study: Study) -> None:
    study.write(lines())
    tracker = Tracker(spec(), study.study, study.events, "http://me:s3cret@127.0.0.1:9/")
    tracker.start()
    tracker.finish(3)
    assert tracker.trouble is not None
    assert "s3cret" not in tracker.trouble
    assert not any(b"s3cret" in path.read_bytes() for path in study.events.parent.rglob("*") if path.is_file())


def test_a_study_in_a_bucket_needs_an_mlflow_elsewhere() -> None:
    with pytest.raises(StudyError, match="--tracking-uri: a storage in a bucket"):
        default_tracking_uri(Storage("s3://bucket/studies?region=us-east-1"))


@pytest.fixture
def server(tmp_path: Path, database: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A real MLflow server that can be halted."""
    (tmp_path / "server.db").write_bytes(database.read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "server.log").open("w") as log:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True, env=environment)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", process
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_hangs_in_mid_study_gets_everything_once(
    tmp_path: Path, server: tuple[str, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    uri, process = server
    study = Study(tmp_path / "studies", uri)
    events = lines()
    study.write(events[:6])
    tracker = Tracker(spec(), study.study, study.events, uri)
    tracker.start()
    deadline = time.monotonic() + 60
    while not (study.events.parent / "tracking.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGSTOP)
    study.write(events[6:10])
    while tracker.trouble is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    study.write(events[10:])
    os.killpg(process.pid, signal.SIGCONT)
    assert tracker.finish(60) == 0
    assert study.seen() == EXPECTED


def test_mlflow_lies_in_the_storage_whatever_its_folder_is_called(tmp_path: Path) -> None:
    """Signs that SQLAlchemy, MLflow or a file's URI take for their own, through to an MLflow that opens it."""
    names = ["question?mark=1", "per%20cent", "hash#tag", "with space", "straße", "semi;colon&amp", "plus+at@"]
    first = Study(tmp_path / "plain")
    MlflowClient(first.uri).search_experiments()  # makes the database, which takes seconds; the others get a copy
    for name in names:
        study = Study(tmp_path / name)
        shutil.copyfile(tmp_path / "plain" / "mlflow.db", tmp_path / name / "mlflow.db")
        study.write(lines())
        assert study.track() == 0, name
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(tmp_path / name))}/mlflow.db?mode=ro", uri=True)
        ) as db:
            assert db.execute("select count(*) from runs").fetchone() == (4,), name
        assert len(list((tmp_path / name / "artifacts").rglob("images/frame_a*.png"))) == 3, name
        assert len(MlflowClient(study.uri).search_runs(["1"])) == 4
    # MLflow makes folders by the letter of an address too, and leaves them empty.
    assert {path.name for path in tmp_path.iterdir() if list(path.iterdir())} == {*names, "plain"}
