"""What Ray's autoscaler may bring, and what it starts first, by Ray's own scheduler and this project's cluster file."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.node_launch_exception import NodeLaunchException

from tuner.driver import autoscaler

G5_XLARGE, G5_12XLARGE = {"CPU": 4, "GPU": 1, "memory": 12 * 10**9}, {"CPU": 48, "GPU": 4, "memory": 144 * 10**9}
ONE_GPU = {"CPU": 1.0, "GPU": 1.0, "memory": 1.0}


def cluster() -> dict[str, Any]:
    """cluster.yaml, as it lies on a head that `ray up` started: with what each type of machine has."""
    loaded = yaml.safe_load((Path(__file__).parents[3] / "cluster.yaml").read_text(encoding="utf-8"))
    config: dict[str, Any] = prepare_config(loaded)
    for name, node in config["available_node_types"].items():
        if name != "head":
            node["resources"] = G5_XLARGE if name.startswith("gpu1") else G5_12XLARGE
    return config


def started(demands: list[dict[str, Any]], refused: list[str]) -> dict[str, int]:
    """What the autoscaler asks the cloud for, which has refused some types."""
    config, tracker = cluster(), NodeProviderAvailabilityTracker(timer=lambda: 100.0)
    for name in refused:
        error = NodeLaunchException("InsufficientInstanceCapacity", "none is left", None)
        tracker.update_node_availability(name, 50, error)
    score: Any = partial(autoscaler.available_first, node_availability_summary=tracker.summary())
    chosen, left = get_nodes_for(
        config["available_node_types"], {"head": 1}, "head", config["max_workers"], demands, score
    )
    assert not left
    return dict(chosen)


def test_a_trial_gets_the_smallest_machine_and_a_spot_one() -> None:
    assert started([ONE_GPU], refused=[]) == {"gpu1_spot": 1}
    assert started([{"CPU": 4.0, "GPU": 4.0}], refused=[]) == {"gpu4_spot": 1}


def test_where_the_cloud_has_no_spot_machines_others_are_started() -> None:
    assert started([ONE_GPU], refused=["gpu1_spot"]) == {"gpu1_on_demand": 1}
    assert started([{"CPU": 4.0, "GPU": 4.0}], refused=["gpu4_spot"]) == {"gpu4_on_demand": 1}


def test_where_the_cloud_has_none_at_all_it_is_asked_again() -> None:
    assert started([ONE_GPU], refused=["gpu1_spot", "gpu1_on_demand", "gpu4_spot", "gpu4_on_demand"]) == {
        "gpu1_spot": 1
    }


def test_the_limits_are_those_of_the_autoscaler_that_serves_this_ray(tmp_path: Path) -> None:
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump(cluster()))
    arguments = [f"--autoscaling-config={file}", "--gcs-address=192.0.2.11:6379"]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *arguments]) as process:
        try:
            # Four machines at most, two of them with four GPUs and 48 CPUs.
            assert autoscaler.limits("192.0.2.11:6379") == {"CPU": 2 * 48 + 2 * 4, "GPU": 2 * 4 + 2 * 1}
            assert autoscaler.limits("192.0.2.12:6379") == {"CPU": 0, "GPU": 0}
            file.unlink()
            assert autoscaler.limits("192.0.2.11:6379") == {"CPU": 0, "GPU": 0}, "another user's file, for example"
        finally:
            process.kill()
