"""Studies on a Ray that is there already, of several nodes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.study_process import curves, events, ray_cluster, running, show
from tests.studies import write_study
from tests.waiting import wait_for
from tests.workloads.replay import Config, score

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray's own test cluster leaves files open
]

WHAT_IS_LEFT = """
import ray, sys
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
groups = [g for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
free = ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"]
print("left", len(groups), free)
"""


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A head with one CPU; tests add what they need."""
    with ray_cluster(num_cpus=1) as cluster:
        yield cluster


def left_on(cluster: Any) -> str:
    """How many placement groups are left, and whether every CPU is free."""
    command = [sys.executable, "-c", WHAT_IS_LEFT, cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout.strip() or done.stderr


def truth(x: float, epochs: int) -> list[tuple[int, float]]:
    config = Config(x=x, epochs=epochs)
    return [(epoch, score(config, epoch)) for epoch in range(1, epochs + 1)]


def test_trials_survive_a_lost_node_and_run_on_a_new_one(nodes: Any, tmp_path: Path, storage: Path) -> None:
    going = nodes.add_node(num_cpus=1)
    file = write_study(
        tmp_path / "moving.toml",
        budget={"trials": 6},
        scheduler={"name": "none"},
        fixed={"epochs": 6, "step_seconds": 0.5},
    )
    folder = storage / "moving"
    with running("run", file, "--storage", storage, "--address", nodes.address) as study:
        wait_for(lambda: {event["trial"] for event in events(folder) if event["event"] == "report"} >= {1, 2})
        nodes.remove_node(going, allow_graceful=False)
        wait_for(lambda: any(event["event"] == "end" for event in events(folder)))
        nodes.add_node(num_cpus=1)
        assert study.wait(400) == 0, study.output
    found = show(storage, "moving")
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 6, study.output
    for trial in found["trials"]:
        assert curves(folder)[trial["id"]] == truth(trial["params"]["x"], 6)
    starts = [event["trial"] for event in events(folder) if event["event"] == "start"]
    assert len(starts) == 7, "one trial was on the node that went"
    assert left_on(nodes) == "left 0 True"
    assert "raylet" not in study.output.lower(), "Ray's own messages about it, which are long"


@pytest.mark.long
def test_ctrl_c_and_kill_leave_nothing_of_a_group_whose_ranks_sit_on_two_nodes(
    nodes: Any, tmp_path: Path, storage: Path
) -> None:
    nodes.add_node(num_cpus=1)
    log = tmp_path / "log"
    file = write_study(
        tmp_path / "spread.toml",
        budget={"trials": 2},
        resources={"workers": 2},
        fixed={"epochs": 5, "step_seconds": 0.3, "collective": True, "log": log},
        scheduler={"name": "none"},
    )
    folder = storage / "spread"
    address = ("--storage", storage, "--address", nodes.address)

    def ranks_alive() -> set[int]:
        return {pid for line in log.read_text().splitlines() if psutil.pid_exists(pid := int(line.split()[3]))}

    with running("run", file, *address) as study:
        wait_for(lambda: any(event["event"] == "report" for event in events(folder)))
        study.tree()
        study.interrupt()
        assert study.wait() == 130, study.output
        assert study.left_behind() == []
    wait_for(lambda: not ranks_alive(), 20)
    with running("resume", "spread", *address) as study:
        reports = len(events(folder))
        wait_for(lambda: len(events(folder)) > reports + 2)
        study.kill()
        assert study.left_behind() == []
    wait_for(lambda: not ranks_alive(), 20)
    wait_for(lambda: left_on(nodes) == "left 0 True", 40)
    for trial in show(storage, "spread")["trials"]:
        # What two ranks on two nodes reported, before and after the interruption, is what one process would have.
        found = curves(folder)[trial["id"]]
        assert found == truth(trial["params"]["x"], 5)[: len(found)]
