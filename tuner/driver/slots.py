"""Slots: each runs one trial at a time and is kept warm for the next. There are as many as the cluster has room for.

A trial of one worker runs in Ray Tune's own trial process (worker/trial_process.py). A trial of N workers runs on a
worker group that outlives it (worker/group.py): the process that runs the study owns the slot, and the trial's own
process only waits for it.

    study ── SlotPool ── owns ──> GroupSlot ── holds ──> N workers
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray
import ray.tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.driver.cluster import Plan, labels_excluding, remove_orphaned_groups
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage
from tuner.worker.group import SHUTDOWN_SECONDS, GroupSlot

_CLEANUP_SECONDS = 2.0


@dataclass(frozen=True)
class Slot:
    """Runs one trial at a time."""

    number: int
    """From 1, unique within the study."""
    gpus: float
    """Of each worker."""
    group: str | None = None
    """The name of its GroupSlot; None if trials run in Tune's own process."""
    left_out: frozenset[str] = frozenset()
    """The ids of nodes on which it must not be placed."""

    def config(self) -> dict[str, Any]:
        """The part of a Tune trial's config that names the slot."""
        return {"group": self.group, "gpus": self.gpus, "slot_number": self.number, "left_out": self.left_out}


class SlotPool:
    """A study's slots. The process that runs the study owns them, so they end with it.

    A slot is created when it is first acquired, and its worker group when its first trial starts. Each slot keeps one
    process of Tune's (`keep_warm`). By itself Tune would keep only one of the processes whose trials end together, and
    would give a free process to a trial whose own is starting, and kill that one: with many short trials it would start
    processes all the time.
    """

    def __init__(self, spec: StudySpec, study: Storage, plan: Plan):
        self._spec, self._study, self._plan = spec, study, plan
        self._size = plan.slots
        self._left_out: frozenset[str] = frozenset()
        self._unchecked = False
        self._free: list[Slot] = []
        self._taken = 0
        self._groups: dict[Slot, Any] = {}
        self._made = 0
        self._uncached: list[Slot] = []
        self._tune_processes: Any = None
        self._last_cleanup = 0.0

    def acquire(self) -> Slot | None:
        """A free slot, a new one if none is free, or None if there is no room."""
        if not self._free and self._taken >= self._size:
            return None
        self._taken += 1
        return self._free.pop() if self._free else self._make()

    def release(self, slot: Slot) -> None:
        """Return a slot. It stays warm if there is still room for it."""
        self._taken -= 1
        if slot.gpus == self._plan.gpus:
            self._free.append(slot)
        else:
            self._end(slot)
        self._shrink()

    def discard(self, slot: Slot) -> None:
        """Return a slot that can't run another trial; `acquire` creates a new one instead."""
        self._taken -= 1
        group = self._groups.get(slot)
        self._end(slot)
        if group is not None:
            ray.kill(group)

    def leave_out(self, nodes: frozenset[str], unchecked: bool) -> None:
        """Place no new slot on these nodes, given by their ids. unchecked: whether nodes are still being checked."""
        self._left_out, self._unchecked = nodes, unchecked

    def on_suspect_node(self, slot: Slot) -> bool:
        """Whether a slot may be on a node that isn't checked yet, or that failed its check after the slot began."""
        return self._unchecked or bool(self._left_out - slot.left_out)

    def use_plan(self, plan: Plan) -> None:
        """Create slots by another plan from now on. Slots of the previous plan end when they are free."""
        self._plan, self._size = plan, plan.slots
        self.end_idle()

    def end_idle(self) -> None:
        """End the free slots, so that others can use their resources."""
        for slot in self._free:
            self._end(slot)
        self._free.clear()

    def keep_warm(self, tune_processes: Any) -> None:
        """Have Tune keep the process of each slot. Called in every step of Tune's loop, before it starts processes.

        tune_processes: Tune's cache of the processes whose trial has ended.
        """
        self._tune_processes = tune_processes
        for slot in self._uncached:
            self._tune_processes.increase_max(self._request(slot))
        self._uncached.clear()
        if self._plan.workers > 1 and time.monotonic() - self._last_cleanup > _CLEANUP_SECONDS:
            self._last_cleanup = time.monotonic()
            remove_orphaned_groups()

    def resize(self, size: int) -> None:
        """Set how many trials can run at a time. Running trials continue; surplus slots end when they are free."""
        self._size = size
        self._shrink()

    def close(self) -> None:
        """End every slot, and with it every worker and its placement group."""
        groups = list(self._groups.values())
        closing = [group.close.remote() for group in groups]
        # ray.get would raise if one group's process is gone, and the others would get no time to end.
        ray.wait(closing, num_returns=len(closing), timeout=SHUTDOWN_SECONDS + 5)
        for group in groups:
            ray.kill(group)

    def _make(self) -> Slot:
        self._made += 1
        group = None if self._plan.workers == 1 else f"{self._spec.name}-{uuid.uuid4().hex[:12]}"
        slot = Slot(self._made, self._plan.gpus, group, self._left_out)
        self._uncached.append(slot)
        if group is None:
            return slot
        # On the driver's own node: if another node died, its slots would be lost with the trials that wait for them.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        resources = {"CPU": self._plan.cpus, "GPU": self._plan.gpus}
        actor = ray.remote(GroupSlot).options(num_cpus=0, name=slot.group, scheduling_strategy=here)
        labels = labels_excluding(slot.left_out)
        self._groups[slot] = actor.remote(self._spec, self._study, resources, slot.group, labels)
        return slot

    def _request(self, slot: Slot) -> ray.tune.PlacementGroupFactory:
        return self._plan.trial_request(slot.gpus, slot.number, slot.left_out)

    def _shrink(self) -> None:
        while self._free and len(self._free) + self._taken > self._size:
            self._end(self._free.pop())

    def _end(self, slot: Slot) -> None:
        if slot in self._uncached:
            self._uncached.remove(slot)
        else:
            self._tune_processes.decrease_max(self._request(slot))
        group = self._groups.pop(slot, None)
        if group is not None:
            # Not waited for: it ends when its workers have ended.
            group.close.remote()
