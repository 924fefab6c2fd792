"""Sampler and scheduler, and both rebuilt from a record."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.utils.object_cache import _ObjectCache

from tuner import search
from tuner.cluster import Plan
from tuner.record import StudyRecord
from tuner.search import Outcome, StudySearch, is_on_rung, study_scheduler
from tuner.slots import SlotPool
from tuner.storage import Storage
from tuner.study import StudySpec, override_study


def spec(**tables: Any) -> StudySpec:
    raw: dict[str, Any] = {
        "name": "s",
        "workload": "tests.workloads.replay",
        "objective": {"metric": "score"},
        "budget": {"trials": 10},
        "space": {"x": {"type": "float", "low": 0, "high": 1}},
    }
    return StudySpec.model_validate(raw | tables)


def nothing(number: int, given_up: bool) -> Outcome:
    """What to do with a trial's end."""
    return Outcome()


def pool(record: StudyRecord, slots: int) -> SlotPool:
    """Slots in Tune's own processes."""
    return SlotPool(record.spec, Storage("/nowhere"), Plan(slots, 1, 0, 1, slots, 0))


class Tune:
    """What Ray Tune does around a search: asks for a trial, runs it, tells its end, with events in a record."""

    def __init__(self, record: StudyRecord, slots: int = 1):
        self.record = record
        self.search = StudySearch(record, pool(record, slots), self.ended)
        self.ends: dict[int, dict[str, Any]] = {}
        self.clock = 0.0
        self.lost = False

    def event(self, event: str, **fields: Any) -> None:
        self.clock += 1
        self.record.apply({"event": event, "time": self.clock, **fields})

    def ended(self, number: int, given_up: bool) -> Outcome:
        if self.lost:
            return Outcome(ended=False, slot_is_lost=True)
        trial = self.record.trials[number]
        end = self.ends.get(number, {"state": "finished"})
        self.event("end", trial=number, reason=None, value=trial.value, best_epoch=trial.best_epoch, **end)
        return Outcome()

    def begin(self, name: str) -> tuple[int, dict[str, Any]]:
        config = self.search.suggest(name)
        assert isinstance(config, dict), config
        self.event("start", trial=config["trial"], params=config["params"])
        return config["trial"], config["params"]

    def report(self, number: int, epoch: int, value: float) -> None:
        self.event("report", trial=number, epoch=epoch, metrics={"score": value})

    def run(self, name: str, value: float | None, state: str = "finished") -> dict[str, Any]:
        """One trial from begin to end; value None: it fails before it reports."""
        number, params = self.begin(name)
        if value is not None:
            self.report(number, 1, value)
        self.ends[number] = {"state": state}
        self.search.on_trial_complete(name)
        return params


def test_a_study_proposes_as_many_trials_as_its_budget_has() -> None:
    tune = Tune(StudyRecord(spec(budget={"trials": 3})))
    for number in range(3):
        tune.run(str(number), 0.5)
    assert tune.search.suggest("4") == "FINISHED"


def test_no_trial_is_proposed_while_no_slot_is_free() -> None:
    tune = Tune(StudyRecord(spec()), slots=2)
    tune.begin("a")
    tune.begin("b")
    assert tune.search.suggest("c") is None
    tune.search.on_trial_complete("a")
    assert isinstance(tune.search.suggest("c"), dict)


def test_first_trials_come_first_as_they_are() -> None:
    tune = Tune(StudyRecord(spec(first_trials=[{"x": 0.25}, {"x": 0.75}])))
    assert [tune.run(str(n), 0.5)["x"] for n in range(2)] == [0.25, 0.75]
    assert tune.run("3", 0.5)["x"] not in (0.25, 0.75)


def test_a_first_trial_that_leaves_settings_out_has_them_sampled() -> None:
    space = {"x": {"type": "float", "low": 0, "high": 1}, "batch_size": {"type": "int", "low": 1, "high": 8}}
    params = Tune(StudyRecord(spec(space=space, first_trials=[{"x": 0.25}]))).run("1", 0.5)
    assert params["x"] == 0.25
    assert params["batch_size"] in range(1, 9)


def test_a_budget_below_the_number_of_first_trials_is_kept() -> None:
    tune = Tune(StudyRecord(spec(budget={"trials": 1}, first_trials=[{"x": 0.25}, {"x": 0.75}])))
    tune.run("1", 0.5)
    assert tune.search.suggest("2") == "FINISHED"


