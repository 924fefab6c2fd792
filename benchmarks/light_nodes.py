"""A cloud for Ray's autoscaler whose machines are raylets on this machine, so that hundreds of them fit into it.

A node of Ray is a raylet of 14 to 30 MB, and Python processes of 190 MB. Here the nodes share those of the head:
its agent sets the environment of their workers, nobody reads their logs and metrics, and they start no worker until
there is work. What the driver, Ray's GCS and the autoscaler see of them is the same.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ray._private import node, services
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

MODULE = f"{__name__}.LightNodes"
"""What a cluster file gives as its provider's module."""
HEAD_ID = "f" * 51 + "00000"
"""What Ray's provider takes for the head's id."""
TIMERS = {
    "raylet_report_resources_period_milliseconds": "1000",
    "raylet_check_gc_period_milliseconds": "10000",
    "raylet_check_for_unexpected_worker_disconnect_interval_ms": "10000",
    "kill_idle_workers_interval_ms": "5000",
    "object_manager_timer_freq_ms": "2000",
    "debug_dump_period_milliseconds": "0",
    "metrics_report_interval_ms": "60000",
    "event_stats": "0",
}
"""Ray's settings by which a raylet looks less often at what hardly changes. Among 25 it then takes half of the CPU."""
_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


class LightNodes(FakeMultiNodeProvider):
    """Ray's own provider of nodes that are processes of one machine, with less in each node.

    They come one after the other, seconds_between_nodes of the provider's configuration apart: the processes of many
    that came at once would start for minutes on a few cores.
    """

    _coming = threading.Lock()

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: dict[str, float], labels: Any
    ) -> None:
        # A node finds its memory itself, and refuses to be told.
        counted = {name: amount for name, amount in resources.items() if name != "memory"}
        with self._coming, _raylets_alone():
            time.sleep(self.provider_config["seconds_between_nodes"])
            super()._create_node_with_resources_and_labels(node_config, tags, count, counted, labels)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _raylets_alone() -> Iterator[None]:
    """A block in which nodes start without processes of Python."""
    start, owner = services.start_ray_process, cast(Any, node.Node)
    monitor = owner.start_log_monitor
    services.start_ray_process = lambda command, *rest, **named: start(_alone(command), *rest, **named)
    owner.start_log_monitor = lambda _: None
    try:
        yield
    finally:
        services.start_ray_process, owner.start_log_monitor = start, monitor


def _alone(command: list[str]) -> list[str]:
    """The command that starts a raylet, changed so that it takes the head's agents for its own."""
    nothing = subprocess.list2cmdline(["sleep", "infinity"])
    without = {"dashboard_agent_command": nothing, "runtime_env_agent_command": nothing}
    changes = {**without, "num_prestart_python_workers": "0"}
    given = dict(word.removeprefix("--").split("=", 1) for word in command if word.startswith("--") and "=" in word)
    # A raylet reads from these files where its agents listen.
    for kind in _PORTS:
        of_head, own = (Path(given["session_dir"], f"{kind}_{id}") for id in (HEAD_ID, given["node_id"]))
        shutil.copyfile(of_head, own)
    return [f"--{key}={changes[key]}" if (key := _key(word)) in changes else word for word in command]


def _key(word: str) -> str:
    return word.removeprefix("--").partition("=")[0]
