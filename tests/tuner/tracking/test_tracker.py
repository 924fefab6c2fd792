"""Tracking: what gets into MLflow, once, whatever happens between."""

from __future__ import annotations

import collections
import contextlib
import json
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from mlflow import MlflowClient

from tests.mlflow_server import MlflowServer
from tests.tracked_study import EXPECTED, TrackedStudy, lines
from tests.waiting import wait_for
from tuner.errors import StudyError
from tuner.storage.storage import Storage
from tuner.tracking.address import default_tracking_uri
from tuner.tracking.tracker import Tracker

# What MLflow and its database library warn of is theirs.
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_mlflow_holds_each_number_once_with_its_trial(study: TrackedStudy) -> None:
    study.write(lines())
    assert study.track() == 0
    assert study.seen() == EXPECTED


def test_tracking_the_same_events_twice_duplicates_nothing(study: TrackedStudy) -> None:
    study.write(lines())
    study.track()
    (study.events.parent / "tracking.json").unlink()
    study.track()
    assert study.seen() == EXPECTED


def test_tracking_continues_from_its_offset(study: TrackedStudy) -> None:
    events = lines()
    for part in (events[:5], events[5:6], [], events[6:]):
        study.write(part)
        assert study.track() == 0
    assert study.seen() == EXPECTED
    state = json.loads((study.events.parent / "tracking.json").read_text())
    assert state["offset"] == study.events.stat().st_size
    assert study.tracker is not None
    assert state["runs"] == {trial: run for trial, run in study.tracker.runs.items() if trial != "study"}


def test_a_half_written_line_is_read_later(study: TrackedStudy) -> None:
    text = "".join(json.dumps(event) + "\n" for event in lines())
    half = len(text) * 2 // 3
    study.events.write_text(text[:half])
    assert study.track() == 0
    with study.events.open("a") as file:
        file.write(text[half:])
    study.track()
    assert study.seen() == EXPECTED


def test_a_log_that_lost_tracked_lines_is_read_from_its_start(study: TrackedStudy) -> None:
    """A bucket's copy is seconds old when the machine dies; a disk may lose what was not synced."""
    events = lines()
    study.write(events[:-2])
    study.track()
    kept = study.events.read_text().split("\n")[:7]
    study.events.write_text("\n".join(kept) + "\n")
    study.write([*events[7:-2], *events[-2:]])
    assert study.track() == 0
    assert study.seen() == EXPECTED


def test_a_resumed_trial_has_one_run_which_is_running_again(study: TrackedStudy) -> None:
    events = lines()
    study.write([*events, events[0], {**events[3], "time": events[-1]["time"] + 1}])
    study.track()
    seen = study.seen()
    assert seen["3"]["status"] == "RUNNING"
    assert seen["study"]["status"] == "RUNNING"
    assert seen["3"]["metrics"]["score"] == EXPECTED["3"]["metrics"]["score"]


def test_a_paused_trial_waits_in_mlflow_too_until_it_runs_again(study: TrackedStudy) -> None:
    events = lines()[:-1]
    at = events[-1]["time"]
    study.write([*events, {"event": "pause", "trial": 3, "time": at + 1}])
    study.track()
    assert study.seen()["3"]["status"] == "SCHEDULED"
    assert study.tracker is not None
    run = MlflowClient(study.uri).get_run(study.tracker.runs["3"])
    assert run.data.tags["tuner.state"] == "paused"
    study.write([{**events[3], "time": at + 2}])
    study.track()
    assert study.seen()["3"]["status"] == "RUNNING"


def test_an_mlflow_that_is_down_loses_nothing(study: TrackedStudy) -> None:
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
        study = TrackedStudy(tmp_path / folder, uri)
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


