"""Slots: where trials run, kept warm between them, as many as the cluster has room for.

A trial of one worker runs in Ray Tune's own trial process, which Tune keeps (reuse_actors) and hands the next setting:
`tune_function`. A trial of N workers runs on a worker group that outlives it (worker/group.py): the study's runner
holds the slot, and the trial's own process only waits for the slot.

    runner ── SlotPool ── owns ──> GroupSlot ── holds ──> N workers
    tune_function:  slot.run(assignment), or run_trial(...) in its own process

torch is imported where a trial trains with it, not on the way there: it takes seconds of every process.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
import ray.tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.driver.cluster import Plan, labels_without, remove_orphaned_groups
from tuner.spec.study import StudySpec
from tuner.spec.workload import uses_torch
from tuner.storage.storage import Storage
from tuner.worker.group import (
    SHUTDOWN_SECONDS,
    GroupNotStartedError,
    GroupSlot,
    SlotDiedError,
    group_slot,
    quiet_run,
    ray_get,
)
from tuner.worker.messages import Action, Assignment, Begun, Interruption, Send
from tuner.worker.report_queue import sender

_CLEANUP_SECONDS = 2.0  # between two looks at what dead groups hold
_ASK_SECONDS = 1.0


@dataclass
class _Process:
    """What a slot's process must remember from one trial to the next, and nothing else may."""

    tainted: bool = False


_process = _Process()


def tune_function(spec: StudySpec, study: Storage, queue: Any) -> Callable[[dict[str, Any]], None]:
    """The function that Ray Tune calls once a trial, in a process that it keeps. queue: a ReportQueue.

    It returns when the trial has sent its end, and reports nothing to Tune.
    """

    def trial(config: dict[str, Any]) -> None:
        assignment = Assignment(config["trial"], config["params"], config["suggested_at"], config["gpus"], queue)
        if config["slot"] is None:
            _run_here(assignment, spec, study)
        else:
            _run_on_group(assignment, config["slot"])

    return trial


def _run_here(assignment: Assignment, spec: StudySpec, study: Storage) -> None:
    """The training loop runs in this process; torch's with Ray Train's local mode, on the device that Ray gave it."""
    if _process.tainted and spec.failures.max_retries:
        # Tune sees its process die, and runs the trial in a new one.
        os._exit(1)

    from tuner.worker.trial import run_trial

    send = sender(assignment)
    if not _may_run_here(send):
        return

    def loop(device: Any = None) -> None:
        _process.tainted = run_trial(assignment, spec, study, device=device, rank=0, send=send, send_from_rank=send)

    if not uses_torch(spec.workload):
        loop()
        return

    import ray.train.torch

    trainer = ray.train.torch.TorchTrainer(
        lambda: loop(ray.train.torch.get_device()),
        scaling_config=ray.train.ScalingConfig(num_workers=0),
        run_config=quiet_run(f"trial-{assignment.trial}", tempfile.gettempdir()),
    )
    trainer.fit()


def _may_run_here(send: Send) -> bool:
    """Tell the driver that this attempt has a process, and on which node; wait until it has checked that node."""
    begun = Begun((ray.get_runtime_context().get_node_id(),))
    while (action := send(begun).action) is Action.WAIT:
        time.sleep(_ASK_SECONDS)
    return action is Action.CONTINUE


def _run_on_group(assignment: Assignment, slot_name: str) -> None:
    """The training loop runs on a worker group, whose slot sends the trial's messages."""
    try:
        ray_get(group_slot(slot_name).run.remote(assignment))
    except (ray.exceptions.RayActorError, SlotDiedError):
        # Were it raised, Tune would try again with the slot that is gone.
        sender(assignment)(Interruption("the process that holds its worker group died"))
    except GroupNotStartedError as error:
        # The lines before it are Ray's, of where it was raised.
        sender(assignment)(Interruption(str(error).strip().rpartition("\n")[2].partition(": ")[2], at_start=True))


