"""Messages on their way from the trials to the study's runner: the one way there is.

    trial:   decision = send(message) ──> ReportQueue <── take(decisions) ── runner's thread ──> receive(trial, message)

A message is in the study's events before its trial goes on, so a kill loses none. Ray Tune sees none of them: it takes
several milliseconds for a report, one after the other.
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

_MAX_PENDING = 10_000  # messages that wait; Ray queues those beyond

_STUDY_ENDS = Decision(Action.STOP, "the study ends", keep=True)

Sent = tuple[int, Message]
"""A trial's number and its message."""


class ReportQueue:
    """An actor beside the runner. All methods run on one event loop."""

    def __init__(self) -> None:
        self._sent: list[tuple[Sent, asyncio.Future[Decision]]] = []
        self._taken: list[asyncio.Future[Decision]] = []
        self._arrived = asyncio.Event()

    async def send(self, trial: int, message: Message) -> Decision:
        """Hand a message to the runner. Returns its decision, when the message is in the study's events."""
        decision: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._sent.append(((trial, message), decision))
        self._arrived.set()
        return await decision

    async def take(self, decisions: list[Decision]) -> list[Sent]:
        """Decide on the messages taken last, and take those that have come since; waits until there are any."""
        for future, decision in zip(self._taken, decisions, strict=True):
            if not future.done():  # a trial whose process died waits no more
                future.set_result(decision)
        self._taken = []
        await self._arrived.wait()
        self._arrived.clear()
        taken, self._sent = self._sent, []
        self._taken = [decision for _, decision in taken]
        return [sent for sent, _ in taken]


def sender(assignment: Assignment) -> Send:
    """How a trial sends its messages, from whatever process it runs in."""

    def send(message: Message) -> Decision:
        decision: Decision = ray.get(assignment.queue.send.remote(assignment.trial, message))
        return decision

    return send


class QueueReader(threading.Thread):
    """The runner's side: has every message received, until closed."""

    def __init__(self, receive: Callable[[int, Message], Decision], sync: Callable[[], None]):
        """receive: called in this thread with a trial's number and its message.

        sync: called before any of the decisions since is given; one for all, since it waits for the disk.
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
            except BaseException as error:  # were the thread to end, every trial would wait for ever
                self._error = error
        return _STUDY_ENDS

    def _on_disk(self, decisions: list[Decision]) -> list[Decision]:
        """The decisions, when the messages are where a power cut leaves them."""
        try:
            self._sync()
        except BaseException as error:
            self._error = self._error or error
            return [_STUDY_ENDS] * len(decisions)
        return decisions

    def check(self) -> None:
        """Raises what went wrong in the thread: the study can't continue."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._closed = True
        ray.kill(self.queue)
        self.join()
