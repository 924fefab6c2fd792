"""Which nodes of a Ray are being drained: they will soon be gone, and Ray places nothing new on them.

A node is drained by `ray drain-node`, by Ray's newer autoscaler, and by `ray start --block` when it gets SIGTERM, as
Kubernetes sends it.

Ray has no public call for this: the private one is used here and nowhere else, and the test of this module checks it.
"""

from __future__ import annotations

import ray._private.state


def draining_nodes() -> dict[str, float | None]:
    """The ids of the nodes that are being drained, with the time at which each will be gone.

    The time is in seconds since 1970; None if it isn't known. Ray must be connected.
    """
    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return {node: deadline_ms / 1000 if deadline_ms else None for node, deadline_ms in found.items()}
