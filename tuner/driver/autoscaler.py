"""Ray's autoscaler: how large it can make a cluster, and which node types it requests first."""

from __future__ import annotations

import contextlib
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
    """The most CPUs and the most GPUs to which the autoscaler of the Ray at an address (host:port) can grow it.

    Both are 0 if it has no autoscaler on this machine: Ray doesn't publish the limits, so they are read from the config
    file on the autoscaler's command line. The cluster may not be able to have both maxima at the same time.
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
    """Score a node type for the pending demands, higher is better; None if none of them fits on it.

    Ray's own score, except that a type which the cloud refused in the last half hour ranks behind all others: so spot
    machines fall back on on-demand ones. cluster.yaml sets it by RAY_AUTOSCALER_UTILIZATION_SCORER.
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
            # Of another user or in another container, the file may not be there or not be readable.
            with contextlib.suppress(OSError):
                loaded: dict[str, Any] = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
                return loaded
    return None


def _most(resource: str, types: dict[str, Any], config: dict[str, Any]) -> float:
    """The most of a resource that the cluster can have, within the limits of each node type and of all nodes."""
    most = config.get("max_workers", 0)
    each = [
        float(node["resources"].get(resource, 0))
        for name, node in types.items()
        if name != config.get("head_node_type")
        for _ in range(min(most, node.get("max_workers", most)))
    ]
    return sum(sorted(each, reverse=True)[:most])
