"""Worker groups: a trial of N workers runs on a Ray Train group that outlives it.

A GroupSlot actor holds the group; the trial's process (tuner/slots.py) only passes messages between Tune and the slot.

    GroupSlot (no CPU) ── a thread with TorchTrainer.fit() ──> N workers in `_serve`
    each worker:    slot.next_assignment() -> run_trial(...), each report asks slot.tell(...) -> next, until told to end
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from typing import Any, Literal

import ray

from tuner.assignment import Assignment
from tuner.death import cause_of_group
from tuner.reports import post_of
from tuner.scratch import scratch
from tuner.storage import Storage
from tuner.study import StudySpec

NAMESPACE = "tuner"
CLOSING_SECONDS = 15.0
_GRACE_SECONDS = 15.0

Verdict = Literal["go on", "stop", "leave"]
"""What a report is answered: train on, end this trial, or end the worker process with its group."""


class GroupSlot:
    """An actor that holds one worker group and the trial that is on it, if any. All methods run on one event loop."""

    def __init__(self, spec: StudySpec, study: Storage, resources: dict[str, float], name: str):
        self._spec, self._study, self._resources, self._name = spec, study, resources, name
        self._changed = asyncio.Condition()
        self._thread: threading.Thread | None = None
        self._groups = 0
        self._serial = 0
        self._begun = 0
        self._ready: set[int] = set()
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
            if self._event is not None and is_last(self._event):
                verdict = "stop"
            if verdict == "stop":
                self._assignment = None
            self._verdict = "leave" if self._broken else verdict
            self._changed.notify_all()
            await self._changed.wait_for(lambda: not self._asked or self._death)
            self._event, self._verdict = None, None
            self._changed.notify_all()

    async def next_assignment(self, rank: int, done: int) -> tuple[int, Assignment] | None:
        """A rank asks for the trial after the one with serial number `done`; None: the group is to end.

        It begins when all ranks have asked: until then one of them may still write a checkpoint, and the others would
        not go on from the same.
        """
        async with self._changed:
            self._ready.add(rank)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._closing or (self._serial > done and self._all_ready()))
            self._ready.discard(rank)
            return None if self._closing or self._assignment is None else (self._serial, self._assignment)

    def _all_ready(self) -> bool:
        if self._assignment is not None and len(self._ready) == self._spec.resources.workers:
            self._begun = self._serial
        return self._begun == self._serial

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
            await asyncio.to_thread(self._thread.join, CLOSING_SECONDS)

    def _all_asked(self) -> bool:
        return self._event is not None and len(self._asked) == self._spec.resources.workers

    def _past(self, serial: int) -> bool:
        """Whether nobody waits any more for what this trial's ranks tell."""
        return self._closing or serial != self._serial

    def _hold_group(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run one worker group to its end, and say how it ended."""
        import ray.train.torch

        with scratch("train") as folder:
            trainer = ray.train.torch.TorchTrainer(
                _serve,
                train_loop_config={"slot": self._name, "spec": self._spec, "study": self._study},
                scaling_config=ray.train.ScalingConfig(
                    num_workers=self._spec.resources.workers,
                    use_gpu=self._resources["GPU"] > 0,
                    resources_per_worker={key: amount for key, amount in self._resources.items() if amount},
                ),
                run_config=quiet_run(f"{self._name}-{self._groups}", str(folder)),
            )
            death = "it was told to end"
            try:
                trainer.fit()
            except Exception as error:
                death = cause_of_group(error)
        asyncio.run_coroutine_threadsafe(self._group_ended(death), loop).result()

    async def _group_ended(self, death: str) -> None:
        async with self._changed:
            self._death = death
            self._asked.clear()
            self._ready.clear()
            self._changed.notify_all()


def is_last(event: dict[str, Any]) -> bool:
    """Whether nothing comes after it of this attempt."""
    return "end" in event or "lost" in event


def _is_failure(event: dict[str, Any]) -> bool:
    return "lost" in event or ("end" in event and event["end"]["state"] == "failed")


def _serve(config: dict[str, Any]) -> None:
    """One worker of a group: trial after trial, until its slot says to end."""
    import ray.train.torch

    from tuner.trial import run_trial

    slot = group_slot(config["slot"])
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    done, leaving = 0, False

    def tell(event: dict[str, Any]) -> None:
        nonlocal leaving
        verdict: Verdict = ray_get(slot.tell.remote(rank, done, event))
        leaving = verdict == "leave"
        if verdict != "go on":
            raise SystemExit

    while (task := ray_get(slot.next_assignment.remote(rank, done))) is not None:
        done, assignment = task
        post = post_of(assignment)
        if rank == 0:
            # A group may have waited long for its machines: from here on silence means something.
            post({"begun": True})
        with contextlib.suppress(SystemExit):
            run_trial(
                assignment,
                config["spec"],
                config["study"],
                device=device,
                rank=rank,
                post=post,
                tell=tell,
            )
        if leaving:
            raise RuntimeError("the ranks are out of step, or the study is over: the group ends")


class SlotGoneError(Exception):
    """Its process is gone."""


@functools.lru_cache
def group_slot(name: str) -> Any:
    """A GroupSlot's handle; asking Ray for it takes a message. Raises SlotGoneError."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise SlotGoneError(name) from None


def ray_get(reference: Any) -> Any:
    """ray.get; its types know nothing of an actor's methods."""
    return ray.get(reference)


def quiet_run(name: str, folder: str) -> Any:
    """Ray Train's own storage stays unused: checkpoints go to the study's storage."""
    import ray.train

    return ray.train.RunConfig(name=name, storage_path=folder, failure_config=ray.train.FailureConfig(max_failures=0))
