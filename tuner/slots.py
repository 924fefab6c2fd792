"""Slots: where trials run, kept warm between them, as many as the cluster has room for.

A trial of one worker runs in Ray Tune's own trial process, which Tune keeps (reuse_actors) and hands the next setting:
`tune_function`. A trial of N workers runs on a Ray Train worker group that outlives it: a GroupSlot actor holds the
group, the study's runner holds the slot, and the trial's process only passes messages between Tune and the slot.

    runner ── SlotPool ── owns ──> GroupSlot (no CPU) ── a thread with TorchTrainer.fit() ──> N workers in `_serve`
    tune_function:  slot.begin(assignment) -> for each slot.next_event(go on): hand it on; slot.answer(stop)
    each worker:    slot.next_assignment() -> run_trial(...), each report asks slot.tell(...) -> next, until told to end

torch is imported where a trial trains, not on the way there: it takes seconds of every process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ray
import ray.exceptions
import ray.tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.assignment import Assignment, Tell
from tuner.cluster import Plan
from tuner.storage import Storage
from tuner.study import StudySpec

NAMESPACE = "tuner"
_CLOSING_SECONDS = 15.0
_GRACE_SECONDS = 15.0

Verdict = Literal["go on", "stop", "leave"]
"""What a report is answered: train on, end this trial, or end the worker process with its group."""


@dataclass
class _Process:
    """What a slot's process must remember from one trial to the next, and nothing else may."""

    spoilt: bool = False


_process = _Process()


def tune_function(spec: StudySpec, study: Storage, box: Any) -> Callable[[dict[str, Any]], None]:
    """The function that Ray Tune calls once a trial, in a process that it keeps. box: a ReportBox."""

    def trial(config: dict[str, Any]) -> None:
        assignment = Assignment(config["trial"], config["params"], config["suggested_at"], config["gpus"])

        def tell(event: dict[str, Any]) -> None:
            if "end" in event or _get(box.post.remote(assignment.trial, event)):
                ray.tune.report(event)

        if config["slot"] is None:
            _run_here(assignment, spec, study, tell)
        else:
            _run_on_group(assignment, config["slot"], tell)

    return trial


def _run_here(assignment: Assignment, spec: StudySpec, study: Storage, tell: Tell) -> None:
    """Ray Train's local mode: the training loop runs in this process, on the device that Ray gave it."""
    if _process.spoilt and spec.failures.max_retries:
        # Tune sees its process die, and runs the trial in a new one.
        os._exit(1)

    import ray.train.torch

    from tuner.trial import run_trial

    def loop() -> None:
        device = ray.train.torch.get_device()
        _process.spoilt = run_trial(assignment, spec, study, device=device, rank=0, tell=tell)

    trainer = ray.train.torch.TorchTrainer(
        loop,
        scaling_config=ray.train.ScalingConfig(num_workers=0),
        run_config=_quiet_run(f"trial-{assignment.trial}", tempfile.gettempdir()),
    )
    trainer.fit()


def _run_on_group(assignment: Assignment, slot_name: str, tell: Tell) -> None:
    """Pass one trial's messages on from its slot, and the answers back."""
    slot = _slot(slot_name)
    event = _get(slot.begin.remote(assignment))
    while True:
        try:
            tell(event)
        except SystemExit:
            _get(slot.answer.remote("stop"))
            raise
        if "end" in event:
            _get(slot.answer.remote("go on"))
            return
        event = _get(slot.next_event.remote("go on"))


@functools.lru_cache
def _slot(name: str) -> Any:
    """A GroupSlot's handle; asking Ray for it takes a message."""
    return ray.get_actor(name, namespace=NAMESPACE)


@dataclass(frozen=True)
class Slot:
    """A place for one trial at a time."""

    gpus: float
    """A worker's."""
    group: str | None = None
    """The name of its GroupSlot, None in a process of Tune's own."""

    def config(self) -> dict[str, Any]:
        """What `tune_function` must know of it."""
        return {"slot": self.group, "gpus": self.gpus}


