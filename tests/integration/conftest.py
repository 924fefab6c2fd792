"""What integration tests share, so that each study costs its own start and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.study_process import new_storage, ray_cluster
from tests.workloads.bucket import KEYS


@pytest.fixture
def storage(tmp_path: Path, database: Path) -> Path:
    """A storage that has no study yet."""
    return new_storage(tmp_path, database)


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """The address of a Ray of two CPUs that many tests' studies run on; its processes may use the tests' bucket."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in KEYS.items():
            patch.setenv(key, value)
        with ray_cluster(num_cpus=2) as cluster:
            yield str(cluster.address)