def test_the_end_waits_as_long_as_mlflow_accepts_something(
    study: TrackedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("tuner.tracking.tracker.time", clock)
    create_run = MlflowClient.create_run

    def slow(client: MlflowClient, *args: Any, **options: Any) -> Any:
        clock.now += 25
        return create_run(client, *args, **options)

    monkeypatch.setattr(MlflowClient, "create_run", slow)
    study.write(lines())
    assert study.track(patience_seconds=60) == 0
    assert clock.now == 100, "a run each for the study and three trials"
    assert study.seen() == EXPECTED


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that takes every connection and answers nothing."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_the_end_does_not_wait_for_an_mlflow_that_accepts_nothing(study: TrackedStudy, silent: str) -> None:
    study.write(lines())
    began = time.monotonic()
    assert study.track(silent, patience_seconds=0.5) == len(lines())
    assert time.monotonic() - began < 10


def test_the_end_comes_soon_after_the_driver_died(
    study: TrackedStudy, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.write(lines())
    monkeypatch.setattr("tuner.tracking.tracker.ABANDONED_SECONDS", 0.3)
    tracker = Tracker(study.spec, study.study, study.events, silent)
    tracker.start()
    began = time.monotonic()
    assert tracker.finish(60, abandoned=lambda: True) == len(lines())
    assert time.monotonic() - began < 10
    tracker.join(60)
    assert not tracker.is_alive()


def test_a_password_in_the_address_is_never_written(study: TrackedStudy) -> None:
    study.write(lines())
    tracker = Tracker(study.spec, study.study, study.events, "http://me:s3cret@127.0.0.1:9/")
    tracker.start()
    tracker.finish(3)
    tracker.join(60)
    assert not tracker.is_alive(), "what is given up is tried no more"
    assert tracker.error is not None
    assert "s3cret" not in tracker.error
    assert not any(b"s3cret" in path.read_bytes() for path in study.events.parent.rglob("*") if path.is_file())


def test_a_study_in_a_bucket_needs_an_mlflow_elsewhere() -> None:
    with pytest.raises(StudyError, match="--tracking-uri: a storage in a bucket"):
        default_tracking_uri(Storage("s3://bucket/studies?region=us-east-1"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_hangs_in_mid_study_gets_everything_once(
    tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    uri = server.uri
    study = TrackedStudy(tmp_path / "studies", uri)
    events = lines()
    study.write(events[:6])
    tracker = Tracker(study.spec, study.study, study.events, uri)
    tracker.start()
    wait_for((study.events.parent / "tracking.json").exists, 60)
    server.signal(signal.SIGSTOP)
    study.write(events[6:10])
    wait_for(lambda: tracker.error, 60)
    study.write(events[10:])
    server.signal(signal.SIGCONT)
    assert tracker.finish(60) == 0
    assert study.seen() == EXPECTED


def test_the_database_is_in_the_storage_whatever_its_folder_is_called(tmp_path: Path) -> None:
    """Signs that SQLAlchemy, MLflow or a file's URI take for their own, through to an MLflow that opens it."""
    names = ["question?mark=1", "per%20cent", "hash#tag", "with space", "straße", "semi;colon&amp", "plus+at@"]
    first = TrackedStudy(tmp_path / "plain")
    MlflowClient(first.uri).search_experiments()  # makes the database, which takes seconds; the others get a copy
    for name in names:
        study = TrackedStudy(tmp_path / name)
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


def test_control_trials_are_tagged_with_what_early_stopping_would_have_done(study: TrackedStudy) -> None:
    events = lines()
    at = next(place for place, event in enumerate(events) if event["event"] == "report" and event["trial"] == 1)
    spared = {"event": "spared", "trial": 1, "epoch": 1, "time": events[at]["time"]}
    for event in events:
        if event["event"] == "start":
            event["control"] = event["trial"] in (1, 3)
    study.write([*events[: at + 1], spared, *events[at + 1 :]])
    study.track()
    assert study.tracker is not None
    tags = {
        trial: {name: value for name, value in found.data.tags.items() if name.startswith("tuner.control")}
        for trial, found in ((trial, MlflowClient(study.uri).get_run(run)) for trial, run in study.tracker.runs.items())
    }
    assert tags == {
        "study": {
            "tuner.control.trials": "1, 3",
            "tuner.control.outcome": "Early stopping would have stopped 1 of 1 control trials. The best that it would "
            "have stopped, trial 1 at epoch 1, ended at score 0.3; the best that it would have left is 0.1",
        },
        "1": {"tuner.control": "true", "tuner.control.would_stop_at": "1"},
        "2": {},
        "3": {"tuner.control": "true"},
    }