class SlotPool:
    """A study's slots. The process that runs the study owns it, so they end with the study.

    A slot is made when it is first taken, and its group when its first trial comes.
    """

    def __init__(self, spec: StudySpec, study: Storage, plan: Plan):
        self._spec, self._study, self._plan = spec, study, plan
        self._size = plan.slots
        self._free: list[Slot] = []
        self._taken = 0
        self._groups: dict[Slot, Any] = {}

    def take(self) -> Slot | None:
        """A slot that has been used before if one is free, else a new one, or None if there is no room."""
        if not self._free and self._taken >= self._size:
            return None
        self._taken += 1
        return self._free.pop() if self._free else self._make()

    def give(self, slot: Slot) -> None:
        """Give a slot back; it stays warm if there is still room for it."""
        self._taken -= 1
        if slot.gpus == self._plan.gpus:
            self._free.append(slot)
        else:
            self._end(slot)
        self._shrink()

    def follow(self, plan: Plan) -> None:
        """Make slots by another plan from now on; those of the one before end when they are free."""
        self._plan, self._size = plan, plan.slots
        for slot in self._free:
            self._end(slot)
        self._free.clear()

    def resize(self, size: int) -> None:
        """Have room for this many trials. Trials that run go on; slots beyond the room end when they are free."""
        self._size = size
        self._shrink()

    def close(self) -> None:
        """End every slot, and with it every worker and its placement group."""
        groups = list(self._groups.values())
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get([group.close.remote() for group in groups], timeout=_CLOSING_SECONDS + 5)
        for group in groups:
            ray.kill(group)

    def _make(self) -> Slot:
        if self._plan.workers == 1:
            return Slot(self._plan.gpus)
        slot = Slot(self._plan.gpus, f"{self._spec.name}-{uuid.uuid4().hex[:12]}")
        # Beside the runner: with any other node the slot would be lost, and the trials that wait for it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        resources = {"CPU": self._plan.cpus, "GPU": self._plan.gpus}
        actor = ray.remote(GroupSlot).options(num_cpus=0, name=slot.group, scheduling_strategy=here)
        self._groups[slot] = actor.remote(self._spec, self._study, resources, slot.group)
        return slot

    def _shrink(self) -> None:
        while self._free and len(self._free) + self._taken > self._size:
            self._end(self._free.pop())

    def _end(self, slot: Slot) -> None:
        group = self._groups.pop(slot, None)
        if group is not None:
            # It isn't waited for; it ends when its workers have left.
            group.close.remote()


