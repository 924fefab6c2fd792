"""What holds for all tests."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workloads.bucket import KEYS, bucket_server

# Tests run side by side: two threads in each would only wait for each other. torch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: they mostly wait for Ray, and short ones then fill what they leave of the cores."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, to be copied: making one takes seconds of every new storage."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings(action="ignore"):
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of an S3 server with a bucket that many tests share: each has a folder of its own in it."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in KEYS.items():
            patch.setenv(key, value)
        with bucket_server(tmp_path_factory.mktemp("moto") / "log") as server:
            yield server
