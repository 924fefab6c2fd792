"""The protocol between a group's ranks, its slot and Tune, with ranks that are coroutines."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from tuner import group
from tuner.assignment import Assignment
from tuner.group import GroupSlot, Verdict
from tuner.storage import Storage
from tuner.study import StudySpec

REPORT: dict[str, Any] = {"epoch": 1, "best": 0.5}
FINISHED: dict[str, Any] = {"end": {"state": "finished", "reason": None}}
FAILED: dict[str, Any] = {"end": {"state": "failed", "reason": "ValueError: no"}}


class Slot(GroupSlot):
    """A slot whose group is a thread that ends when told: what Ray does beside it isn't looked at here."""

    def __init__(self, tmp_path: Path, workers: int = 2):
        spec = {
            "name": "s",
            "objective": {"metric": "score"},
            "budget": {"trials": 1},
            "resources": {"workers": workers},
            "space": {"x": {"type": "float", "low": 0, "high": 1}},
        }
        super().__init__(StudySpec.model_validate(spec), Storage(str(tmp_path)), {"CPU": 1, "GPU": 0}, "slot")
        self.lives: list[threading.Event] = []
        self.over = False

    @property
    def groups(self) -> int:
        """How many groups there have been."""
        return len(self.lives)

    def _hold_group(self, loop: asyncio.AbstractEventLoop) -> None:
        death = threading.Event()
        self.lives.append(death)
        while not death.wait(0.01) and not self.over:
            pass
        asyncio.run_coroutine_threadsafe(self._group_ended("a worker died"), loop).result()

    def end_group(self) -> None:
        self.lives[-1].set()

    async def end(self) -> None:
        """Nothing of it outlives its test."""
        self.over = True
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)


def assignment(trial: int) -> Assignment:
    return Assignment(trial, {}, 0.0)


def run(body: Any, tmp_path: Path) -> None:
    """Run a test's coroutine on a slot, and end the slot's group after it."""

    async def whole() -> None:
        slot = Slot(tmp_path)
        try:
            await asyncio.wait_for(body(slot), 30)
        finally:
            await slot.end()

    asyncio.run(whole())


async def groups(slot: Slot, expected: int) -> None:
    """The newest group's thread may not have begun yet."""
    await asyncio.sleep(0.05)
    assert slot.groups == expected


async def both(slot: Slot, serial: int, events: tuple[Any, Any]) -> list[asyncio.Task[Any]]:
    """Two ranks tell; returns what they wait for."""
    tasks = [asyncio.create_task(slot.tell(rank, serial, event)) for rank, event in enumerate(events)]
    await asyncio.sleep(0)
    return tasks


async def next_of(slot: Slot, done: int) -> list[Any]:
    """What two ranks get that ask for the trial after this one."""
    return list(await asyncio.gather(*(slot.next_assignment(rank, done) for rank in range(2))))


def test_all_ranks_get_one_verdict_when_all_have_told(tmp_path: Path) -> None:
    async def body(slot: Slot) -> None:
        await slot.submit(assignment(1))
        assert await next_of(slot, 0) == [(1, assignment(1))] * 2
        verdicts: list[Verdict] = ["go on", "go on", "stop"]
        for verdict in verdicts:
            first = asyncio.create_task(slot.tell(1, 1, REPORT))
            event = asyncio.create_task(slot.next_event())
            await asyncio.sleep(0.01)
            assert not first.done()
            assert not event.done(), "rank 0 has not told"
            second = asyncio.create_task(slot.tell(0, 1, REPORT))
            assert await event == REPORT
            await slot.answer(verdict)
            assert [await first, await second] == [verdict, verdict]

    run(body, tmp_path)