def test_the_same_seed_proposes_the_same_settings() -> None:
    runs = [[Tune(StudyRecord(spec(search={"seed": seed}))) for _ in range(2)] for seed in (1, 2)]
    drawn = [[[tune.run(str(n), 0.1 * n)["x"] for n in range(10)] for tune in same] for same in runs]
    assert drawn[0][0] == drawn[0][1]
    assert drawn[0][0] != drawn[1][0]


def test_a_resumed_search_draws_no_setting_again() -> None:
    for sampler in ("random", "tpe"):
        tune = Tune(StudyRecord(spec(search={"sampler": sampler}, budget={"trials": 8})))
        before = [tune.run(str(n), 0.5)["x"] for n in range(4)]
        again = Tune(tune.record)
        assert not set(before) & {again.run(f"again-{n}", 0.5)["x"] for n in range(4)}
        assert again.search.suggest("9") == "FINISHED"


def test_an_interrupted_trial_comes_first_with_its_own_number_and_setting() -> None:
    tune = Tune(StudyRecord(spec()), slots=2)
    tune.run("1", 0.5)
    number, params = tune.begin("2")
    tune.event("stop", state="interrupted", reason=None)
    assert Tune(tune.record).begin("again") == (number, params)


def test_a_trial_that_a_kill_left_out_is_run_by_the_resumed_study() -> None:
    record = StudyRecord(spec(budget={"trials": 3}))
    # The second trial's process was up first; then the driver died.
    record.apply({"event": "start", "time": 1.0, "trial": 2, "params": {"x": 0.2}})
    record.apply({"event": "stop", "time": 2.0, "state": "interrupted", "reason": None})
    tune = Tune(record)
    numbers = []
    for name in "abc":
        numbers.append(tune.begin(name)[0])
        tune.search.on_trial_complete(name)
    assert sorted(numbers) == [1, 2, 3]
    assert tune.search.suggest("d") == "FINISHED"


def test_a_trial_whose_slot_did_not_answer_is_proposed_again_even_if_it_was_the_last() -> None:
    tune = Tune(StudyRecord(spec(budget={"trials": 1})))
    number, params = tune.begin("lost")
    # Once a search has said that it is finished, Tune never asks again.
    assert tune.search.suggest("next") is None
    tune.search.requeue("lost")
    assert not tune.search.expects("lost")
    assert tune.begin("again") == (number, params)


def test_a_trial_that_lost_its_slot_is_proposed_again_on_another() -> None:
    tune = Tune(StudyRecord(spec(budget={"trials": 1})))
    number, params = tune.begin("lost")
    tune.lost = True
    tune.search.on_trial_complete("lost")
    tune.lost = False
    again = tune.search.suggest("again")
    assert (again["trial"], again["params"]) == (number, params)
    assert again["place"] == 2, "the slot that is gone is nobody's"
    assert tune.search.suggest("no other") is None


def test_a_setting_that_the_space_holds_no_longer_goes_on_as_it_is_and_teaches_optuna_nothing_else() -> None:
    space = {"x": {"type": "float", "low": 0, "high": 1}, "batch_size": {"type": "int", "low": 1, "high": 9}}
    tune = Tune(StudyRecord(spec(space=space)), slots=2)
    began = [tune.begin("1"), tune.begin("2")]
    tune.event("stop", state="interrupted", reason=None)
    changed = override_study(tune.record.spec, [f"space.x.low={max(params['x'] for _, params in began) + 1e-6}"])
    tune.record.spec = changed
    again = Tune(tune.record, slots=2)
    assert [again.begin("1 again"), again.begin("2 again")] == began
    # The first one's slot doesn't answer.
    again.search.requeue("1 again")
    assert again.begin("1 on another slot") == began[0]
    for name, (number, _) in zip(("1 on another slot", "2 again"), began, strict=True):
        again.report(number, 1, 0.9)
        again.search.on_trial_complete(name)
    assert [trial.params for trial in again.search._study.get_trials(states=[TrialState.COMPLETE])] == []


def test_a_closed_search_proposes_nothing_more() -> None:
    closed = False
    record = StudyRecord(spec())
    search = StudySearch(record, pool(record, 2), nothing, lambda: closed)
    search.suggest("a")
    closed = True
    assert search.suggest("b") is None
    search.on_trial_complete("a")
    assert search.suggest("b") == "FINISHED"


