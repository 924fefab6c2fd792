"""What several tests of tracking share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow_server import MlflowServer, mlflow_server
from tests.tracked_study import TrackedStudy


@pytest.fixture
def study(tmp_path: Path, database: Path) -> TrackedStudy:
    """With MLflow in an SQLite file beside it."""
    (tmp_path / "mlflow.db").write_bytes(database.read_bytes())
    return TrackedStudy(tmp_path)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[MlflowServer]:
    """An MLflow server that many tests share: each has a study of its own name."""
    with mlflow_server(tmp_path_factory.mktemp("server"), database) as running:
        yield running
