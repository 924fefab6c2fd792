"""What is said before a tunnel is opened; tests/cluster opens real ones."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuner.cli.app import app
from tuner.errors import StudyError


@pytest.fixture
def cluster_file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.touch()
    return path


def test_what_listens_on_the_port_already_does_not_pass_for_the_cluster_s_mlflow(cluster_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = CliRunner().invoke(app, ["ui", "--cluster", str(cluster_file), "--port", str(port)])
    assert isinstance(done.exception, StudyError)
    assert str(done.exception) == f"--port {port}: a free port is needed, got one in use; name another"


@pytest.mark.parametrize(
    "option", [("--storage", "s3://bucket/studies"), ("--tracking-uri", "http://host:5000"), ("--host", "0.0.0.0")]
)
def test_an_option_that_a_cluster_s_mlflow_has_no_use_for_is_refused(
    cluster_file: Path, option: tuple[str, str]
) -> None:
    done = CliRunner().invoke(app, ["ui", "--cluster", str(cluster_file), *option])
    assert isinstance(done.exception, StudyError)
    assert f"{option[0]}, --cluster: one of them is needed" in str(done.exception)
