"""The box between trials and runner, with trials that are coroutines."""

from __future__ import annotations

import asyncio

from tuner.assignment import Answer
from tuner.reports import ReportBox

GO_ON, ASK = Answer(ask_tune=False, keep=False), Answer(ask_tune=True, keep=True)


def test_a_report_is_answered_when_it_has_been_heard_and_not_before() -> None:
    async def body() -> None:
        box = ReportBox()
        first, second = (asyncio.create_task(box.post(trial, {"epoch": 1})) for trial in (1, 2))
        assert await box.take([]) == [(1, {"epoch": 1}), (2, {"epoch": 1})]
        late = asyncio.create_task(box.post(3, {"epoch": 1}))
        await asyncio.sleep(0)
        assert not first.done()
        assert not second.done()
        assert await box.take([GO_ON, ASK]) == [(3, {"epoch": 1})]
        assert [await first, await second] == [GO_ON, ASK]
        assert not late.done()

    asyncio.run(body())


def test_the_runner_waits_while_nothing_is_posted() -> None:
    async def body() -> None:
        box = ReportBox()
        taking = asyncio.create_task(box.take([]))
        await asyncio.sleep(0.01)
        assert not taking.done()
        posting = asyncio.create_task(box.post(1, {"epoch": 4}))
        assert await taking == [(1, {"epoch": 4})]
        posting.cancel()

    asyncio.run(body())


def test_a_trial_whose_process_died_holds_up_nobody() -> None:
    async def body() -> None:
        box = ReportBox()
        dying, living = (asyncio.create_task(box.post(trial, {"epoch": 1})) for trial in (1, 2))
        await box.take([])
        dying.cancel()
        await asyncio.sleep(0)
        taking = asyncio.create_task(box.take([ASK, GO_ON]))
        assert await living == GO_ON
        taking.cancel()

    asyncio.run(body())
