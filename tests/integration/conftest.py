"""What integration tests share, so that each study costs its own start and no more."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.study_process import ray_cluster


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes seconds of every new storage."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings(action="ignore"):
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def storage(tmp_path: Path, database: Path) -> Path:
    """A storage that has no study yet."""
    folder = tmp_path / "studies"
    folder.mkdir()
    shutil.copyfile(database, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """The address of a Ray of two CPUs that many tests' studies run on."""
    with ray_cluster(num_cpus=2) as cluster:
        yield str(cluster.address)