def test_a_study_may_be_gone_on_with_in_another_space() -> None:
    space = {
        "x": {"type": "float", "low": 0, "high": 1},
        "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
        "batch_size": {"type": "int", "low": 1, "high": 9, "step": 4},
    }
    firsts = [{"x": 0.9, "optimizer": "sgd", "batch_size": 9}] * 2
    tune = Tune(StudyRecord(spec(space=space, first_trials=firsts)), slots=1)
    tune.run("1", 0.5)
    _, params = tune.begin("2")
    tune.event("stop", state="interrupted", reason=None)
    changes = ["space.x.high=0.5", 'space.optimizer.choices=["adam"]', "space.batch_size.high=5", "first_trials=[]"]
    tune.record.spec = override_study(tune.record.spec, changes)
    again = Tune(tune.record)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again.begin("2 again") == (2, params)
        again.search.on_trial_complete("2 again")
        assert again.run("3", 0.5)["x"] <= 0.5


def test_a_failed_trial_turns_the_sampler_away_from_its_like() -> None:
    """Half of the settings fail; a sampler that isn't told of failures proposes them more often than not."""
    counts = {told: [failing_proposals(seed, told) for seed in range(4)] for told in (True, False)}
    assert sum(counts[True]) / 4 < 0.6 * sum(counts[False]) / 4, counts


def failing_proposals(seed: int, told: bool, trials: int = 40) -> int:
    """How often a failing setting is proposed. told False: failures are told as Optuna's FAIL, as OptunaSearch does."""
    space = {"batch_size": {"type": "choice", "choices": [1, 2, 4, 8]}, "x": {"type": "float", "low": 0, "high": 1}}
    tune = Tune(StudyRecord(spec(space=space, budget={"trials": trials}, search={"seed": seed})))
    failed = 0
    for number in range(trials):
        name = str(number)
        trial, params = tune.begin(name)
        if params["batch_size"] < 4:
            tune.report(trial, 1, params["x"])
        else:
            failed += 1
            tune.ends[trial] = {"state": "failed"}
            if not told:
                # All that StudySearch's rule needs is a value that was seen; without any it tells FAIL.
                worst, tune.record.worst_value = tune.record.worst_value, None
                tune.search.on_trial_complete(name)
                tune.record.worst_value = worst
                continue
        tune.search.on_trial_complete(name)
    return failed


@pytest.mark.parametrize(("direction", "worst"), [("maximize", 0.1), ("minimize", 0.8)])
def test_a_failed_trial_is_told_as_the_worst_value_that_was_seen(direction: str, worst: float) -> None:
    tune = Tune(StudyRecord(spec(objective={"metric": "score", "direction": direction})))
    number, _ = tune.begin("1")
    for epoch, value in enumerate((0.1, 0.8, 0.5), start=1):
        tune.report(number, epoch, value)
    tune.search.on_trial_complete("1")
    tune.run("2", None, state="failed")
    best = 0.8 if direction == "maximize" else 0.1
    assert [trial.value for trial in tune.search._study.trials] == [best, worst]
    # A resumed study knows the same.
    assert sorted(trial.value or 0 for trial in Tune(tune.record).search._study.trials) == sorted([best, worst])


def test_a_failure_before_any_value_was_seen_is_told_as_failed() -> None:
    tune = Tune(StudyRecord(spec()))
    tune.run("1", None, state="failed")
    (trial,) = tune.search._study.trials
    assert trial.state.name == "FAIL"


def test_a_stopped_trial_is_told_with_its_best_value_not_its_last() -> None:
    tune = Tune(StudyRecord(spec()))
    number, _ = tune.begin("1")
    for epoch, value in enumerate((0.3, 0.9, 0.2), start=1):
        tune.report(number, epoch, value)
    tune.ends[number] = {"state": "stopped"}
    tune.search.on_trial_complete("1")
    assert tune.search._study.trials[0].value == 0.9


def test_slots_follow_a_plan_that_shares_gpus_when_their_trials_have_ended() -> None:
    record = StudyRecord(spec())
    slots = SlotPool(record.spec, Storage("/nowhere"), Plan(1, 1, 1, 1, 8, 1))
    alone = slots.take()
    assert alone is not None
    assert alone.config() == {"slot": None, "gpus": 1, "place": 1}
    tune = SimpleNamespace(_actor_cache=_ObjectCache())
    slots.keep_warm(tune)
    assert tune._actor_cache.total_max_objects == 1
    assert slots.take() is None
    slots.follow(Plan(4, 1, 0.25, 1, 8, 1))
    shared = [slots.take() for _ in range(3)]
    assert [slot and slot.gpus for slot in shared] == [0.25] * 3
    assert slots.take() is None, "the trial that began alone still runs"
    slots.keep_warm(tune)
    slots.give(alone)
    assert not tune._actor_cache.cache_object(slots._plan.trial_request(1, 1), "the process of the one that was alone")
    last = slots.take()
    assert last is not None
    assert last.gpus == 0.25


