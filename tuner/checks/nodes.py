"""The nodes that a study runs on: each is checked before its first trial, and one that fails gets none."""

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
from tuner.events.event import Event, NodeLeftOut, NodeLost
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage
from tuner.worker.messages import Action

_POLL_SECONDS = 2.0


class Placement(NamedTuple):
    """The answer to an attempt that wants to begin."""

    action: Action
    nodes: tuple[str, ...]
    """The names of its nodes."""


@dataclass
class _Node:
    id: str
    name: str
    check: Any
    """Ray's reference of the check's result; None when that is known."""
    problem: str | None = None
    gone: bool = False


class Nodes:
    """A cluster's nodes, as a run of a study knows them. All methods but `placement` belong to one thread."""

    def __init__(self, spec: StudySpec, study: Storage):
        self._spec = spec
        self._nodes: dict[str, _Node] = {}
        self._polled_at = -_POLL_SECONDS
        # What a check would look at there has been looked at by this process.
        self._here: str = ray.get_runtime_context().get_node_id()
        token = secrets.token_hex(16)
        study.write_text(node_check.MARKER, token)
        self._expected = node_check.software(spec.workload)
        self._study = pickle.dumps((spec, study, token))
        # By value: a node without this package must be able to run it.
        cloudpickle.register_pickle_by_value(node_check)  # type: ignore[no-untyped-call]
        # One call a process: what prepare has loaded isn't kept.
        self._task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(node_check.problem)

    def poll(self) -> list[Event]:
        """What is new: nodes that were left out, or lost. Starts the check of nodes that have come."""
        news: list[Event] = []
        if time.monotonic() - self._polled_at > _POLL_SECONDS:
            self._polled_at = time.monotonic()
            news += self._compare({node["NodeID"]: node for node in alive_nodes()})
        for node in self._nodes.values():
            if node.check is not None and not node.gone and ray.wait([node.check], timeout=0)[0]:
                node.problem, node.check = _result(node.check), None
                if node.problem is not None:
                    news.append(NodeLeftOut(time.time(), node.name, node.problem))
        return news

    def _compare(self, alive: dict[str, dict[str, Any]]) -> list[Event]:
        news: list[Event] = []
        for node in self._nodes.values():
            if not node.gone and node.id not in alive:
                node.gone = True
                news.append(NodeLost(time.time(), node.name))
        for id, found in alive.items():
            # A head that takes no trials need not have the data.
            if id not in self._nodes and (found["Resources"].get("CPU") or found["Resources"].get("GPU")):
                check = None if id == self._here else self._check(id)
                self._nodes[id] = _Node(id, f"{found['NodeManagerHostname']} ({found['NodeManagerAddress']})", check)
        return news

    def _check(self, node: str) -> Any:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        task = self._task.options(scheduling_strategy=there)
        return task.remote(self._expected, self._spec.workload, self._study)

    def placement(self, nodes: tuple[str, ...]) -> Placement:
        """Whether an attempt may begin on these nodes, by their ids. Called in any thread."""
        known = [self._nodes.get(id) for id in nodes]
        names = tuple(node.name if node else id for id, node in zip(nodes, known, strict=True))
        if any(node and node.problem for node in known):
            return Placement(Action.STOP, names)
        checked = all(node and node.check is None for node in known)
        return Placement(Action.CONTINUE if checked else Action.WAIT, names)

    @property
    def left_out(self) -> frozenset[str]:
        """The ids of the nodes that get no trials."""
        return frozenset(node.id for node in self._nodes.values() if node.problem is not None)

    @property
    def being_checked(self) -> list[str]:
        """The names of the nodes that are being checked."""
        return [node.name for node in self._nodes.values() if node.check is not None and not node.gone]

    @property
    def some_passed(self) -> bool:
        """Whether a node can run trials, or could while it was there."""
        return any(node.check is None and node.problem is None for node in self._nodes.values())

    @property
    def none_left(self) -> bool:
        """Whether there have been nodes, and each was left out."""
        return bool(self._nodes) and len(self.problems) == len(self._nodes)

    @property
    def problems(self) -> list[str]:
        """Of each node that was left out: its name, and why."""
        return [f"{node.name}: {node.problem}" for node in self._nodes.values() if node.problem is not None]


def this_machine(nodes: tuple[str, ...]) -> Placement:
    """The answer in a study whose Ray is its own: all is on this machine, where `prepare` has run."""
    return Placement(Action.CONTINUE, (socket.gethostname(),) * len(nodes))


def _result(check: Any) -> str | None:
    try:
        found: str | None = ray.get(check)
    except ray.exceptions.RayTaskError as error:
        return f"its check failed: {str(error).strip().rpartition(chr(10))[2]}"
    except ray.exceptions.RayError as error:
        return f"no process could run there: {str(error).strip().partition(chr(10))[0]}"
    return found


def alive_nodes() -> list[dict[str, Any]]:
    """Ray's table of nodes, without those that have died."""
    table: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in table if node["Alive"]]
