"""What is said of a Ray that can't be used from here, and that a Ray of our own changes nothing for others."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.study_process import ROOT
from tuner.checks import ray_access
from tuner.checks.ray_access import private_token, reachable
from tuner.errors import StudyError

HEAD = """
import sys, warnings
warnings.simplefilter("ignore")
import ray.cluster_utils
cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"include_dashboard": False, "num_cpus": 1})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
OURS = """
import ray
from tuner.driver.cluster import connected
with connected(None):
    print(len(ray.nodes()), ray.get(ray.remote(lambda: 1).remote()))
"""


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No token in the environment, and none in the home folder."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_access._reload_settings()
    yield
    monkeypatch.undo()
    ray_access._reload_settings()


def error_message(address: str) -> str:
    """The error for an address; checks that it comes within seconds and is one sentence."""
    began = time.monotonic()
    with pytest.raises(StudyError) as caught, reachable(address):
        pass
    assert time.monotonic() - began < 20
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--address {address}: ")
    return str(caught.value)


def test_an_address_where_nobody_listens_is_an_error() -> None:
    assert "a running Ray is needed there" in error_message("127.0.0.1:1")


def test_the_address_of_a_ray_client_or_of_a_dashboard_is_an_error() -> None:
    assert "this is the address of a Ray client, and HOST:PORT or auto is needed" in error_message(
        "ray://127.0.0.1:10001"
    )
    assert "python -m tuner submit STUDY_FILE --address http://HEAD:8265" in error_message("http://127.0.0.1:8265")


def test_a_port_of_another_service_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_access, "_TIMEOUT_SECONDS", 1.0)
    with http.server.HTTPServer(("", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert "the head of a Ray is needed there, got something else" in error_message(
                f"127.0.0.1:{server.server_port}"
            )
        finally:
            server.shutdown()


def test_a_port_that_never_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_access, "_TIMEOUT_SECONDS", 1.0)
    with socket.create_server(("", 0)) as silent:
        assert "the head of a Ray is needed there, got something else" in error_message(
            f"127.0.0.1:{silent.getsockname()[1]}"
        )


def test_a_ray_of_our_own_has_a_token_that_is_in_no_file_and_gone_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with private_token():
        assert os.environ["RAY_AUTH_MODE"] == "token"
        first = os.environ["RAY_AUTH_TOKEN"]
    assert "RAY_AUTH_MODE" not in os.environ
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("RAY_AUTH_TOKEN", "that of a cluster")
    with private_token():
        assert os.environ["RAY_AUTH_TOKEN"] not in ("that of a cluster", first)
    assert os.environ["RAY_AUTH_TOKEN"] == "that of a cluster"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with private_token():
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.slow
def test_a_ray_of_our_own_leaves_no_token_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OURS], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.split() == ["1", "1"], done.stderr
    assert not (tmp_path / ".ray" / "auth_token").exists()


@pytest.fixture
def head(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a Ray in a process of its own. param: the token that it wants, None for none."""
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": request.param} if request.param else {}
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **settings}
    command = [sys.executable, "-c", HEAD]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate("", timeout=60)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("head", ["s3cret"], indirect=True)
def test_a_ray_that_requires_a_token_is_reached_with_it_and_refused_in_a_sentence_without(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "that Ray requires a token, and none is set here" in error_message(head)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "that Ray requires a token, and none is set here" in error_message(head)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    said = error_message(head)
    assert "that Ray rejects the token that is set here" in said
    assert "another'" not in said
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "that Ray requires a token, and RAY_AUTH_MODE is disabled" in error_message(head)
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("s3cret")
    with reachable(head) as address:
        assert address == head
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.setattr(psutil, "net_if_addrs", dict)
    monkeypatch.setattr(ray_access, "_raylet_of", lambda nodes: False)
    assert f"this machine must be a node of that Ray (it has {head.partition(':')[0]})" in error_message(head)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("head", [None], indirect=True)
def test_a_ray_without_tokens_is_sent_none_even_if_one_is_stored(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("left by another Ray")
    with reachable(head):
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "RAY_AUTH_MODE=token is set, and that Ray has no tokens" in error_message(head)
