"""The nodes that a study runs on. Each is checked before its first trial; a node that fails gets no trials."""

from __future__ import annotations

import pickle
import secrets
import socket
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
import ray.exceptions
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.checks import node_check
from tuner.checks.draining import draining_nodes
from tuner.events.event import Event, NodeDraining, NodeLeftOut, NodeLost
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage
from tuner.worker.messages import Action

_POLL_SECONDS = 2.0


class Placement(NamedTuple):
    """Whether an attempt of a trial may begin on the nodes that Ray gave it."""

    action: Action
    nodes: tuple[str, ...]
    """The nodes' names."""


@dataclass
class _Node:
    id: str
    name: str
    check: Any
    """Ray's reference to the check's result; None if there is no check to wait for."""
    problem: str | None = None
    draining: bool = False
    """Whether it was announced that it will be gone. It stays so when the node has gone."""
    gone: bool = False


class Nodes:
    """The nodes of a cluster and their checks. `placement` and `are_draining` may be called in any thread."""

    def __init__(self, spec: StudySpec, study: Storage, fingerprint: str | None):
        """fingerprint: what tells the driver's data from others; None if the workload doesn't say."""
        self._spec = spec
        self._nodes: dict[str, _Node] = {}
        self._polled_at = -_POLL_SECONDS
        token = secrets.token_hex(16)
        study.write_text(node_check.MARKER, token)
        self._expected = node_check.software(spec.workload)
        self._study = pickle.dumps((spec, study, token, fingerprint))
        # Sent by value, so that a node without this package can run it.
        cloudpickle.register_pickle_by_value(node_check)  # type: ignore[no-untyped-call]
        # One call for each process: the memory of the data that prepare loads is freed.
        self._task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(node_check.problem)

    def poll(self) -> list[Event]:
        """Events of nodes that were left out, drained or lost since the last call. Starts the checks of new nodes."""
        events: list[Event] = []
        ended = [node for node in self._nodes.values() if node.check and not node.gone and _is_ready(node.check)]
        # Looked at after a check has ended: one that failed with its node says nothing against the node.
        if ended or time.monotonic() - self._polled_at > _POLL_SECONDS:
            self._polled_at = time.monotonic()
            events += self._compare({node["NodeID"]: node for node in alive_nodes()}, draining_nodes())
        for node in ended:
            if not node.gone:
                # On a node that is drained no check can start.
                node.problem = None if node.draining else _result(node.check)
                node.check = None
                if node.problem is not None:
                    events.append(NodeLeftOut(time.time(), node.name, node.problem))
        return events

    def _compare(self, alive: dict[str, dict[str, Any]], draining: dict[str, float | None]) -> list[Event]:
        events: list[Event] = []
        for node in self._nodes.values():
            if not node.gone and node.id not in alive:
                node.gone = True
                events.append(NodeLost(time.time(), node.name))
        for id, found in alive.items():
            # A head without CPUs and GPUs gets no trials, so it needs no data.
            if id not in self._nodes and (found["Resources"].get("CPU") or found["Resources"].get("GPU")):
                # The driver's own node too: its Ray may have been started with another environment than the driver.
                check = None if id in draining else self._check(id)
                self._nodes[id] = _Node(id, f"{found['NodeManagerHostname']} ({found['NodeManagerAddress']})", check)
        for node in self._nodes.values():
            if node.id in draining and not node.draining and not node.gone:
                node.draining = True
                events.append(NodeDraining(time.time(), node.name, draining[node.id]))
        return events

    def _check(self, node: str) -> Any:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        task = self._task.options(scheduling_strategy=there)
        return task.remote(self._expected, self._spec.workload, self._study)

    def placement(self, nodes: tuple[str, ...]) -> Placement:
        """Whether an attempt may begin on these nodes, given by their ids. May be called in any thread."""
        known = [self._nodes.get(id) for id in nodes]
        names = tuple(node.name if node else id for id, node in zip(nodes, known, strict=True))
        if any(node and (node.problem or node.draining) for node in known):
            return Placement(Action.STOP, names)
        checked = all(node and node.check is None for node in known)
        return Placement(Action.CONTINUE if checked else Action.WAIT, names)

    def are_draining(self, nodes: tuple[str, ...]) -> bool:
        """Whether one of these nodes, given by their ids, will soon be gone, or has gone as announced."""
        return any(id in self._nodes and self._nodes[id].draining for id in nodes)

    @property
    def left_out(self) -> frozenset[str]:
        """The ids of the nodes that get no trials: they failed their check, or will soon be gone."""
        without = (
            node.id for node in self._nodes.values() if node.problem is not None or (node.draining and not node.gone)
        )
        return frozenset(without)

    @property
    def being_checked(self) -> list[str]:
        """The names of the nodes that are being checked."""
        return [node.name for node in self._nodes.values() if node.check is not None and not node.gone]

    @property
    def some_passed(self) -> bool:
        """Whether at least one node has passed its check."""
        return any(node.check is None and node.problem is None and not node.draining for node in self._nodes.values())

    @property
    def none_left(self) -> bool:
        """Whether all nodes so far were left out; False if there were none."""
        return bool(self._nodes) and len(self.problems) == len(self._nodes)

    @property
    def problems(self) -> list[str]:
        """Name and reason of each node that was left out."""
        return [f"{node.name}: {node.problem}" for node in self._nodes.values() if node.problem is not None]


def this_machine(nodes: tuple[str, ...]) -> Placement:
    """The placement where the study started its own Ray: on this machine, which needs no check."""
    return Placement(Action.CONTINUE, (socket.gethostname(),) * len(nodes))


def _is_ready(check: Any) -> bool:
    return bool(ray.wait([check], timeout=0)[0])


def _result(check: Any) -> str | None:
    try:
        found: str | None = ray.get(check)
    except ray.exceptions.RayTaskError as error:
        return f"its check failed: {str(error).strip().rpartition(chr(10))[2]}"
    except ray.exceptions.RayError as error:
        return f"no process could run there: {str(error).strip().partition(chr(10))[0]}"
    return found


def alive_nodes() -> list[dict[str, Any]]:
    """Ray's records of the nodes that are alive."""
    table: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in table if node["Alive"]]
