"""Reports on their way from the trials to the study's runner, without a turn of Ray Tune's loop for each.

Tune takes several milliseconds for a report, one after the other. Only what Tune decides on goes to it: a report that
the scheduler waits for, one of a study that is to stop, and a trial's end. Every report is in the journal before its
trial goes on, so a kill loses none.

    trial:   answer = post(trial, report) ──> ReportBox <── take(answers) ── runner's thread ──> heard(trial, report)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.assignment import Answer, Assignment, Post

_MOST_AT_ONCE = 10_000  # posts that wait; Ray queues those beyond

_STOP = Answer(ask_tune=True, keep=True)

Posted = tuple[int, dict[str, Any]]
"""A trial's number and its report."""


class ReportBox:
    """An actor beside the runner. All methods run on one event loop."""

    def __init__(self) -> None:
        self._posted: list[tuple[Posted, asyncio.Future[Answer]]] = []
        self._taken: list[asyncio.Future[Answer]] = []
        self._arrived = asyncio.Event()

    async def post(self, trial: int, report: dict[str, Any]) -> Answer:
        """Hand a report to the runner. Returns when it is in the journal."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._posted.append(((trial, report), answer))
        self._arrived.set()
        return await answer

    async def take(self, answers: list[Answer]) -> list[Posted]:
        """Answer the posts taken last, and take those that have come since; waits until there are any."""
        for future, answer in zip(self._taken, answers, strict=True):
            if not future.done():  # a trial whose process died waits no more
                future.set_result(answer)
        self._taken = []
        await self._arrived.wait()
        self._arrived.clear()
        taken, self._posted = self._posted, []
        self._taken = [answer for _, answer in taken]
        return [posted for posted, _ in taken]


def post_of(assignment: Assignment) -> Post:
    """How a trial posts its reports, in whatever process it runs."""

    def post(report: dict[str, Any]) -> Answer:
        answer: Answer = ray.get(assignment.box.post.remote(assignment.trial, report))
        return answer

    return post


class Reports(threading.Thread):
    """The runner's side: has every report heard, until closed."""

    def __init__(self, heard: Callable[[int, dict[str, Any]], Answer], sync: Callable[[], None]):
        """heard: called in this thread with a trial's number and its report.

        sync: called before any of those heard since is answered; one for all, since it waits for the disk.
        """
        super().__init__(name="reports", daemon=True)
        self._heard, self._sync = heard, sync
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": _MOST_AT_ONCE, "scheduling_strategy": here}
        self.box: Any = ray.remote(ReportBox).options(**options).remote()
        """The actor's handle, for the trials."""
        self._closed = False
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        answers: list[Answer] = []
        try:
            while True:
                posted: list[Posted] = ray.get(self.box.take.remote(answers))
                answers = self._on_disk([self._answer(trial, report) for trial, report in posted])
        except ray.exceptions.RayError as error:
            if not self._closed:
                self._error = error

    def _answer(self, trial: int, report: dict[str, Any]) -> Answer:
        if self._error is None:
            try:
                return self._heard(trial, report)
            except BaseException as error:  # were the thread to end, every trial would wait for ever
                self._error = error
        # The study ends: Tune stops whoever asks it.
        return _STOP

    def _on_disk(self, answers: list[Answer]) -> list[Answer]:
        """The answers, when what they answer is where a power cut leaves it."""
        try:
            self._sync()
        except BaseException as error:
            self._error = self._error or error
            return [_STOP] * len(answers)
        return answers

    def check(self) -> None:
        """Raises what went wrong in the thread: the study can't go on."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._closed = True
        ray.kill(self.box)
        self.join()
