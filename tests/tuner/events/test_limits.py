"""budget.stop_when: when a study has reached one of its limits, by its events alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.studies import study_spec
from tests.written_event import event
from tuner.events.limits import limit_reached
from tuner.events.state import StudyRecord

HOUR = 3600.0


def study(*lines: tuple[str, float, dict[str, Any]], direction: str = "maximize", **stop_when: Any) -> StudyRecord:
    """A study of these events: kind, time, fields."""
    record = StudyRecord(study_spec(objective={"direction": direction}, budget={"trials": 50, "stop_when": stop_when}))
    for kind, time, fields in lines:
        record.apply(event(kind, time, **fields))
    return record


def start(trial: int, at: float = 0.0, **fields: Any) -> tuple[str, float, dict[str, Any]]:
    return "start", at, {"trial": trial, "params": {}, **fields}


def report(trial: int, score: float, epoch: int = 1, at: float = 1.0) -> tuple[str, float, dict[str, Any]]:
    return "report", at, {"trial": trial, "epoch": epoch, "metrics": {"score": score}}


def end(trial: int, state: str = "finished", at: float = 2.0) -> tuple[str, float, dict[str, Any]]:
    return "end", at, {"trial": trial, "value": None, "best_epoch": None, "state": state, "reason": None}


def key(record: StudyRecord, now: float = 2.0) -> str | None:
    limit = limit_reached(record, now)
    return limit.key if limit else None


def test_a_study_without_limits_never_reaches_one() -> None:
    assert key(study(start(1), report(1, 0.9), end(1))) is None


@pytest.mark.parametrize(("direction", "short", "there"), [("maximize", 0.79, 0.8), ("minimize", 0.81, 0.8)])
def test_the_target_is_reached_by_a_trial_that_has_not_failed(direction: str, short: float, there: float) -> None:
    assert key(study(start(1), report(1, short), direction=direction, value=0.8)) is None
    running = study(start(1), report(1, there), direction=direction, value=0.8)
    assert key(running) == "value"
    limit = limit_reached(running, 2.0)
    assert limit is not None
    assert limit.reason == "score has reached 0.8 (budget.stop_when.value = 0.8)"
    running.apply(event("end", 2.0, trial=1, value=there, best_epoch=1, state="failed", reason="no"))
    assert key(running) is None, "what failed can't win"
    assert key(study(start(1), report(1, there), end(1), direction=direction, value=0.8)) == "value"


def test_trials_without_improvement_are_counted_from_the_last_better_value() -> None:
    lines = [line for trial in (1, 2, 3) for line in (start(trial), report(trial, 0.5 - 0.1 * trial), end(trial))]
    assert key(study(*lines, no_improvement_trials=3)) == "no_improvement_trials", "the best trial's own end counts"
    assert key(study(*lines, no_improvement_trials=4)) is None
    better = [start(4), report(4, 0.45)]
    assert key(study(*lines, *better, no_improvement_trials=3)) is None, "a running trial is better"
    assert key(study(*lines, *better, end(4, "failed"), no_improvement_trials=3)) is None, "a failed one isn't counted"


def test_of_several_objectives_they_are_counted_from_the_last_trial_that_came_to_the_front() -> None:
    objectives = [{"metric": "score"}, {"metric": "ms", "direction": "minimize"}]
    budget = {"trials": 50, "stop_when": {"no_improvement_trials": 2}}
    record = StudyRecord(study_spec(objectives=objectives, budget=budget))
    for trial, (score, ms) in enumerate([(0.5, 5.0), (0.4, 6.0), (0.3, 1.0), (0.4, 5.5)], start=1):
        metrics = {"score": score, "ms": ms}
        for kind, time, fields in (start(trial), ("report", 1.0, {"trial": trial, "epoch": 1, "metrics": metrics})):
            record.apply(event(kind, time, **fields))
        record.apply(event("end", 2.0, trial=trial, value=score, best_epoch=1, state="finished", reason=None))
    assert key(record) is None, "the third is the fastest"
    for kind, time, fields in (start(5), ("report", 1.0, {"trial": 5, "epoch": 1, "metrics": {"score": 0.1, "ms": 9}})):
        record.apply(event(kind, time, **fields))
    record.apply(event("end", 2.0, trial=5, value=0.1, best_epoch=1, state="stopped", reason=None))
    limit = limit_reached(record, 2.0)
    assert limit is not None
    assert "2 trials have ended since one last came to the front" in limit.reason


def test_device_hours_are_those_of_all_runs_without_the_time_between_them() -> None:
    lines = [
        start(1, at=0.0, devices=4.0),
        start(2, at=0.0, devices=0.5),
        report(1, 0.1, at=1 * HOUR),
        report(2, 0.1, at=2 * HOUR),
        ("stop", 3 * HOUR, {"state": "interrupted", "reason": None}),  # 4 * 1 + 0.5 * 2, each to its last report
        start(1, at=100 * HOUR, devices=2.0),
        report(1, 0.2, epoch=2, at=101 * HOUR),
    ]
    record = study(*lines, device_hours=8.9)
    assert record.device_seconds(now=101 * HOUR) == pytest.approx(7 * HOUR)
    assert key(record, now=101.9 * HOUR) is None
    assert key(record, now=102 * HOUR) == "device_hours"
    record.apply(event("end", 101.5 * HOUR, trial=1, value=0.2, best_epoch=2, state="finished", reason=None))
    assert record.device_seconds(now=200 * HOUR) == pytest.approx(8 * HOUR)


def test_a_paused_trial_holds_no_device() -> None:
    record = study(start(1, at=0.0, devices=2.0), ("pause", HOUR, {"trial": 1}))
    assert record.device_seconds(now=5 * HOUR) == pytest.approx(2 * HOUR)


def test_cost_is_device_hours_at_their_price() -> None:
    record = study(start(1, devices=2.0), cost=30.0, price_per_device_hour=2.5)
    assert key(record, now=5.9 * HOUR) is None
    limit = limit_reached(record, 6 * HOUR)
    assert limit is not None
    assert limit.reason == "trials have cost 30: 12 device-hours at 2.5 each (budget.stop_when.cost = 30)"


def test_a_log_that_does_not_say_how_many_devices_a_trial_held_counts_one_a_worker() -> None:
    record = StudyRecord(study_spec(resources={"workers": 3}))
    record.apply(event("start", 0.0, trial=1, params={}))
    assert record.device_seconds(now=10.0) == 30.0


@pytest.mark.parametrize(
    ("gpus", "devices"), [(1.0, 2.0), (0.25, 0.5), (0.0, 6.0)], ids=["whole GPUs", "shared GPUs", "CPUs"]
)
def test_devices_are_gpus_or_cpus_if_there_is_none(gpus: float, devices: float) -> None:
    assert study_spec(resources={"workers": 2, "cpus_per_worker": 3}).resources.devices(gpus) == devices
