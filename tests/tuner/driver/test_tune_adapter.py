"""How a study works with Ray Tune, and each private part of Tune that it depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.tune.tune
from ray.air._internal import usage
from ray.train._internal.storage import StorageContext
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.utils.object_cache import _ObjectCache

from tests.studies import study_spec
from tuner.driver.cluster import Plan
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.driver.slots import SlotPool
from tuner.driver.tune_adapter import (
    StepHook,
    TrialSource,
    TuneEvents,
    WarmFifo,
    drop_statistics,
    forget_failure,
    process_cache,
    share_metadata,
)
from tuner.events.log import Journal
from tuner.events.state import StudyRecord
from tuner.storage.storage import Storage
from tuner.worker.messages import Begun, Interruption


class Study:
    """A study without Ray: its slots are processes that nobody starts."""

    def __init__(self, journal: Journal, trials: int = 10, slots: int = 1, record: StudyRecord | None = None):
        spec = study_spec(budget={"trials": trials})
        record = record or StudyRecord(spec)
        self.control = StudyControl()
        self.notes: list[str] = []
        self.recorder = Recorder(record, journal, self.control, [])
        self.plan = Plan(slots, 1, 0, 1, slots, 0)
        self.slots = SlotPool(spec, Storage("/nowhere"), self.plan)
        self.source = TrialSource(record, self.recorder, self.slots, self.control, self.notes.append)
        self.events = TuneEvents(self.recorder, self.source, self.control)

    def begin(self, trial_id: str) -> dict[str, Any]:
        config: dict[str, Any] = self.source.suggest(trial_id)
        assert isinstance(config, dict), config
        self.events.on_trial_start(0, [], SimpleNamespace(trial_id=trial_id, config=config, status="RUNNING"))
        return config


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(Storage(str(tmp_path)) / "s") as journal:
        yield journal


def test_no_trial_is_proposed_while_no_slot_is_free(journal: Journal) -> None:
    study = Study(journal, slots=2)
    study.begin("a")
    study.begin("b")
    assert study.source.suggest("c") is None
    study.source.on_trial_complete("a")
    assert isinstance(study.source.suggest("c"), dict)


def test_more_trials_run_as_slots_come_and_fewer_as_they_go(journal: Journal) -> None:
    study = Study(journal)
    study.slots.keep_warm(_ObjectCache())
    study.begin("1")
    assert study.source.suggest("2") is None
    study.slots.resize(2)
    study.begin("2")
    study.slots.keep_warm(_ObjectCache())
    study.slots.resize(1)
    study.source.on_trial_complete("1")
    assert study.source.suggest("3") is None
    study.source.on_trial_complete("2")
    assert isinstance(study.source.suggest("3"), dict)


def test_a_study_that_ends_proposes_nothing_more(journal: Journal) -> None:
    study = Study(journal, slots=2)
    study.begin("a")
    study.control.stop("interrupted", "SIGINT")
    # A trial that runs may be put back, and Tune never asks a searcher again that has finished.
    assert study.source.suggest("b") is None
    study.source.on_trial_complete("a")
    assert study.source.suggest("b") == "FINISHED"


def test_a_study_that_has_reached_its_limit_starts_no_trial_but_those_of_an_earlier_run(journal: Journal) -> None:
    study = Study(journal, slots=3)
    study.begin("a")
    spec = study_spec(budget={"trials": 10, "stop_when": {"device_hours": 1e-9}})
    study.recorder.record.spec = spec
    assert study.source.suggest("b") is None
    assert "device-hours (budget.stop_when.device_hours = 1e-09)" in str(study.control.reason)
    resumed = Study(journal, slots=3, record=study.recorder.record)
    assert resumed.begin("a")["trial"] == 1
    assert not resumed.control.ending
    assert resumed.source.suggest("b") is None
    assert resumed.control.ending


def test_a_trial_s_start_says_how_many_devices_it_holds(journal: Journal) -> None:
    study = Study(journal)
    study.plan = replace(study.plan, gpus=0.5)
    study.slots.use_plan(study.plan)
    study.begin("a")
    assert study.recorder.record.trials[1].devices == 0.5


def test_a_trial_whose_slot_did_not_answer_is_run_again_however_many_came_after_it(journal: Journal) -> None:
    study = Study(journal, trials=1)
    config = study.source.suggest("0")
    trials = [SimpleNamespace(trial_id=str(number), status="PENDING") for number in range(200)]
    study.events.on_step_end(1, trials[:100])
    study.events.on_step_end(2, trials)
    assert study.source.is_placed("0")
    trials[0].status = "ERROR"
    study.events.on_step_end(3, trials)
    study.events.on_step_end(4, trials)
    assert not study.source.is_placed("0")
    again = study.source.suggest("200")
    assert (again["trial"], again["params"]) == (config["trial"], config["params"])


def test_a_trial_that_lost_its_slot_is_run_again_on_another(journal: Journal) -> None:
    study = Study(journal, trials=1)
    config = study.begin("lost")
    study.slots.keep_warm(_ObjectCache())
    study.recorder.receive(1, Interruption("its holder died"))
    study.source.on_trial_complete("lost")
    again = study.source.suggest("again")
    assert (again["trial"], again["params"]) == (config["trial"], config["params"])
    assert again["slot_number"] == 2, "the lost slot isn't used again"
    assert study.source.suggest("no other") is None


def test_a_trial_without_retries_left_fails_with_the_cause_of_its_processs_death(
    journal: Journal, tmp_path: Path
) -> None:
    study = Study(journal)
    config = study.begin("a")
    (tmp_path / "error.txt").write_text("Traceback …\nRuntimeError: the worker group died: SIGSEGV\n")
    tune_trial = SimpleNamespace(
        trial_id="a",
        config=config,
        status="RUNNING",
        pickled_error_file=None,
        error_file=str(tmp_path / "error.txt"),
    )
    study.events.on_trial_start(0, [], tune_trial)
    study.recorder.receive(1, Begun(("node",)))
    study.events.on_trial_recover(0, [], tune_trial)
    assert study.notes == [
        "trial 1 is restarted, from its newest checkpoint if it has one: the worker group died: SIGSEGV"
    ]
    study.source.on_trial_complete("a", error=True)
    trial = study.recorder.record.trials[1]
    assert trial.state == "failed"
    assert trial.reason is not None
    assert "2 times" in trial.reason
    assert "SIGSEGV" in trial.reason


def test_a_death_on_a_node_that_was_drained_is_no_retry_and_no_cause_of_a_failure(journal: Journal) -> None:
    study = Study(journal)
    study.recorder._are_draining = lambda nodes: "going" in nodes
    config = study.begin("a")
    study.recorder.receive(1, Begun(("going",)))
    trial = SimpleNamespace(
        config=config, pickled_error_file=None, error_file=None, run_metadata=SimpleNamespace(num_failures=2)
    )
    study.events.on_trial_recover(0, [], trial)
    assert trial.run_metadata.num_failures == 1
    assert study.source._causes_of_death == {}
    forget_failure(trial)
    forget_failure(trial)
    assert trial.run_metadata.num_failures == 0


def test_each_slot_keeps_its_own_process_until_nothing_is_left_to_run(journal: Journal) -> None:
    study = Study(journal, trials=3, slots=2)
    processes = _ObjectCache()

    def request(config: dict[str, Any]) -> Any:
        return study.plan.trial_request(config["gpus"], config["slot_number"])

    one, two = study.begin("1"), study.begin("2")
    assert request(one) != request(two), "else Tune would give one's process to the other"
    study.slots.keep_warm(processes)
    # Both end in the same step of Tune's loop.
    for name, config in (("1", one), ("2", two)):
        study.source.on_trial_complete(name)
        assert processes.cache_object(request(config), name)
    assert not list(processes.flush_cached_objects())
    three = study.begin("3")
    study.slots.keep_warm(processes)
    assert processes.pop_cached_object(request(three)) in ("1", "2")
    assert study.source.suggest("4") is None, "nothing is left to run"
    processes.increase_max("what another study of this Ray waits for")
    assert len(list(processes.flush_cached_objects())) == 1, "the slot that is free ends"


def test_slots_use_a_plan_that_shares_gpus_once_their_trials_have_ended(journal: Journal) -> None:
    slots = SlotPool(Study(journal).recorder.record.spec, Storage("/nowhere"), Plan(1, 1, 1, 1, 8, 1))
    alone = slots.acquire()
    assert alone is not None
    assert alone.config() == {"group": None, "gpus": 1, "slot_number": 1, "left_out": frozenset()}
    processes = _ObjectCache()
    slots.keep_warm(processes)
    assert processes.total_max_objects == 1
    assert slots.acquire() is None
    plan = Plan(4, 1, 0.25, 1, 8, 1)
    slots.use_plan(plan)
    shared = [slots.acquire() for _ in range(3)]
    assert [slot and slot.gpus for slot in shared] == [0.25] * 3
    assert slots.acquire() is None, "the trial that began alone still runs"
    slots.keep_warm(processes)
    slots.release(alone)
    assert not processes.cache_object(plan.trial_request(1, 1), "the process of the one that was alone")
    last = slots.acquire()
    assert last is not None
    assert last.gpus == 0.25


def test_what_tune_is_given_is_pickled_empty(journal: Journal) -> None:
    study = Study(journal)
    for given in (study.source, study.events, WarmFifo(study.slots, study.source), StepHook(lambda: False)):
        assert given.__getstate__() == {}, type(given).__name__


# Tune's private parts: if one were renamed, most code would fail silently, and the driver's memory would grow.


def tune_trial(number: int, folder: Path) -> Any:
    """A trial as Tune makes it."""
    storage = StorageContext(str(folder), f"study-{number}", trial_dir_name=f"trial-{number}")
    return Trial("trial", config={"trial": number, "params": {"x": 0.5}}, stub=True, storage=storage)


def test_tune_imports_mlflow_where_it_counts_callbacks_and_nowhere_else() -> None:
    assert "tag_callbacks" in ray.tune.tune.run.__code__.co_names
    assert "ray.air.integrations.mlflow" in usage._count_callbacks.__code__.co_names
    assert usage.tag_callbacks([]) is False


def test_tunes_controller_has_the_cache_of_processes() -> None:
    names = TuneController.__init__.__code__.co_names
    assert "_actor_cache" in names
    cache = _ObjectCache()
    assert process_cache(SimpleNamespace(_actor_cache=cache)) is cache
    for method in ("increase_max", "decrease_max", "cache_object", "pop_cached_object", "flush_cached_objects"):
        assert callable(getattr(cache, method)), method
    assert callable(TuneController.stop_trial)


def test_tunes_trial_has_each_attribute_that_is_cleared_or_shared(tmp_path: Path) -> None:
    trial, other = tune_trial(1, tmp_path), tune_trial(2, tmp_path)
    slimmed = ("_default_result_or_future", "config", "evaluated_params", "_Trial__unresolved_config")
    shared = ("storage", "run_metadata", "experiment_tag", "relative_logdir")
    for part in (*slimmed, *shared, "temporary_state", "status"):
        assert hasattr(trial, part), part
    for part in ("pickled_error_file", "error_file"):
        assert isinstance(getattr(Trial, part), property), part
    for part in ("metric_analysis", "metric_n_steps", "last_result", "num_failures"):
        assert hasattr(trial.run_metadata, part), part
    assert hasattr(trial.temporary_state, "ray_actor")
    drop_statistics(trial)
    share_metadata(trial, other)
    assert trial.config == {"trial": 1}
    assert trial.storage is other.storage
    assert trial.run_metadata is other.run_metadata
