"""Control trials: early stopping leaves them alone, counts them as any other, and says what it would have done."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.replayed_curves import EPOCHS, steady, train
from tests.studies import study_spec
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.events.control_outcome import control_outcome, would_stop_at
from tuner.events.event import RunEnded, TrialEnded, TrialSpared, TrialStarted
from tuner.events.log import Journal, read_events
from tuner.events.state import StudyRecord, load_record
from tuner.search.schedulers.control_trials import control_trials
from tuner.spec.study import StudySpec, to_json
from tuner.storage.storage import Storage
from tuner.worker.messages import Action, End, Report

SCHEDULERS = ("asha", "promotion", "hyperband", "median")
LAST = 29
"""A trial of hyperband's first bracket."""


def spec_of(scheduler: str, trials: int = 30, control: int = 6, **changes: Any) -> StudySpec:
    table = {"name": scheduler, "grace_epochs": 2, "control_trials": control}
    return study_spec(budget={"trials": trials}, scheduler=table, **changes)


def recorded(folder: Path, spec: StudySpec) -> StudyRecord:
    """A study whose trials ran one after the other."""
    with Journal(Storage(str(folder)) / "s") as journal:
        recorder = Recorder(StudyRecord(spec), journal, StudyControl(), [])
        train(recorder, range(1, spec.budget.trials + 1))
    return recorder.record


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_control_trials_run_to_their_end_and_the_others_are_stopped_or_paused(tmp_path: Path, scheduler: str) -> None:
    record = recorded(tmp_path, spec_of(scheduler))
    control = {number for number, trial in record.trials.items() if trial.control}
    assert control == control_trials(record.spec)
    assert len(control) == 6
    assert all(record.trials[number].state == "finished" for number in control)
    assert not all(trial.state == "finished" for trial in record.trials.values())
    assert {trial.id for trial in record.trials.values() if trial.spared} <= control


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_control_trial_is_said_to_stop_where_it_does_without_the_exception(tmp_path: Path, scheduler: str) -> None:
    # The last trial alone is a control trial, so that all before it are the same with and without it.
    seed = next(s for s in itertools.count() if LAST in control_trials(spec_of(scheduler, LAST, 1, search={"seed": s})))
    said: list[int] = []
    done: list[int] = []
    for place, final in enumerate((0.05, 0.3, 0.6, 0.75, 0.85, 0.95, 2.0)):

        def curve(number: int, final: float = final) -> list[float]:
            return steady(number, final if number == LAST else None)

        for control, found in ((1, said), (0, done)):
            spec = spec_of(scheduler, LAST, control, search={"seed": seed})
            with Journal(Storage(str(tmp_path)) / f"{place}-{control}") as journal:
                recorder = Recorder(StudyRecord(spec), journal, StudyControl(), [])
                train(recorder, range(1, LAST + 1), curve)
            trial = recorder.record.trials[LAST]
            assert trial.epoch == EPOCHS or not control
            found.append(min([trial.epoch, *(spared.epoch for spared in trial.spared)]))
    assert said == done
    assert len(set(said)) > 1, "some stop, and some don't"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_resumed_study_has_the_control_trials_of_an_unbroken_one(tmp_path: Path, scheduler: str) -> None:
    spec = spec_of(scheduler)
    whole = recorded(tmp_path / "whole", spec)
    folder = Storage(str(tmp_path)) / "s"
    folder.write_text("study.json", to_json(spec))
    with Journal(folder) as journal:
        first = Recorder(StudyRecord(spec), journal, StudyControl(), [])
        train(first, range(1, 14))
        first.write(RunEnded(0.0, "interrupted", None))
    with Journal(folder) as journal:
        train(Recorder(load_record(folder), journal, StudyControl(), []), range(14, 31))
    resumed = load_record(folder)
    for number, trial in whole.trials.items():
        again = resumed.trials[number]
        assert (again.control, again.epoch, again.state) == (trial.control, trial.epoch, trial.state)
        assert [(s.epoch, s.paused) for s in again.spared] == [(s.epoch, s.paused) for s in trial.spared]
        assert would_stop_at(resumed, again) == would_stop_at(whole, trial)


