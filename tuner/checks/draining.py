"""Nodes of a Ray that are being drained: they will soon be gone, and Ray places nothing new on them.

A node is drained by `ray drain-node`, by `python -m tuner.spot`, by Ray's newer autoscaler, and by `ray start --block`
when it gets SIGTERM, as Kubernetes sends it.

Ray has no public calls for this: the private ones are used here and nowhere else, and this module's tests check them.
"""

from __future__ import annotations

import logging

import ray
import ray._private.state
import ray.exceptions
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated import autoscaler_pb2

from tuner.checks.ray_access import reachable
from tuner.errors import StudyError, first_line


def draining_nodes() -> dict[str, float | None]:
    """The ids of the nodes that are being drained, with the time at which each will be gone.

    The time is in seconds since 1970; None if it isn't known. Ray must be connected.
    """
    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return {node: deadline_ms / 1000 if deadline_ms else None for node, deadline_ms in found.items()}


def drain_this_node(address: str, gone_at: float, why: str) -> None:
    """Announce to the Ray at an address that the node on this machine will be gone at `gone_at`, seconds since 1970.

    Raises StudyError if Ray can't be told.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    with reachable(address) as found:
        try:
            ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR, namespace="tuner")
            reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]  # generated
            node = ray.get_runtime_context().get_node_id()
            accepted, refusal = GcsClient(address=found).drain_node(node, reason, why, int(1000 * gone_at))
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise StudyError(f"--address {address}: that Ray can't be told: {first_line(error)}") from None
        finally:
            ray.shutdown()
    if not accepted:
        raise StudyError(f"--address {address}: that Ray doesn't drain this machine's node: {refusal}")
