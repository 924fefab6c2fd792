"""Which cluster is meant, and what is said when it isn't there."""

import socket
from pathlib import Path

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