def test_each_slot_keeps_its_own_process_until_nothing_is_left_to_run() -> None:
    record = StudyRecord(spec(budget={"trials": 3}))
    slots = pool(record, 2)
    search = StudySearch(record, slots, nothing)
    processes = _ObjectCache()
    tune = SimpleNamespace(_actor_cache=processes)

    def request(config: Any) -> Any:
        return slots._plan.trial_request(config["gpus"], config["place"])

    one, two = search.suggest("1"), search.suggest("2")
    assert request(one) != request(two), "else Tune would give one's process to the other"
    slots.keep_warm(tune)
    # Both end in the same turn of Tune's loop.
    for name, config in (("1", one), ("2", two)):
        search.on_trial_complete(name)
        assert processes.cache_object(request(config), name)
    assert not list(processes.flush_cached_objects())
    three = search.suggest("3")
    slots.keep_warm(tune)
    assert processes.pop_cached_object(request(three)) in ("1", "2")
    assert search.suggest("4") is None, "nothing is left to run"
    processes.increase_max("what another study of this Ray waits for")
    assert len(list(processes.flush_cached_objects())) == 1, "the slot that is free ends"


# The scheduler


TUNE: Any = None  # the controller, which ASHA never asks


def proxy(number: int) -> Any:
    return SimpleNamespace(config={"trial": number}, trial_id=f"tune-{number}")


def told(record: StudyRecord, number: int, epoch: int, value: float) -> dict[str, Any]:
    """A report into the record, and what Tune hands to the scheduler for it."""
    if number not in record.trials:
        record.apply({"event": "start", "time": 0.0, "trial": number, "params": {"x": 0.1}})
    record.apply({"event": "report", "time": 0.0, "trial": number, "epoch": epoch, "metrics": {"score": value}})
    return {"epoch": epoch, "best": record.trials[number].value}


def asha(**table: Any) -> StudySpec:
    return spec(scheduler={"name": "asha", **table}, budget={"trials": 1000})


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("break_at", [7, 40, 111])
def test_rungs_rebuilt_from_a_record_decide_as_the_unbroken_scheduler_does(break_at: int, direction: str) -> None:
    """Trials in random interleaving; at some event the driver dies, and the open trials go on under new names."""
    settings = asha(reduction_factor=2).model_dump() | {"objective": {"metric": "score", "direction": direction}}
    record = StudyRecord(StudySpec.model_validate(settings))
    draw = random.Random(break_at)
    unbroken = AsyncHyperBandScheduler(
        time_attr="epoch", metric="best", mode=record.spec.mode, max_t=10**6, grace_period=1, reduction_factor=2
    )
    resumed: TrialScheduler | None = None
    running: dict[int, int] = {}
    number = 0
    compared = 0
    for step in range(160):
        if step == break_at:
            resumed = study_scheduler(record, pool(record, 1))
            for open_trial in running:
                resumed.on_trial_add(TUNE, proxy(open_trial))
        if len(running) < 3:
            number += 1
            running[number] = 0
            for scheduler in (unbroken, resumed):
                if scheduler:
                    scheduler.on_trial_add(TUNE, proxy(number))
        trial = draw.choice(list(running))
        running[trial] += 1
        result = told(record, trial, running[trial], draw.random())
        decision = unbroken.on_trial_result(TUNE, proxy(trial), result)
        if resumed:
            assert resumed.on_trial_result(TUNE, proxy(trial), result) == decision, step
            compared += 1
        if decision == TrialScheduler.STOP or running[trial] == 20:
            end = {"state": "stopped", "reason": "asha", "value": 0.0, "best_epoch": 1}
            record.apply({"event": "end", "time": 0.0, "trial": trial, **end})
            del running[trial]
    assert compared > 40


@pytest.mark.parametrize(("grace", "factor"), [(1, 3), (2, 2), (3, 2.5)])
def test_the_scheduler_decides_the_same_when_it_sees_rungs_alone(grace: int, factor: float) -> None:
    record = StudyRecord(asha(grace_epochs=grace, reduction_factor=factor))
    sees_all, sees_rungs = study_scheduler(record, pool(record, 1)), study_scheduler(record, pool(record, 1))
    draw = random.Random(grace)
    shown = stopped = 0
    for number in range(1, 60):
        for scheduler in (sees_all, sees_rungs):
            scheduler.on_trial_add(TUNE, proxy(number))
        for epoch in range(1, 31):
            result = told(record, number, epoch, draw.random())
            decision = sees_all.on_trial_result(TUNE, proxy(number), result)
            if is_on_rung(record.spec.scheduler, epoch - 1, epoch):
                shown += 1
                assert sees_rungs.on_trial_result(TUNE, proxy(number), result) == decision
            else:
                assert decision == TrialScheduler.CONTINUE
            if decision == TrialScheduler.STOP:
                stopped += 1
                break
    assert shown > stopped > 10