def test_a_study_that_is_resumed_with_another_budget_keeps_its_control_trials(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path)) / "s"
    spec = spec_of("asha", trials=12, control=3)
    folder.write_text("study.json", to_json(spec))
    with Journal(folder) as journal:
        train(Recorder(StudyRecord(spec), journal, StudyControl(), []), range(1, 13))
    before = {number for number, trial in load_record(folder).trials.items() if trial.control}
    larger = spec_of("asha", trials=60, control=5)
    folder.write_text("study.json", to_json(larger))
    with Journal(folder) as journal:
        train(Recorder(load_record(folder), journal, StudyControl(), []), range(13, 61))
    after = {number for number, trial in load_record(folder).trials.items() if trial.control}
    assert len(before) == 3
    assert len(after) == 5
    assert before < after
    assert after - before <= set(range(13, 61))


def test_a_control_trial_that_begins_again_stays_one_and_forgets_what_it_trains_again(tmp_path: Path) -> None:
    spec = spec_of("asha", trials=3, control=2)
    number = max(control_trials(spec))
    with Journal(Storage(str(tmp_path)) / "s") as journal:
        recorder = Recorder(StudyRecord(spec), journal, StudyControl(), [])
        train(recorder, set(range(1, 4)) - {number}, lambda _: [0.5] * EPOCHS)
        recorder.trial_started(number, {"x": 0.5})
        for epoch in (1, 2):
            assert recorder.receive(number, Report(epoch, {"score": 0.1})).action is Action.CONTINUE
        trial = recorder.record.trials[number]
        assert [spared.epoch for spared in trial.spared] == [2]
        recorder.trial_started(number, {"x": 0.5})
        # Its last report once more says nothing new, one of an epoch that is trained again does.
        recorder.receive(number, Report(2, {"score": 0.1}, resumed=True))
        assert [spared.epoch for spared in trial.spared] == [2]
        recorder.trial_started(number, {"x": 0.5})
        recorder.receive(number, Report(1, {"score": 0.1}))
        assert not trial.spared
        recorder.receive(number, Report(2, {"score": 0.1}))
        assert [spared.epoch for spared in trial.spared] == [2]
        assert trial.control
    events = list(read_events(Storage(str(tmp_path)) / "s"))
    starts = [event.control for event in events if isinstance(event, TrialStarted) and event.trial == number]
    assert starts == [True, True, True]
    assert sum(isinstance(event, TrialSpared) for event in events) == 2


def test_a_control_trial_counts_on_the_rungs(tmp_path: Path) -> None:
    spec = spec_of("asha", trials=4, control=3)
    [other] = set(range(1, 5)) - control_trials(spec)
    with Journal(Storage(str(tmp_path)) / "s") as journal:
        recorder = Recorder(StudyRecord(spec), journal, StudyControl(), [])
        train(recorder, set(range(1, 5)) - {other}, lambda _: [0.5] * EPOCHS)
        train(recorder, [other], lambda _: [0.4] * EPOCHS)
    assert recorder.record.trials[other].reason == "asha stopped it at epoch 2"


def test_a_control_trial_ends_with_the_study(tmp_path: Path) -> None:
    spec = study_spec(
        budget={"trials": 2, "stop_when": {"value": 0.9}}, scheduler={"name": "asha", "control_trials": 2}
    )
    with Journal(Storage(str(tmp_path)) / "s") as journal:
        recorder = Recorder(StudyRecord(spec), journal, StudyControl(), [])
        recorder.trial_started(1, {"x": 0.5})
        decision = recorder.receive(1, Report(1, {"score": 0.95}))
        assert decision.action is Action.STOP
        recorder.receive(1, End("stopped", decision.reason))
    assert control_outcome(recorder.record) is None, "its end is not known"
    assert [event.state for event in read_events(Storage(str(tmp_path)) / "s") if isinstance(event, TrialEnded)] == [
        "stopped"
    ]
