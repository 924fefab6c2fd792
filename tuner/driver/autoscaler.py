"""Ray's autoscaler: what it may bring a cluster to, and which machines it asks the cloud for first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import yaml
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import (
    _default_utilization_scorer as ray_s_own_score,
)

_CONFIG, _OF = "--autoscaling-config=", "--gcs-address="


def limits(gcs_address: str) -> dict[str, float]:
    """The most CPUs and GPUs that the autoscaler of the Ray at this address (host:port) may have at a time.

    Both are 0 if it has none, or one on another machine: Ray tells nobody, so this machine's processes are asked. They
    need not be reached together.
    """
    config = _config(gcs_address)
    types: dict[str, Any] = (config or {}).get("available_node_types", {})
    return {resource: _most(resource, types, config or {}) for resource in ("CPU", "GPU")}


def available_first(
    node_resources: dict[str, Any],
    demands: list[dict[str, Any]],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple[float, ...] | None:
    """How well a node type suits the demands that wait, the more the better; None if none of them fits on it.

    Ray's own score, but a type that the cloud refused in the last half an hour comes after all that it didn't: spot
    machines fall back on others. cluster.yaml names it to Ray in RAY_AUTOSCALER_UTILIZATION_SCORER.
    """
    score = ray_s_own_score(node_resources, demands, node_type, node_availability_summary=node_availability_summary)
    if score is None:
        return None
    record = node_availability_summary.node_availabilities.get(node_type)
    gpu_nodes_are_wanted, *fit = score
    return gpu_nodes_are_wanted, record is None or record.is_available, *fit


def _config(gcs_address: str) -> dict[str, Any] | None:
    for process in psutil.process_iter(["cmdline"]):
        command: list[str] = process.info["cmdline"] or []
        path = next((word.removeprefix(_CONFIG) for word in command if word.startswith(_CONFIG)), None)
        if path and _OF + gcs_address in command:
            loaded: dict[str, Any] = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
            return loaded
    return None


def _most(resource: str, types: dict[str, Any], config: dict[str, Any]) -> float:
    """With the nodes that have most of it, as many as there may be of their types and of all together."""
    most = config.get("max_workers", 0)
    each = [
        float(node["resources"].get(resource, 0))
        for name, node in types.items()
        if name != config.get("head_node_type")
        for _ in range(min(most, node.get("max_workers", most)))
    ]
    return sum(sorted(each, reverse=True)[:most])
