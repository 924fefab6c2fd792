"""A study as Optuna knows it: what its own analyses and storages are given."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from tuner.events import trial as of_events
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.search.optuna_study import frozen_trials, optuna_study
from tuner.spec.study import StudySpec

SPACE: dict[str, Any] = {
    "x": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "batch_size": {"type": "int", "low": 1, "high": 64},
    "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.1, "when": {"optimizer": ["sgd"]}},
}
ADAM: dict[str, Any] = {"x": 0.25, "batch_size": 4, "optimizer": "adam"}
SGD: dict[str, Any] = {"x": 0.5, "batch_size": 8, "optimizer": "sgd", "momentum": 0.9}


def record(*trials: TrialRecord, direction: str = "maximize") -> StudyRecord:
    raw = {
        "name": "roads",
        "workload": "tests.workloads.replay",
        "objective": {"metric": "score", "direction": direction},
        "budget": {"trials": 10},
        "space": SPACE,
    }
    study = StudyRecord(StudySpec.model_validate(raw))
    study.trials = {trial.id: trial for trial in trials}
    return study


def trial(
    id: int, params: dict[str, Any], state: of_events.TrialState = "finished", value: float | None = 0.5, **more: Any
) -> TrialRecord:
    curve = [(1, 0.1), (2, value)] if value is not None else []
    seen = {
        "started": 1000.0,
        "earlier_seconds": 30.0,
        "ended": None if state in ("running", "interrupted") else 1040.0,
    }
    values = () if value is None else (value,)
    best = {"value": value, "values": values, "best_epoch": 2 if curve else None}
    return TrialRecord(id, params, state, curve=curve, **{**seen, **best, **more})


def test_states_are_optunas_and_a_stopped_trial_may_win() -> None:
    study = record(
        trial(1, ADAM, "finished"),
        trial(2, SGD, "stopped", 0.75, reason="asha stopped it at epoch 2"),
        trial(3, ADAM, "stopped", None, reason="the study's time is over"),
        trial(4, ADAM, "failed", 0.9, reason="ValueError: no"),
        trial(5, ADAM, "running", 0.2),
        trial(6, ADAM, "interrupted", None),
    )
    found = frozen_trials(study)
    complete, running = TrialState.COMPLETE, TrialState.RUNNING
    assert [t.state for t in found] == [complete, complete, TrialState.PRUNED, TrialState.FAIL, running, running]
    assert [t.value for t in found] == [0.5, 0.75, None, None, None, None]
    assert optuna_study(study).best_trial.user_attrs["trial"] == 2
    assert found[3].user_attrs["reason"] == "ValueError: no"


def test_a_trial_keeps_its_times_its_curve_and_its_user_attributes() -> None:
    found = frozen_trials(record(trial(1, SGD, epoch=2)))[0]
    assert found.datetime_start == datetime.fromtimestamp(1000)
    assert found.datetime_complete == datetime.fromtimestamp(1040)
    assert found.intermediate_values == {1: 0.1, 2: 0.5}
    assert found.params == SGD
    assert found.user_attrs == {"trial": 1, "state": "finished", "best_epoch": 2, "epochs": 2, "seconds": 30.0}


def test_numbers_in_figures_are_ids_whatever_gaps_they_have() -> None:
    study = optuna_study(record(trial(2, ADAM), trial(5, SGD, value=0.75)))
    assert [t.number for t in study.get_trials(states=(TrialState.COMPLETE,))] == [2, 5]
    assert [t.user_attrs["trial"] for t in study.get_trials(states=(TrialState.COMPLETE,))] == [2, 5]


def test_hyperparameters_outside_a_changed_space_are_kept() -> None:
    wide = {**ADAM, "x": 5.0, "batch_size": 128}
    gone = {**ADAM, "optimizer": "lion", "width": 0.5, "momentum": 0.5}
    off_grid = {**SGD, "momentum": 0.55}
    first, second, third = frozen_trials(record(trial(1, wide), trial(2, gone), trial(3, off_grid)))
    assert first.params == wide
    assert first.distributions["x"].single() is False
    assert second.params == {"x": 0.25, "batch_size": 4}
    assert {name: value for name, value in second.user_attrs.items() if name.startswith("params.")} == {
        "params.optimizer": "lion",
        "params.width": 0.5,
        "params.momentum": 0.5,
    }
    assert third.params["momentum"] == 0.55


def test_a_minimized_study_is_one_for_optuna() -> None:
    study = optuna_study(record(trial(1, ADAM, value=0.5), trial(2, SGD, value=0.25), direction="minimize"))
    assert study.best_trial.number == 2


def test_an_optuna_storage_on_disk_takes_every_trial_and_gives_it_back(tmp_path: Path) -> None:
    trials = frozen_trials(
        record(trial(1, ADAM), trial(2, SGD, "failed", reason="no"), trial(3, {**ADAM, "x": 7.0}, "running", 0.25))
    )
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'x.db'}")
    study = optuna.create_study(storage=storage, direction="maximize")
    study.add_trials(trials)
    found = study.get_trials()
    assert [(t.number, t.state, t.params, t.intermediate_values, t.user_attrs) for t in found] == [
        (t.number, t.state, t.params, t.intermediate_values, t.user_attrs) for t in trials
    ]
    storage.engine.dispose()