@dataclass(frozen=True)
class Slot:
    """A place for one trial at a time."""

    place: int
    """From 1: no two slots of a study have the same."""
    gpus: float
    """A worker's."""
    group: str | None = None
    """The name of its GroupSlot, None in a process of Tune's own."""
    left_out: frozenset[str] = frozenset()
    """The ids of nodes that it must not be on."""

    def config(self) -> dict[str, Any]:
        """What Tune and `tune_function` must know of it."""
        return {"slot": self.group, "gpus": self.gpus, "place": self.place, "left_out": self.left_out}


class SlotPool:
    """A study's slots. The process that runs the study owns it, so they end with the study.

    A slot is made when it is first taken, and its group when its first trial comes. Each has one process of Tune's and
    keeps it (`keep_warm`). Left alone, Tune keeps one process of those whose trials end together, and gives a process
    that is free to a trial whose own is just starting, which it then kills: with many short trials it starts processes
    all the time.
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
        """A slot that has been used before if one is free, else a new one, or None if there is no room."""
        if not self._free and self._taken >= self._size:
            return None
        self._taken += 1
        return self._free.pop() if self._free else self._make()

    def release(self, slot: Slot) -> None:
        """Give a slot back; it stays warm if there is still room for it."""
        self._taken -= 1
        if slot.gpus == self._plan.gpus:
            self._free.append(slot)
        else:
            self._end(slot)
        self._shrink()

    def discard(self, slot: Slot) -> None:
        """Give back a slot whose group is lost: another is made in its place."""
        self._taken -= 1
        group = self._groups.get(slot)
        self._end(slot)
        if group is not None:
            ray.kill(group)

    def leave_out(self, nodes: frozenset[str], unchecked: bool) -> None:
        """Make no slot on nodes of these ids from now on. unchecked: whether there are nodes that may become such."""
        self._left_out, self._unchecked = nodes, unchecked

    def doubtful(self, slot: Slot) -> bool:
        """Whether a slot may be on a node that isn't checked, or was left out after it was made."""
        return self._unchecked or bool(self._left_out - slot.left_out)

    def follow(self, plan: Plan) -> None:
        """Make slots by another plan from now on; those of the one before end when they are free."""
        self._plan, self._size = plan, plan.slots
        self.end_idle()

    def end_idle(self) -> None:
        """End the slots that are free, until one is taken again: what they hold is wanted elsewhere."""
        for slot in self._free:
            self._end(slot)
        self._free.clear()

    def keep_warm(self, tune_processes: Any) -> None:
        """Have Tune keep the process of each slot. Called in every turn of Tune's loop, before it starts any.

        tune_processes: its store of processes whose trial has ended.
        """
        self._tune_processes = tune_processes
        for slot in self._uncached:
            self._tune_processes.increase_max(self._request(slot))
        self._uncached.clear()
        if self._plan.workers > 1 and time.monotonic() - self._last_cleanup > _CLEANUP_SECONDS:
            self._last_cleanup = time.monotonic()
            remove_orphaned_groups()

    def resize(self, size: int) -> None:
        """Have room for this many trials. Trials that run go on; slots beyond the room end when they are free."""
        self._size = size
        self._shrink()

    def close(self) -> None:
        """End every slot, and with it every worker and its placement group."""
        groups = list(self._groups.values())
        closing = [group.close.remote() for group in groups]
        # Waited for, not asked how it went: one whose process is gone must not end the others at once.
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
        # Beside the runner: with any other node the slot would be lost, and the trials that wait for it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        resources = {"CPU": self._plan.cpus, "GPU": self._plan.gpus}
        actor = ray.remote(GroupSlot).options(num_cpus=0, name=slot.group, scheduling_strategy=here)
        labels = labels_without(slot.left_out)
        self._groups[slot] = actor.remote(self._spec, self._study, resources, slot.group, labels)
        return slot

    def _request(self, slot: Slot) -> ray.tune.PlacementGroupFactory:
        return self._plan.trial_request(slot.gpus, slot.place, slot.left_out)

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
            # It isn't waited for; it ends when its workers have left.
            group.close.remote()
