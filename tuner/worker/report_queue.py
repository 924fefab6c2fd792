"""The queue that carries all messages from the trials to the driver.

    trial:   decision = send(message) ──> ReportQueue <── take(decisions) ── driver's thread ──> receive(trial, message)

A message is in the event log before its trial continues, so a kill loses none. Ray Tune sees no messages: it handles
reports one after the other, at several milliseconds each.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.worker.messages import Action, Assignment, Decision, Message, Send

_MAX_PENDING = 10_000  # messages; Ray itself queues any more

_STUDY_ENDS = Decision(Action.STOP, "the study ends", keep=True)

Sent = tuple[int, Message]
"""A trial's number and its message."""


class ReportQueue:
    """An actor on the driver's node. All methods run on one event loop."""

    def __init__(self) -> None:
        self._sent: list[tuple[Sent, asyncio.Future[Decision]]] = []
        self._taken: list[asyncio.Future[Decision]] = []
        self._arrived = asyncio.Event()

    async def send(self, trial: int, message: Message) -> Decision:
        """Send a message to the driver. Returns its decision, after the message is in the event log."""
        decision: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._sent.append(((trial, message), decision))
        self._arrived.set()
        return await decision

    async def take(self, decisions: list[Decision]) -> list[Sent]:
        """Return these decisions on the messages taken last, then wait for new messages and return them."""
        for future, decision in zip(self._taken, decisions, strict=True):
            if not future.done():  # it is if the trial's process died
                future.set_result(decision)
        self._taken = []
        await self._arrived.wait()
        self._arrived.clear()
        taken, self._sent = self._sent, []
        self._taken = [decision for _, decision in taken]
        return [sent for sent, _ in taken]


def sender(assignment: Assignment) -> Send:
    """The function with which a trial sends its messages, from any process."""

    def send(message: Message) -> Decision:
        decision: Decision = ray.get(assignment.queue.send.remote(assignment.trial, message))
        return decision

    return send


class QueueReader(threading.Thread):
    """The driver's thread that receives every message, until closed."""

    def __init__(self, receive: Callable[[int, Message], Decision], sync: Callable[[], None]):
        """receive: called in this thread with a trial's number and its message; returns the decision.

        sync: called before the decisions are sent; once for all messages of a batch, since it waits for the disk.
        """
        super().__init__(name="reports", daemon=True)
        self._receive, self._sync = receive, sync
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": _MAX_PENDING, "scheduling_strategy": here}
        self.queue: Any = ray.remote(ReportQueue).options(**options).remote()
        """The actor's handle, for the trials."""
        self._closed = False
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        decisions: list[Decision] = []
        try:
            while True:
                sent: list[Sent] = ray.get(self.queue.take.remote(decisions))
                decisions = self._on_disk([self._decide(trial, message) for trial, message in sent])
        except ray.exceptions.RayError as error:
            if not self._closed:
                self._error = error

    def _decide(self, trial: int, message: Message) -> Decision:
        if self._error is None:
            try:
                return self._receive(trial, message)
            except BaseException as error:  # were the thread to end, every trial would wait forever
                self._error = error
        return _STUDY_ENDS

    def _on_disk(self, decisions: list[Decision]) -> list[Decision]:
        """The decisions, after a sync: a power cut then loses no message that was decided on."""
        try:
            self._sync()
        except BaseException as error:
            self._error = self._error or error
            return [_STUDY_ENDS] * len(decisions)
        return decisions

    def check(self) -> None:
        """Raises the thread's exception, if there was one: the study can't continue."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._closed = True
        ray.kill(self.queue)
        self.join()