def test_an_early_stop_keeps_the_group_for_the_next_trial(tmp_path: Path) -> None:
    async def body(slot: Slot) -> None:
        await slot.submit(assignment(1))
        ranks = await both(slot, 1, (REPORT, REPORT))
        await slot.next_event()
        await slot.answer("stop")
        assert await asyncio.gather(*ranks) == ["stop", "stop"]
        waiting = [asyncio.create_task(slot.next_assignment(rank, 1)) for rank in range(2)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        await slot.submit(assignment(2))
        assert await asyncio.gather(*waiting) == [(2, assignment(2))] * 2
        await groups(slot, 1)

    run(body, tmp_path)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_failure_of_one_rank_is_the_trials_end_whoever_tells_first(tmp_path: Path, order: tuple[int, int]) -> None:
    async def body(slot: Slot) -> None:
        await slot.submit(assignment(1))
        events = {0: REPORT, 1: FAILED}
        ranks = []
        for rank in order:
            ranks.append(asyncio.create_task(slot.tell(rank, 1, events[rank])))
            await asyncio.sleep(0.01)
        assert await slot.next_event() == FAILED
        await slot.answer("go on")
        # The ranks are out of step: who knows which collective each is in.
        assert await asyncio.gather(*ranks) == ["leave", "leave"]
        slot.end_group()
        await slot.submit(assignment(2))
        await groups(slot, 2)

    run(body, tmp_path)


def test_ranks_that_fail_alike_keep_their_group(tmp_path: Path) -> None:
    async def body(slot: Slot) -> None:
        await slot.submit(assignment(1))
        ranks = await both(slot, 1, (FAILED, FAILED))
        assert await slot.next_event() == FAILED
        await slot.answer("go on")
        assert await asyncio.gather(*ranks) == ["stop", "stop"]
        await slot.submit(assignment(2))
        await groups(slot, 1)

    run(body, tmp_path)


def test_a_rank_that_waits_for_a_failed_one_does_not_hold_up_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "_GRACE_SECONDS", 0.1)

    async def body(slot: Slot) -> None:
        await slot.submit(assignment(1))
        failed = asyncio.create_task(slot.tell(1, 1, FAILED))  # rank 0 hangs in a collective
        assert await slot.next_event() == FAILED
        await slot.answer("go on")
        assert await failed == "leave"

    run(body, tmp_path)


def test_a_ranks_death_is_not_the_others_failure(tmp_path: Path) -> None:
    async def body(slot: Slot) -> None:
        await slot.submit(assignment(1))
        # Rank 1's process is killed; rank 0 sees its connection reset, and tells that as its failure.
        survivor = asyncio.create_task(slot.tell(0, 1, FAILED))
        event = asyncio.create_task(slot.next_event())
        await asyncio.sleep(0.01)
        slot.end_group()
        with pytest.raises(RuntimeError, match="the worker group died: a worker died"):
            await event
        survivor.cancel()
        await slot.submit(assignment(1))
        await groups(slot, 2)

    run(body, tmp_path)


def test_a_death_in_mid_epoch_is_told_to_tune(tmp_path: Path) -> None:
    async def body(slot: Slot) -> None:
        await slot.submit(assignment(1))
        event = asyncio.create_task(slot.next_event())
        await asyncio.sleep(0.01)
        slot.end_group()
        with pytest.raises(RuntimeError, match="the worker group died"):
            await event
        # At once, while the thread that held the group may still be ending.
        await slot.submit(assignment(1))
        await groups(slot, 2)
        ranks = await both(slot, 2, (FINISHED, FINISHED))
        assert await slot.next_event() == FINISHED
        await slot.answer("go on")
        assert await asyncio.gather(*ranks) == ["stop", "stop"]

    run(body, tmp_path)


def test_a_trial_whose_passer_died_is_stopped_and_begun_anew_on_the_same_group(tmp_path: Path) -> None:
    async def body(slot: Slot) -> None:
        await slot.submit(assignment(1))
        told = asyncio.create_task(slot.tell(0, 1, REPORT))
        orphan = asyncio.create_task(slot.next_event())
        await asyncio.sleep(0.01)
        orphan.cancel()
        # Tune begins the trial again; one rank has told, the other is still in its epoch.
        await slot.submit(assignment(1))
        assert await told == "stop"
        first = asyncio.create_task(slot.next_assignment(0, 1))
        assert await slot.tell(1, 1, REPORT) == "stop"
        await asyncio.sleep(0.01)
        assert not first.done(), "the other rank may still write a checkpoint to go on from"
        assert [await slot.next_assignment(1, 1), await first] == [(2, assignment(1))] * 2
        ranks = await both(slot, 2, (REPORT, REPORT))
        assert await slot.next_event() == REPORT
        await slot.answer("go on")
        assert await asyncio.gather(*ranks) == ["go on", "go on"]
        await groups(slot, 1)

    run(body, tmp_path)


def test_closing_sends_home_ranks_that_tell_and_ranks_that_wait(tmp_path: Path) -> None:
    async def body(slot: Slot) -> None:
        await slot.submit(assignment(1))
        told = asyncio.create_task(slot.tell(0, 1, REPORT))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(slot.close())
        assert await told == "leave"
        assert await slot.tell(1, 1, REPORT) == "leave", "one that was in its epoch"
        assert await next_of(slot, 1) == [None, None]
        slot.end_group()
        await closing

    run(body, tmp_path)


def test_a_slot_that_never_ran_closes(tmp_path: Path) -> None:
    run(lambda slot: slot.close(), tmp_path)