def test_a_report_that_comes_again_is_decided_on_again() -> None:
    table = asha(grace_epochs=2).scheduler
    assert is_on_rung(table, 2, 2)
    assert not is_on_rung(table, 2, 3)
    assert not is_on_rung(spec(scheduler={"name": "none"}).scheduler, 1, 1)


def test_a_dip_after_its_best_does_not_stop_a_trial() -> None:
    record = StudyRecord(asha(grace_epochs=3))
    scheduler = study_scheduler(record, pool(record, 1))
    for number, curve in {1: (0.6, 0.7, 0.8), 2: (0.5, 0.6, 0.7), 3: (0.5, 0.9, 0.1)}.items():
        scheduler.on_trial_add(TUNE, proxy(number))
        decisions = [
            scheduler.on_trial_result(TUNE, proxy(number), told(record, number, epoch, value))
            for epoch, value in enumerate(curve, start=1)
        ]
        assert decisions[:2] == [TrialScheduler.CONTINUE] * 2
        # The dip comes at the rung; the best before it is the best of all.
        assert decisions[2] == (TrialScheduler.STOP if number == 2 else TrialScheduler.CONTINUE)


def test_no_trial_is_stopped_in_its_grace_epochs() -> None:
    record = StudyRecord(asha(grace_epochs=4))
    scheduler = study_scheduler(record, pool(record, 1))
    for number in range(1, 8):
        scheduler.on_trial_add(TUNE, proxy(number))
        for epoch in range(1, 4):
            result = told(record, number, epoch, 1 / number)
            assert scheduler.on_trial_result(TUNE, proxy(number), result) == TrialScheduler.CONTINUE


def test_a_trials_end_is_no_report_to_the_scheduler() -> None:
    scheduler = study_scheduler(StudyRecord(asha()), pool(StudyRecord(asha()), 1))
    scheduler.on_trial_add(TUNE, proxy(1))
    end = {"end": {"state": "finished", "reason": None}}
    assert scheduler.on_trial_result(TUNE, proxy(1), end) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(TUNE, proxy(1), end)


def test_a_study_without_a_scheduler_stops_nothing() -> None:
    record = StudyRecord(spec(scheduler={"name": "none"}))
    assert isinstance(study_scheduler(record, pool(record, 1)), FIFOScheduler)


def test_more_trials_run_as_slots_come_and_fewer_as_they_go() -> None:
    record = StudyRecord(spec())
    slots = pool(record, 1)
    search = StudySearch(record, slots, nothing)
    assert isinstance(search.suggest("1"), dict)
    assert search.suggest("2") is None
    slots.resize(2)
    assert isinstance(search.suggest("2"), dict)
    slots.resize(1)
    search.on_trial_complete("1")
    assert search.suggest("3") is None
    search.on_trial_complete("2")
    assert isinstance(search.suggest("3"), dict)


def test_a_search_is_pickled_empty_whatever_it_holds(tmp_path: Path) -> None:
    record = StudyRecord(spec())
    search = StudySearch(record, pool(record, 1), nothing)
    search.save(str(tmp_path / "checkpoint"))
    assert search.__getstate__() == {}
    assert not list(tmp_path.iterdir())


def test_a_large_study_shows_optuna_its_best_and_newest_trials_and_keeps_those_that_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, count in {"_BEST_KNOWN": 10, "_NEWEST_KNOWN": 20, "_MOST_KNOWN": 50}.items():
        monkeypatch.setattr(search, name, count)
    record = StudyRecord(spec(budget={"trials": 200}))
    tune = Tune(record, slots=2)
    number, params = tune.begin("runs on")
    for n in range(110):
        tune.run(f"t{n}", value=(n * 7919) % 1100)
    known = [trial for trial in tune.search._study.trials if trial.state.is_finished()]
    assert len(known) < 60
    best = sorted((trial.value for trial in record.ranking()[:10] if trial.value is not None), reverse=True)
    assert sorted((trial.value for trial in known if trial.value is not None), reverse=True)[:10] == best
    tune.report(number, 1, 5000.0)
    tune.search.on_trial_complete("runs on")
    assert tune.search._study.best_trial.params == params
