"""A study's runs in PostgreSQL, behind MLflow's server: Debian's own database, started for the test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow_server import mlflow_server
from tests.tracked_study import EXPECTED, TrackedStudy, lines
from tests.tuner.tracking.test_views import views

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
PASSWORD = "s3cret"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(not PROGRAMS, reason="needs PostgreSQL (Debian: apt-get install postgresql)"),
]


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of an empty database."""
    # Not in pytest's folder, which each pytest closes to other users: the database is another's.
    programs, folder = PROGRAMS[-1].parent, Path(tempfile.mkdtemp(prefix="tuner-postgresql-"))
    account = None
    if os.geteuid() == 0:  # it refuses to run as root
        account = next((user for user in ("postgres", "nobody") if _known(user)), None)
        shutil.chown(folder, account or "nobody")
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    data = folder / "data"
    quiet = {"check": True, "user": account, "stdout": subprocess.DEVNULL, "cwd": folder}
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "me", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"],
        **quiet,  # type: ignore[call-overload]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    control = [programs / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], **quiet)  # type: ignore[call-overload]
    try:
        yield f"postgresql+psycopg2://me:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]
        shutil.rmtree(folder)


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def test_postgresql_behind_a_server_holds_what_an_sqlite_file_does(tmp_path: Path, postgresql: str) -> None:
    with mlflow_server(tmp_path, postgresql) as server:
        study = TrackedStudy(tmp_path / "studies", server.uri)
        study.write(lines())
        for _ in range(2):
            assert study.track() == 0
            assert study.seen() == EXPECTED
            (study.events.parent / "tracking.json").unlink()
        from mlflow import MlflowClient

        experiment = MlflowClient(server.uri).get_experiment_by_name("roads")
        assert experiment is not None
        assert set(views(experiment.tags)) == {"Ranking", "Charts"}
