"""Studies on a Ray whose nodes are drained: announced to go, as a cloud's spot machines are."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated import autoscaler_pb2

from tests.integration.study_process import curves, events, ray_cluster, running, show, truth
from tests.studies import write_study
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray's own test cluster leaves files open
]

FAILURES = {"max_retries": 0}  # a retry that was counted would fail the trial


def drain(cluster: Any, node: Any, seconds: int) -> None:
    """What `ray drain-node` does."""
    reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]  # generated
    deadline_ms = int(1000 * (time.time() + seconds))
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "spot", deadline_ms)
    assert accepted, why


def count(folder: Path, kind: str) -> int:
    return sum(event["event"] == kind for event in events(folder))


def reports(folder: Path, trial: int) -> int:
    return sum(event["event"] == "report" and event["trial"] == trial for event in events(folder))


def test_trials_of_a_drained_node_move_with_a_checkpoint_and_no_retry_is_counted(tmp_path: Path, storage: Path) -> None:
    file = write_study(
        tmp_path / "moving.toml",
        budget={"trials": 3},
        scheduler={"name": "none"},
        failures=FAILURES,
        # After its first checkpoint a trial would write none for longer than this study takes.
        fixed={"epochs": 60, "step_seconds": 0.5, "snapshots": True, "write_seconds": 1.0},
    )
    folder = storage / "moving"
    with ray_cluster(num_cpus=0) as cluster:
        first, second = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
        with running("run", file, "--storage", storage, "--address", cluster.address) as study:
            wait_for(lambda: reports(folder, 1) > 4 and reports(folder, 2) > 4)
            drain(cluster, first, 600)
            wait_for(lambda: count(folder, "start") == 3)
            assert count(folder, "back") == 0, "nothing is trained twice"
            cluster.add_node(num_cpus=1)
            wait_for(lambda: count(folder, "lost") == 1)  # Ray ends a drained node that has nothing left to do
            # Gone before the next report.
            drain(cluster, second, 1)
            cluster.remove_node(second, allow_graceful=False)
            wait_for(lambda: count(folder, "lost") == 2)
            cluster.add_node(num_cpus=1)
            assert study.wait(400) == 0, study.output
        assert study.left_behind() == []
    trials = show(storage, "moving")["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 3, study.output
    for trial in trials:
        assert curves(folder)[trial["id"]] == truth(trial["params"]["x"], 60)
    assert count(folder, "draining") == 2
    assert re.search(r"will be gone in [56]\d\d s: trial \d.* moves? at", study.output), study.output


@pytest.mark.long
def test_a_trial_of_two_ranks_moves_when_one_of_its_nodes_is_drained(tmp_path: Path, storage: Path) -> None:
    file = write_study(
        tmp_path / "pair.toml",
        budget={"trials": 2},
        resources={"workers": 2},
        scheduler={"name": "none"},
        failures=FAILURES,
        fixed={"epochs": 10, "step_seconds": 0.4, "collective": True, "snapshots": True, "write_seconds": 1.0},
    )
    folder = storage / "pair"
    with ray_cluster(num_cpus=0) as cluster:
        going = cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        with running("run", file, "--storage", storage, "--address", cluster.address) as study:
            wait_for(lambda: reports(folder, 1) > 3)
            drain(cluster, going, 600)
            cluster.add_node(num_cpus=1)
            assert study.wait(400) == 0, study.output
        assert study.left_behind() == []
    trials = show(storage, "pair")["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 2, study.output
    for trial in trials:
        assert curves(folder)[trial["id"]] == truth(trial["params"]["x"], 10)
    assert (count(folder, "start"), count(folder, "back"), count(folder, "draining")) == (3, 0, 1)
