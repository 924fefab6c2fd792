"""The queue between trials and runner, with trials that are coroutines."""

from __future__ import annotations

import asyncio

from tuner.worker.messages import Action, Decision, Report
from tuner.worker.report_queue import ReportQueue

GO_ON, STOP = Decision(Action.CONTINUE), Decision(Action.STOP, keep=True)
REPORT = Report(1, {"score": 0.5})


def test_a_report_is_decided_on_when_it_has_been_received_and_not_before() -> None:
    async def body() -> None:
        queue = ReportQueue()
        first, second = (asyncio.create_task(queue.send(trial, REPORT)) for trial in (1, 2))
        assert await queue.take([]) == [(1, REPORT), (2, REPORT)]
        late = asyncio.create_task(queue.send(3, REPORT))
        await asyncio.sleep(0)
        assert not first.done()
        assert not second.done()
        assert await queue.take([GO_ON, STOP]) == [(3, REPORT)]
        assert [await first, await second] == [GO_ON, STOP]
        assert not late.done()

    asyncio.run(body())


def test_the_runner_waits_while_nothing_is_sent() -> None:
    async def body() -> None:
        queue = ReportQueue()
        taking = asyncio.create_task(queue.take([]))
        await asyncio.sleep(0.01)
        assert not taking.done()
        sending = asyncio.create_task(queue.send(1, REPORT))
        assert await taking == [(1, REPORT)]
        sending.cancel()

    asyncio.run(body())


def test_a_trial_whose_process_died_holds_up_nobody() -> None:
    async def body() -> None:
        queue = ReportQueue()
        dying, living = (asyncio.create_task(queue.send(trial, REPORT)) for trial in (1, 2))
        await queue.take([])
        dying.cancel()
        await asyncio.sleep(0)
        taking = asyncio.create_task(queue.take([STOP, GO_ON]))
        assert await living == GO_ON
        taking.cancel()

    asyncio.run(body())
