"""ui and sync, on a study that was made without training."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.studies import write_study
from tests.tracked_study import EXPECTED, TrackedStudy, lines
from tuner.cli import tracking
from tuner.cli.app import app
from tuner.cli.browser import has_desktop
from tuner.errors import StudyError
from tuner.spec.study import to_json

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def study(tmp_path: Path) -> TrackedStudy:
    """Never tracked."""
    found = TrackedStudy(tmp_path / "studies")
    found.study.write_text("study.json", to_json(found.spec))
    found.write(lines())
    return found


def test_sync_writes_a_study_into_an_empty_mlflow_and_duplicates_nothing(
    study: TrackedStudy, tmp_path: Path, database: Path
) -> None:
    (tmp_path / "other.db").write_bytes(database.read_bytes())
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    for _ in range(2):
        done = CliRunner().invoke(app, ["sync", "roads", "--storage", study.storage.uri, "--tracking-uri", uri])
        assert done.exit_code == 0, done.output
        assert "3 trials are in" in done.output
        assert study.seen(uri) == EXPECTED
    assert not (study.events.parent / "tracking.json").exists(), "where the study itself is tracked stays as it is"


def test_sync_to_an_address_where_nothing_answers_is_refused_at_once_without_its_password(study: TrackedStudy) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["sync", "roads", "--storage", study.storage.uri, "--tracking-uri", f"http://me:s3cret@127.0.0.1:{port}"]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, StudyError)
    assert "nothing answers at http://me:***@127.0.0.1" in str(done.exception)
    assert "s3cret" not in str(done.exception) + done.output


def test_an_mlflow_that_does_not_answer_is_reported_before_the_study_starts_without_its_password(
    tmp_path: Path,
) -> None:
    file = write_study(tmp_path / "roads.toml", fixed={"missing_data": True})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://me:s3cret@127.0.0.1:{port}"
    done = CliRunner().invoke(app, ["run", str(file), "--storage", str(tmp_path / "studies"), "--tracking-uri", uri])
    # What is looked at next, the data, ends it: no Ray is started.
    assert "frames are needed" in str(done.exception)
    assert f"warning: nothing answers at http://me:***@127.0.0.1:{port}" in done.output
    assert "the study runs, and MLflow gets its events when it answers" in done.output
    assert "s3cret" not in done.output


@pytest.mark.parametrize("uri", ["ftp://host/x", "mlruns", "file:///x"])
def test_an_address_that_mlflow_cannot_track_to_is_refused(study: TrackedStudy, uri: str) -> None:
    done = CliRunner().invoke(app, ["sync", "roads", "--storage", study.storage.uri, "--tracking-uri", uri])
    assert isinstance(done.exception, StudyError)
    assert "an MLflow server" in str(done.exception)


def test_ui_of_a_study_on_a_server_gives_the_link_to_its_trials_and_starts_nothing(
    study: TrackedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("a server runs already"))
    events = lines()
    events[0]["tracking_uri"] = "http://me:***@mlflow.example:5000"
    study.events.write_text("")
    study.write(events)
    state = '{"uri": "http://me:***@mlflow.example:5000", "experiment": "7"}'
    study.study.write_text("tracking.json", state)
    refused = CliRunner().invoke(app, ["ui", "--storage", study.storage.uri])
    assert "the address's password isn't stored" in str(refused.exception)
    command = [
        "ui",
        "--no-open",
        "--storage",
        study.storage.uri,
        "--tracking-uri",
        "http://me:s3cret@mlflow.example:5000",
    ]
    done = CliRunner().invoke(app, command)
    assert "http://mlflow.example:5000/#/experiments/7/runs?viewStateShareKey=roads-ranking" in done.output
    assert "s3cret" not in done.output


def test_mlflow_tells_its_makers_nothing(study: TrackedStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    where = "mlflow.environment_variables"
    code = f"import tuner.tracking.calls, {where}; print({where}.MLFLOW_DISABLE_TELEMETRY.get())"
    monkeypatch.setattr(os, "execv", lambda *_: None)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "before")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    (tmp_path / "studies" / "mlflow.db").write_text("")
    CliRunner().invoke(app, ["ui", "--no-open", "--storage", study.storage.uri], catch_exceptions=False)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_page_is_opened_only_where_there_is_a_desktop(
    study: TrackedStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda *_: None)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: opened.append(command))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "before")
    (tmp_path / "studies" / "mlflow.db").write_text("")
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    if sys.platform == "linux":
        assert not has_desktop()
    for desktop, arguments in ((False, []), (True, ["--no-open"]), (True, [])):
        monkeypatch.setattr(tracking, "has_desktop", lambda desktop=desktop: desktop)
        CliRunner().invoke(app, ["ui", "--storage", study.storage.uri, *arguments], catch_exceptions=False)
        assert bool(opened) == (desktop and not arguments)
