"""Worker groups: a trial of N workers runs on a Ray Train worker group, which is kept for the next trial.

A GroupSlot actor owns the group, and is the proxy between its ranks and the driver. It sends a message to the
driver when every rank has sent it, and gives the driver's decision to every rank.

    GroupSlot (no CPU) ── a thread with TorchTrainer.fit() ──> N workers in `_serve`
    each worker:    slot.next_assignment() -> run_trial(...), which sends by slot.send(...) -> the next one
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from typing import Any

import ray

from tuner.spec.study import StudySpec
from tuner.storage.scratch import scratch
from tuner.storage.storage import Storage
from tuner.worker.death import cause_of_group
from tuner.worker.messages import Action, Assignment, Begun, Decision, End, Interruption, Message, Paused
from tuner.worker.report_queue import sender

NAMESPACE = "tuner"
SHUTDOWN_SECONDS = 15.0
GRACE_SECONDS = 15.0
_ASK_SECONDS = 1.0

_STOP = Decision(Action.STOP)


class GroupSlot:
    """An actor that owns one worker group and the trial that runs on it, if any. All methods run on one event loop."""

    def __init__(
        self,
        spec: StudySpec,
        study: Storage,
        resources: dict[str, float],
        name: str,
        labels: dict[str, str] | None = None,
    ):
        """resources: of each worker. labels: what Ray's labels of its workers' nodes must be."""
        self._spec, self._study, self._resources, self._name = spec, study, resources, name
        self._labels = labels
        self._changed = asyncio.Condition()
        self._thread: threading.Thread | None = None
        self._groups = 0
        self._attempt = 0
        """The number of the attempt that is on the group. A trial that runs again is a new attempt."""
        self._started_attempt = 0
        self._ready: set[int] = set()
        """Ranks that wait for a trial."""
        self._nodes: dict[int, str] = {}
        """The id of each rank's node."""
        self._allowed_attempt = 0
        """The attempt that the driver has allowed on these nodes."""
        self._assignment: Assignment | None = None
        self._sent: dict[int, Message] = {}
        """The message of each rank that waits for a decision."""
        self._decision: Decision | None = None
        """The decision on these messages, until every rank has received it."""
        self._broken = False
        """Whether the group must shut down when its trial ends."""
        self._death: str | None = None
        self._closing = False

    async def run(self, assignment: Assignment) -> None:
        """Run a trial on the group to its end. Raises GroupDiedError if the group died.

        Starts the group if it isn't running. If an earlier trial is still on it, that trial's caller has died: its
        ranks are stopped first.
        """
        attempt = await self._submit(assignment)
        while (message := await self._next_message(attempt)) is not None:
            decision: Decision = await assignment.queue.send.remote(assignment.trial, message)
            over = _is_last(message)
            if self._is_superseded(attempt):
                return
            await self._answer(_STOP if over else decision, over)
            if over:
                return

    async def _submit(self, assignment: Assignment) -> int:
        if self._thread is not None and (self._broken or self._death is not None):
            await asyncio.to_thread(self._thread.join)
        async with self._changed:
            await self._changed.wait_for(lambda: self._decision is None or self._death)
            self._attempt += 1
            self._assignment, self._decision, self._death = assignment, None, None
            self._sent.clear()
            if self._thread is None or not self._thread.is_alive():
                self._broken = False
                self._groups += 1
                self._thread = threading.Thread(target=self._run_group, args=(asyncio.get_running_loop(),), daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._attempt

    async def _next_message(self, attempt: int) -> Message | None:
        """The trial's next message, when every rank has sent it; None if this attempt is superseded.

        Raises GroupDiedError if the group died.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_over(attempt) or self._all_sent() or self._failed())
            if self._failed() and not self._all_sent():
                # The other ranks may wait for the failed one in a collective forever: wait for them only so long.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._changed.wait_for(lambda: self._is_over(attempt) or self._all_sent()),
                        GRACE_SECONDS,
                    )
            if self._is_superseded(attempt):
                return None
            if self._death:
                # The surviving ranks' messages only say that their connection broke: the death is the cause.
                died = GroupDiedError if self._started_attempt == attempt else GroupNotStartedError
                raise died(f"the worker group died: {self._death}")
            failed = self._failed()
            # Unless all ranks failed, they are out of step, and the group must be restarted.
            self._broken |= 0 < len(failed) < self._spec.resources.workers
            self._broken |= any(isinstance(sent, End) and sent.tainted for sent in self._sent.values())
            # A failure takes precedence over the other ranks' messages, and the first failure is the cause.
            return self._sent[failed[0] if failed else 0]

    async def _answer(self, decision: Decision, over: bool) -> None:
        """Give the decision to every waiting rank. over: whether the trial ends with it."""
        async with self._changed:
            if over:
                self._assignment = None
            self._decision = decision
            self._changed.notify_all()
            await self._changed.wait_for(lambda: not self._sent or self._death)
            self._decision = None
            self._changed.notify_all()

    async def next_assignment(self, rank: int, done: int, node: str) -> tuple[int, Assignment] | None:
        """The attempt after number `done`, and its trial; None if the group shuts down. Called by each rank.

        node: the id of the rank's node. Waits until all ranks have called: before that, one of them may still write a
        checkpoint, and the ranks would resume from different ones. Then waits until the driver allows the nodes.
        """
        async with self._changed:
            self._ready.add(rank)
            self._nodes[rank] = node
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._closing or (self._attempt > done and self._all_ready()))
            self._ready.discard(rank)
            attempt, assignment = self._attempt, self._assignment
        if rank == 0 and assignment is not None and not self._closing:
            await self._ask_driver(attempt, assignment)
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_over(attempt) or self._allowed_attempt == attempt)
            return None if self._closing or assignment is None else (attempt, assignment)

    async def _ask_driver(self, attempt: int, assignment: Assignment) -> None:
        """Ask until the driver has checked all nodes. If one of them is left out, the slot closes."""
        begun = Begun(tuple(node for _, node in sorted(self._nodes.items())))
        action = Action.WAIT
        while action is Action.WAIT and not self._is_over(attempt):
            decision: Decision = await assignment.queue.send.remote(assignment.trial, begun)
            action = decision.action
            if action is Action.WAIT:
                await asyncio.sleep(_ASK_SECONDS)
        async with self._changed:
            if action is Action.STOP:
                self._closing = True
            self._allowed_attempt = attempt
            self._changed.notify_all()

    def _all_ready(self) -> bool:
        if self._assignment is not None and len(self._ready) == self._spec.resources.workers:
            self._started_attempt = self._attempt
        return self._started_attempt == self._attempt

    async def send(self, rank: int, attempt: int, message: Message) -> Decision | None:
        """Send a rank's message. Waits until all ranks have sent theirs, and returns the decision for all.

        None: the rank must exit, since its group shuts down.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._decision is None or self._is_superseded(attempt))
            if not self._is_superseded(attempt):
                self._sent[rank] = message
                self._changed.notify_all()
                await self._changed.wait_for(lambda: self._decision is not None or self._is_superseded(attempt))
            if self._is_superseded(attempt):
                return None if self._closing else _STOP
            decision = self._decision
            self._sent.pop(rank, None)
            self._changed.notify_all()
            return None if self._broken else decision

    async def close(self) -> None:
        """Shut the group down: its workers leave their loop, and the TorchTrainer removes the placement group."""
        async with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, SHUTDOWN_SECONDS)

    def _all_sent(self) -> bool:
        return len(self._sent) == self._spec.resources.workers

    def _failed(self) -> list[int]:
        """Ranks that have sent a failure, in the order of their messages."""
        return [rank for rank, message in self._sent.items() if _is_failure(message)]

    def _is_over(self, attempt: int) -> bool:
        return self._is_superseded(attempt) or self._death is not None

    def _is_superseded(self, attempt: int) -> bool:
        """Whether the slot shuts down or has a newer attempt, so that nobody waits for this one's messages."""
        return self._closing or attempt != self._attempt

    def _run_group(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run one worker group until it shuts down or dies, and record why."""
        import ray.train.torch

        from tuner.worker.process_group import ProcessGroup

        # Ray's types are those of the Train before this one.
        placement: dict[str, Any] = {"label_selector": self._labels}
        with scratch("train") as folder:
            trainer = ray.train.torch.TorchTrainer(
                _serve,
                torch_config=ProcessGroup(),
                train_loop_config={"slot": self._name, "spec": self._spec, "study": self._study},
                scaling_config=ray.train.ScalingConfig(
                    num_workers=self._spec.resources.workers,
                    use_gpu=self._resources["GPU"] > 0,
                    resources_per_worker={key: amount for key, amount in self._resources.items() if amount},
                    **placement,
                ),
                run_config=quiet_run(f"{self._name}-{self._groups}", str(folder)),
            )
            death = "it was shut down"
            try:
                trainer.fit()
            except Exception as error:
                death = cause_of_group(error)
        asyncio.run_coroutine_threadsafe(self._group_ended(death), loop).result()

    async def _group_ended(self, death: str) -> None:
        async with self._changed:
            self._death = death
            self._sent.clear()
            self._ready.clear()
            self._changed.notify_all()


def _is_last(message: Message) -> bool:
    """Whether this is the attempt's last message."""
    return isinstance(message, End | Paused | Interruption)


def _is_failure(message: Message) -> bool:
    return isinstance(message, Interruption) or (isinstance(message, End) and message.state == "failed")


def _serve(config: dict[str, Any]) -> None:
    """The loop of one worker: runs trial after trial until its slot shuts the group down."""
    import ray.train.torch

    from tuner.worker.trial import run_trial

    slot = group_slot(config["slot"])
    node = ray.get_runtime_context().get_node_id()
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    done, shutting_down = 0, False

    def send(message: Message) -> Decision:
        nonlocal shutting_down
        decision: Decision | None = ray_get(slot.send.remote(rank, done, message))
        if decision is None:
            shutting_down = True
            raise SystemExit
        return decision

    while (task := ray_get(slot.next_assignment.remote(rank, done, node))) is not None:
        done, assignment = task
        with contextlib.suppress(SystemExit):
            run_trial(
                assignment,
                config["spec"],
                config["study"],
                device=device,
                rank=rank,
                send=send,
                send_from_rank=sender(assignment),
            )
        if shutting_down:
            raise RuntimeError("the ranks are out of step, or the study has ended: the group shuts down")


class GroupDiedError(RuntimeError):
    """A worker group has died under a trial."""


class GroupNotStartedError(GroupDiedError):
    """A worker group has died before all of its ranks were there."""


class SlotDiedError(Exception):
    """The process of a GroupSlot has died."""


@functools.lru_cache
def group_slot(name: str) -> Any:
    """A GroupSlot's handle, cached since each lookup is a call to Ray. Raises SlotDiedError if there is none."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise SlotDiedError(name) from None


def ray_get(reference: Any) -> Any:
    """ray.get, untyped: Ray has no types for the methods of an actor."""
    return ray.get(reference)


def quiet_run(name: str, folder: str) -> Any:
    """A RunConfig without retries, whose storage is a scratch folder: checkpoints go to the study's storage."""
    import ray.train

    # Ray's types are those of the Train before this one.
    none: dict[str, Any] = {"max_failures": 0, "max_preemption_failures": 0}
    return ray.train.RunConfig(name=name, storage_path=folder, failure_config=ray.train.FailureConfig(**none))
