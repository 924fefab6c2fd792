"""The protocol between a group's ranks, its slot and the study's runner, with ranks that are coroutines."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.studies import study_spec
from tuner.storage.storage import Storage
from tuner.worker import group
from tuner.worker.group import GroupDiedError, GroupNotStartedError, GroupSlot
from tuner.worker.messages import Action, Assignment, Begun, Decision, End, Interruption, Message, Paused, Report

REPORT = Report(1, {"score": 0.5})
FINISHED, FAILED, STOPPED = End("finished"), End("failed", "ValueError: no"), End("stopped", "the test stops it")
CONTINUE, STOP = Decision(Action.CONTINUE), Decision(Action.STOP)
NODES = ("node-0", "node-1")


class Slot(GroupSlot):
    """A slot whose group is a thread that ends on request; Ray's part is not tested here."""

    def __init__(self, tmp_path: Path, workers: int = 2):
        spec = study_spec(resources={"workers": workers})
        super().__init__(spec, Storage(str(tmp_path)), {"CPU": 1, "GPU": 0}, "slot")
        self.lives: list[threading.Event] = []
        self.over = False

    @property
    def groups(self) -> int:
        """How many groups there have been."""
        return len(self.lives)

    def _run_group(self, loop: asyncio.AbstractEventLoop) -> None:
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


class Runner:
    """The study's runner, at the other end of the queue. Decides when a test says so."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[Message, asyncio.Future[Decision]]] = asyncio.Queue()
        self.send = self  # called as an actor's method is

    async def remote(self, trial: int, message: Message) -> Decision:
        decision: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        await self.received.put((message, decision))
        return await decision

    async def decide(self, decision: Decision) -> Message:
        """Decide on the next message, and return it."""
        message, future = await self.received.get()
        future.set_result(decision)
        return message


def assignment(trial: int, runner: Runner) -> Assignment:
    return Assignment(trial, {}, 0.0, queue=runner)


def run(body: Any, tmp_path: Path) -> None:
    """Run a test's coroutine on a slot and a runner, and end the slot's group after it."""

    async def whole() -> None:
        slot = Slot(tmp_path)
        try:
            await asyncio.wait_for(body(slot, Runner()), 30)
        finally:
            await slot.end()

    asyncio.run(whole())


async def settled() -> None:
    """Every coroutine has come as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def groups(slot: Slot, expected: int) -> None:
    """The newest group's thread may not have begun yet."""
    async with asyncio.timeout(5):
        while slot.groups < expected:
            await asyncio.sleep(0.001)
    assert slot.groups == expected


async def send(slot: Slot, serial: int, *messages: Message) -> list[asyncio.Task[Any]]:
    """The ranks send, the first one first; returns what they wait for."""
    tasks = []
    for rank, message in enumerate(messages):
        tasks.append(asyncio.create_task(slot.send(rank, serial, message)))
        await settled()
    return tasks


async def next_of(slot: Slot, done: int) -> list[Any]:
    """What two ranks get that ask for the trial after this one."""
    return list(await asyncio.gather(*(slot.next_assignment(rank, done, NODES[rank]) for rank in range(2))))


async def allowed(runner: Runner) -> None:
    """The driver lets a trial begin on its ranks' nodes."""
    assert await runner.decide(CONTINUE) == Begun(NODES)


async def begin(slot: Slot, runner: Runner, trial: int = 1) -> asyncio.Task[None]:
    """Tune's process has the slot run a trial."""
    task = asyncio.create_task(slot.run(assignment(trial, runner)))
    await settled()
    return task


