"""Which cluster is meant, and what is said when it isn't there."""

import socket
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import StudyError
from tuner.jobs import study_job


def test_an_address_that_is_no_dashboard_s_is_refused() -> None:
    for address in ("auto", "ray://host:10001"):
        with (
            pytest.raises(StudyError, match=r"--address .*: the address of a dashboard is needed"),
            study_job.connected(None, address),
        ):
            pass


def test_a_dashboard_that_does_not_answer_is_reported_with_its_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StudyError, match="nobody answers there"), study_job.connected(None, f"127.0.0.1:{port}"):
        pass


def test_a_cluster_is_named_by_its_file_or_by_its_dashboard() -> None:
    with pytest.raises(StudyError, match="one of them is needed"), study_job.connected(None, None):
        pass
    with (
        pytest.raises(StudyError, match="a cluster file is needed there"),
        study_job.connected(Path("none.yaml"), None),
    ):
        pass


class NoJobs:
    """A cluster's dashboard on which nothing was submitted, and may be."""

    def list_jobs(self) -> list[object]:
        return []

    def submit_job(self, **_: object) -> str:
        pytest.fail("it was sent")


@pytest.mark.parametrize(
    ("storage", "tracking_uri"),
    [("s3://key:s3cret@bucket/studies", None), ("s3://bucket/studies", "http://me:s3cret@mlflow:5000")],
)
def test_a_secret_is_not_sent_to_where_the_dashboard_shows_it(
    tmp_path: Path, storage: str, tracking_uri: str | None
) -> None:
    dashboard: Any = NoJobs()
    jobs = study_job.Jobs(dashboard, "--cluster cluster.yaml")
    with pytest.raises(StudyError, match="an address without a secret is needed") as refused:
        jobs.submit("streets", Path("streets.toml"), tmp_path, storage, tracking_uri, [])
    assert "s3cret" not in str(refused.value)