class GroupSlot:
    """An actor that holds one worker group and the trial that is on it, if any. All methods run on one event loop."""

    def __init__(self, spec: StudySpec, study: Storage, resources: dict[str, float], name: str):
        self._spec, self._study, self._resources, self._name = spec, study, resources, name
        self._changed = asyncio.Condition()
        self._thread: threading.Thread | None = None
        self._groups = 0
        self._serial = 0
        self._assignment: Assignment | None = None
        self._event: dict[str, Any] | None = None
        self._asked: set[int] = set()
        self._failed: set[int] = set()
        self._verdict: Verdict | None = None
        self._broken = False
        self._death: str | None = None
        self._closing = False

    async def begin(self, assignment: Assignment) -> dict[str, Any]:
        """`submit`, then the trial's first event, in one message."""
        await self.submit(assignment)
        return await self.next_event()

    async def submit(self, assignment: Assignment) -> None:
        """Give the group its next trial; starts the group, or starts it again if it died.

        A trial that is still on the group is one whose passer died: its ranks are told to stop.
        """
        if self._thread is not None and (self._broken or self._death is not None):
            await asyncio.to_thread(self._thread.join)
        async with self._changed:
            await self._changed.wait_for(lambda: self._verdict is None or self._death)
            self._serial += 1
            self._assignment, self._event, self._verdict, self._death = assignment, None, None, None
            self._asked.clear()
            self._failed.clear()
            if self._thread is None or not self._thread.is_alive():
                self._broken = False
                self._groups += 1
                self._thread = threading.Thread(
                    target=self._hold_group, args=(asyncio.get_running_loop(),), daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    async def next_event(self, verdict: Verdict | None = None) -> dict[str, Any]:
        """The trial's next report or end, when every rank has asked. Raises RuntimeError if the group died.

        verdict: answers the report before it in the same message.
        """
        if verdict is not None:
            await self.answer(verdict)
        async with self._changed:
            await self._changed.wait_for(lambda: self._death or self._all_asked() or self._failed)
            if self._failed:
                # The other ranks may wait for the failed one in a collective, for ever: give them a moment. Unless all
                # failed alike, the ranks are out of step, and the group is taken down.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._changed.wait_for(lambda: self._death or self._all_asked()), _GRACE_SECONDS
                    )
                self._broken = len(self._failed) < self._spec.resources.workers
                if self._death:
                    # A rank's process died; what the others told is how that looks from their side of the connection.
                    self._event = None
            self._broken |= bool(self._event and self._event.get("spoilt"))
            if self._event is None:
                raise RuntimeError(f"the worker group died: {self._death}")
            return self._event

    async def answer(self, verdict: Verdict) -> None:
        """Tell every rank, together, whether to go on."""
        async with self._changed:
            if self._event is not None and "end" in self._event:
                verdict = "stop"
            if verdict == "stop":
                self._assignment = None
            self._verdict = "leave" if self._broken else verdict
            self._changed.notify_all()
            await self._changed.wait_for(lambda: not self._asked or self._death)
            self._event, self._verdict = None, None
            self._changed.notify_all()

    async def next_assignment(self, done: int) -> tuple[int, Assignment] | None:
        """A worker asks for the trial after the one with serial number `done`; None: the group is to end."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._closing or (self._assignment is not None and self._serial > done)
            )
            return None if self._closing or self._assignment is None else (self._serial, self._assignment)

    async def tell(self, rank: int, serial: int, event: dict[str, Any]) -> Verdict:
        """A rank's report on the trial of this serial number. All ranks get one verdict, when all have told."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._verdict is None or self._past(serial))
            if not self._past(serial):
                # A failure outweighs what the other ranks tell, and the first one is the cause.
                if not self._failed and (rank == 0 or _is_failure(event)):
                    self._event = event
                if _is_failure(event):
                    self._failed.add(rank)
                self._asked.add(rank)
                self._changed.notify_all()
                await self._changed.wait_for(lambda: self._verdict is not None or self._past(serial))
            if self._past(serial):
                return "leave" if self._closing else "stop"
            verdict = self._verdict or "leave"
            self._asked.discard(rank)
            self._changed.notify_all()
            return verdict

    async def close(self) -> None:
        """End the group: its workers leave their loop, and its placement group goes with the TorchTrainer."""
        async with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _CLOSING_SECONDS)

    def _all_asked(self) -> bool:
        return self._event is not None and len(self._asked) == self._spec.resources.workers

    def _past(self, serial: int) -> bool:
        """Whether nobody waits any more for what this trial's ranks tell."""
        return self._closing or serial != self._serial

    def _hold_group(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run one worker group to its end, and say how it ended."""
        import ray.train.torch

        with tempfile.TemporaryDirectory(prefix="tuner-train-", ignore_cleanup_errors=True) as folder:
            trainer = ray.train.torch.TorchTrainer(
                _serve,
                train_loop_config={"slot": self._name, "spec": self._spec, "study": self._study},
                scaling_config=ray.train.ScalingConfig(
                    num_workers=self._spec.resources.workers,
                    use_gpu=self._resources["GPU"] > 0,
                    resources_per_worker={key: amount for key, amount in self._resources.items() if amount},
                ),
                run_config=_quiet_run(f"{self._name}-{self._groups}", folder),
            )
            death = "it was told to end"
            try:
                trainer.fit()
            except Exception as error:
                death = str(error).strip().split("\n")[-1]
        asyncio.run_coroutine_threadsafe(self._group_ended(death), loop).result()

    async def _group_ended(self, death: str) -> None:
        async with self._changed:
            self._death = death
            self._asked.clear()
            self._changed.notify_all()


def _is_failure(event: dict[str, Any]) -> bool:
    return "end" in event and event["end"]["state"] == "failed"


def _serve(config: dict[str, Any]) -> None:
    """One worker of a group: trial after trial, until its slot says to end."""
    import ray.train.torch

    from tuner.trial import run_trial

    slot = _slot(config["slot"])
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    done, leaving = 0, False

    def tell(event: dict[str, Any]) -> None:
        nonlocal leaving
        verdict: Verdict = _get(slot.tell.remote(rank, done, event))
        leaving = verdict == "leave"
        if verdict != "go on":
            raise SystemExit

    while (task := _get(slot.next_assignment.remote(done))) is not None:
        done, assignment = task
        with contextlib.suppress(SystemExit):
            run_trial(assignment, config["spec"], config["study"], device=device, rank=rank, tell=tell)
        if leaving:
            raise RuntimeError("the ranks are out of step, or the study is over: the group ends")


def _get(reference: Any) -> Any:
    """ray.get; its types know nothing of an actor's methods."""
    return ray.get(reference)


def _quiet_run(name: str, folder: str) -> Any:
    """Ray Train's own storage stays unused: checkpoints go to the study's storage."""
    import ray.train

    return ray.train.RunConfig(name=name, storage_path=folder, failure_config=ray.train.FailureConfig(max_failures=0))