def test_all_ranks_get_one_decision_when_all_have_sent(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        assigned, _ = await asyncio.gather(next_of(slot, 0), allowed(runner))
        assert assigned == [(1, assignment(1, runner))] * 2
        for decision in (CONTINUE, CONTINUE, STOP):
            late = asyncio.create_task(slot.send(1, 1, REPORT))
            await settled()
            assert not late.done()
            assert runner.received.empty(), "rank 0 has not sent"
            first = asyncio.create_task(slot.send(0, 1, REPORT))
            assert await runner.decide(decision) == REPORT
            assert [await late, await first] == [decision, decision]
        ranks = await send(slot, 1, STOPPED, STOPPED)
        assert await runner.decide(CONTINUE) == STOPPED
        assert await asyncio.gather(*ranks) == [STOP, STOP]
        await trial

    run(body, tmp_path)


def test_a_trial_that_is_stopped_keeps_the_group_for_the_next(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        await begin(slot, runner)
        ranks = await send(slot, 1, STOPPED, STOPPED)
        await runner.decide(CONTINUE)
        await asyncio.gather(*ranks)
        waiting = [asyncio.create_task(slot.next_assignment(rank, 1, NODES[rank])) for rank in range(2)]
        await settled()
        assert not any(task.done() for task in waiting)
        second = await begin(slot, runner, 2)
        await allowed(runner)
        assert await asyncio.gather(*waiting) == [(2, assignment(2, runner))] * 2
        await groups(slot, 1)
        second.cancel()

    run(body, tmp_path)


def test_a_trial_that_pauses_leaves_the_group_to_the_next(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        ranks = await send(slot, 1, Paused(("images/a.png",)), Paused())
        assert await runner.decide(CONTINUE) == Paused(("images/a.png",))
        await asyncio.gather(*ranks)
        await trial
        await begin(slot, runner, 2)
        assigned, _ = await asyncio.gather(next_of(slot, 1), allowed(runner))
        assert assigned == [(2, assignment(2, runner))] * 2

    run(body, tmp_path)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_failure_of_one_rank_is_the_trials_end_whoever_sends_first(tmp_path: Path, order: tuple[int, int]) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        messages: dict[int, Message] = {0: REPORT, 1: FAILED}
        ranks = []
        for rank in order:
            ranks.append(asyncio.create_task(slot.send(rank, 1, messages[rank])))
            await settled()
        assert await runner.decide(CONTINUE) == FAILED
        # The ranks are out of step: who knows which collective each is in.
        assert await asyncio.gather(*ranks) == [None, None]
        await trial
        slot.end_group()
        second = await begin(slot, runner, 2)
        await groups(slot, 2)
        second.cancel()

    run(body, tmp_path)


def test_ranks_that_fail_alike_keep_their_group(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        await begin(slot, runner)
        ranks = await send(slot, 1, FAILED, FAILED)
        assert await runner.decide(CONTINUE) == FAILED
        assert await asyncio.gather(*ranks) == [STOP, STOP]
        second = await begin(slot, runner, 2)
        await groups(slot, 1)
        second.cancel()

    run(body, tmp_path)


def test_a_rank_whose_process_is_tainted_ends_the_group_with_its_trial(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        await begin(slot, runner)
        ranks = await send(slot, 1, End("failed", "no memory", tainted=True), FAILED)
        await runner.decide(CONTINUE)
        assert await asyncio.gather(*ranks) == [None, None]

    run(body, tmp_path)


def test_a_rank_that_waits_for_a_failed_one_does_not_hold_up_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "GRACE_SECONDS", 0.1)

    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        failed = asyncio.create_task(slot.send(1, 1, FAILED))  # rank 0 hangs in a collective
        assert await runner.decide(CONTINUE) == FAILED
        assert await failed is None
        await trial

    run(body, tmp_path)


def test_a_refusal_of_one_ranks_storage_is_no_failure_of_the_trial(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        await begin(slot, runner)
        refused = Interruption("the disk is full", storage=True)
        await send(slot, 1, refused, FAILED)
        assert await runner.decide(CONTINUE) == refused

    run(body, tmp_path)


def test_a_ranks_death_is_not_the_others_failure(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        # Rank 1's process is killed; rank 0 sees its connection reset, and sends that as its failure.
        survivor = asyncio.create_task(slot.send(0, 1, FAILED))
        await settled()
        slot.end_group()
        with pytest.raises(RuntimeError, match="the worker group died: a worker died"):
            await trial
        assert runner.received.empty()
        survivor.cancel()
        again = await begin(slot, runner)
        await groups(slot, 2)
        again.cancel()

    run(body, tmp_path)


def test_a_death_in_mid_epoch_ends_the_attempt_and_the_next_has_a_new_group(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        slot.end_group()
        with pytest.raises(RuntimeError, match="the worker group died"):
            await trial
        # At once, while the thread that held the group may still be ending.
        again = asyncio.create_task(slot.run(assignment(1, runner)))
        await groups(slot, 2)
        ranks = await send(slot, 2, FINISHED, FINISHED)
        assert await runner.decide(CONTINUE) == FINISHED
        assert await asyncio.gather(*ranks) == [STOP, STOP]
        await again

    run(body, tmp_path)


def test_a_trial_whose_caller_died_is_stopped_and_restarted_on_the_same_group(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        orphan = await begin(slot, runner)
        sent = asyncio.create_task(slot.send(0, 1, REPORT))
        await settled()
        # Tune begins the trial again; one rank has sent, the other is still in its epoch.
        again = await begin(slot, runner)
        assert await sent == STOP
        await orphan
        first = asyncio.create_task(slot.next_assignment(0, 1, NODES[0]))
        assert await slot.send(1, 1, REPORT) == STOP
        await settled()
        assert not first.done(), "the other rank may still write a checkpoint to resume from"
        second = asyncio.create_task(slot.next_assignment(1, 1, NODES[1]))
        await allowed(runner)
        assert [await second, await first] == [(2, assignment(1, runner))] * 2
        ranks = await send(slot, 2, REPORT, REPORT)
        assert await runner.decide(CONTINUE) == REPORT
        assert await asyncio.gather(*ranks) == [CONTINUE, CONTINUE]
        await groups(slot, 1)
        again.cancel()

    run(body, tmp_path)


def test_ranks_begin_when_the_driver_allows_their_nodes_and_it_is_asked_again_until_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "_ASK_SECONDS", 0.01)

    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        ranks = asyncio.create_task(next_of(slot, 0))
        for _ in range(3):
            assert await runner.decide(Decision(Action.WAIT)) == Begun(NODES)
        assert not ranks.done()
        await runner.decide(CONTINUE)
        assert await ranks == [(1, assignment(1, runner))] * 2
        slot.end_group()
        with pytest.raises(GroupDiedError) as caught:
            await trial
        assert type(caught.value) is GroupDiedError

    run(body, tmp_path)


def test_a_group_on_a_node_that_is_left_out_shuts_down_and_its_trial_sends_nothing(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        ranks = asyncio.create_task(next_of(slot, 0))
        await runner.decide(STOP)
        assert await ranks == [None, None]
        await trial
        assert runner.received.empty()

    run(body, tmp_path)


def test_a_group_that_dies_before_all_ranks_are_there_has_not_started(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        first = asyncio.create_task(slot.next_assignment(0, 0, NODES[0]))
        await settled()
        slot.end_group()
        with pytest.raises(GroupNotStartedError, match="a worker died"):
            await trial
        first.cancel()

    run(body, tmp_path)


def test_closing_ends_ranks_that_send_and_ranks_that_wait(tmp_path: Path) -> None:
    async def body(slot: Slot, runner: Runner) -> None:
        trial = await begin(slot, runner)
        sent = asyncio.create_task(slot.send(0, 1, REPORT))
        await settled()
        closing = asyncio.create_task(slot.close())
        assert await sent is None
        assert await slot.send(1, 1, REPORT) is None, "one that was in its epoch"
        assert await next_of(slot, 1) == [None, None]
        await trial
        slot.end_group()
        await closing

    run(body, tmp_path)


def test_a_slot_that_never_ran_closes(tmp_path: Path) -> None:
    run(lambda slot, _: slot.close(), tmp_path)
