"""python -m tuner.spot beside a real Ray, with a metadata server like the clouds'. Over hosts: tests/cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from tests.integration.study_process import ray_cluster
from tests.metadata_server import metadata_server

# A node that is drained ends its Ray as soon as it has nothing to do: this keeps it busy, and waits for it.
BUSY = """
import sys, time, ray
from tuner.checks.draining import draining_nodes
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
@ray.remote(num_cpus=1)
class Busy:
    def here(self): pass
busy = Busy.remote()
ray.get(busy.here.remote())
print("busy", flush=True)
while not (found := draining_nodes()):
    time.sleep(0.2)
print(*[f"{id} {at}" for id, at in found.items()])
"""


@pytest.fixture
def notice(tmp_path: Path) -> Path:
    """The file that says when the machine is taken away."""
    return tmp_path / "notice"


@pytest.fixture
def server(notice: Path) -> Iterator[str]:
    with metadata_server(notice) as address:
        yield address


def watcher(cloud: str, address: str, server: str) -> subprocess.Popen[str]:
    """The process that a cluster file starts on a worker. The machine has a proxy for the internet."""
    # Ray's connections are gRPC's, which must find the other nodes without the proxy on any such machine.
    metadata = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{server}/", "GCE_METADATA_HOST": server}
    return subprocess.Popen(
        [sys.executable, "-m", "tuner.spot", cloud, "--address", address],
        env={**os.environ, **metadata, "http_proxy": "http://127.0.0.1:9", "no_grpc_proxy": address.partition(":")[0]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    """The next one that it prints; "" at its end."""
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore")  # Ray's own test cluster leaves files open
@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_node_is_drained_when_its_cloud_announces_that_it_takes_the_machine_away(
    cloud: str, notice: Path, server: str
) -> None:
    with (
        ray_cluster(num_cpus=1) as cluster,
        subprocess.Popen([sys.executable, "-c", BUSY, cluster.address], stdout=subprocess.PIPE, text=True) as busy,
        watcher(cloud, cluster.address, server) as process,
    ):
        assert line(busy) == "busy\n"
        assert f"waiting for {cloud}'s notice" in line(process)
        assert psutil.Process(process.pid).memory_info().rss < 60e6, "every worker has one"
        with watcher(cloud, cluster.address, server) as second:
            assert "another process on this machine waits for the notice already" in line(second)
        assert second.returncode == 0
        notice.write_text("broken")
        assert "the metadata server doesn't answer, asking again: HTTP Error 500" in line(process)
        until = datetime.fromtimestamp(int(time.time()) + 120, UTC)
        notice.write_text(until.strftime("%Y-%m-%dT%H:%M:%SZ"))
        said = re.search(r"takes this machine away in (\d+) s: its Ray node is drained", line(process))
        assert said is not None
        assert 20 < int(said[1]) <= (120 if cloud == "aws" else 30)
        assert "Ray knows it" in line(process)
        assert process.wait(30) == 0
        node, at = line(busy).split()
        assert node == cluster.head_node.node_id
        if cloud == "aws":
            assert float(at) == until.timestamp()
        else:
            assert -60 < float(at) - time.time() <= 30, "Google says that it does, not when"


@pytest.mark.slow
def test_a_machine_of_no_cloud_is_told_in_a_sentence(notice: Path, server: str) -> None:
    notice.write_text("broken")
    cloud = "gcp"
    with watcher(cloud, "auto", server) as process:
        assert "the metadata server doesn't answer, asking again" in line(process)
        assert line(process) == (
            f"error: {cloud}: the metadata server of a machine of this cloud is needed, got: HTTP Error 500: Internal "
            "Server Error: run this on such a machine\n"
        )
    assert process.returncode == 2


def test_a_ray_that_cant_be_told_is_tried_until_the_machine_is_gone(notice: Path, server: str) -> None:
    notice.write_text(datetime.fromtimestamp(int(time.time()) + 3, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    with watcher("aws", "127.0.0.1:9", server) as process:
        assert "takes this machine away" in line(process)
        assert line(process).startswith("error: --address 127.0.0.1:9: a running Ray is needed there")
    assert process.returncode == 2
    assert time.time() >= datetime.fromisoformat(notice.read_text()).timestamp()
