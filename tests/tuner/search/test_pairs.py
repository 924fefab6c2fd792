"""Every sampler with every scheduler, on replayed curves whose optimum is known."""

from __future__ import annotations

import math
import random
from typing import Any, get_args

import pytest

from tests.studies import study_spec
from tests.tuner.search.test_sampler import Study
from tuner.events.state import StudyRecord
from tuner.search.schedulers.early_stopping import early_stopping
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study import StudySpec
from tuner.spec.study_tables import Objective, Scheduler, Search

EPOCHS = 12
SAMPLERS = get_args(Search.model_fields["sampler"].annotation)
SCHEDULERS = get_args(Scheduler.model_fields["name"].annotation)


def score(x: float, epoch: int) -> float:
    """Comes to 1 at x = 0.8 and less elsewhere; trials with x near 0.1 start fastest."""
    end, start = 1 - 2 * (x - 0.8) ** 2, 0.5 - 0.4 * abs(x - 0.1)
    return start + (end - start) * (1 - math.exp(-epoch / 4)) / (1 - math.exp(-EPOCHS / 4))


def cost(x: float) -> float:
    """Least at x = 0.4: the best compromises lie from there to 0.8."""
    return 10 * (x - 0.4) ** 2


def replayed(spec: StudySpec) -> StudyRecord:
    """A study of three trials at a time, each an epoch a turn."""
    study = Study(StudyRecord(spec))
    stopping = early_stopping(spec.objectives, spec.scheduler)
    running: list[int] = []
    while running or not study.sampler.exhausted:
        while len(running) < 3 and not study.sampler.exhausted:
            running.append(study.begin()[0])
            stopping.resume(running[-1])
        for number in list(running):
            trial = study.record.trials[number]
            x = trial.params["x"]
            study.report(number, trial.epoch + 1, score(x, trial.epoch + 1), cost=cost(x))
            assert trial.value is not None
            verdict = stopping.decide(number, trial.epoch, trial.values)
            if trial.epoch < EPOCHS and verdict is Verdict.CONTINUE:
                continue
            running.remove(number)
            if trial.epoch < EPOCHS and verdict is Verdict.PAUSE:
                study.event("pause", trial=number)
                study.sampler.pause(number)
            else:
                study.end(number, "finished" if trial.epoch == EPOCHS else "stopped")
    return study.record


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_pair_of_sampler_and_scheduler_comes_near_the_optimum(sampler: str, scheduler: str) -> None:
    x: dict[str, Any] = {"type": "float", "low": 0.0, "high": 1.0} | ({"step": 0.04} if sampler == "grid" else {})
    record = replayed(
        study_spec(
            search={"sampler": sampler, "seed": 1},
            scheduler={"name": scheduler, "grace_epochs": 3},
            budget={"trials": 24},
            space={"x": x},
        )
    )
    assert len(record.trials) == 24
    best = record.ranking()[0]
    assert abs(best.params["x"] - 0.8) < 0.1, best
    epochs = sum(trial.epoch for trial in record.trials.values())
    assert (epochs == 24 * EPOCHS) == (scheduler == "none"), "the others save epochs"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "cmaes"])
def test_every_pair_finds_the_front_of_two_objectives(sampler: str, scheduler: str) -> None:
    x: dict[str, Any] = {"type": "float", "low": 0.0, "high": 1.0} | ({"step": 0.04} if sampler == "grid" else {})
    record = replayed(
        study_spec(
            objectives=[{"metric": "score"}, {"metric": "cost", "direction": "minimize"}],
            search={"sampler": sampler, "seed": 1},
            scheduler={"name": scheduler, "grace_epochs": 3},
            budget={"trials": 24},
            space={"x": x},
        )
    )
    front = record.front()
    assert all(0.3 < trial.params["x"] < 0.9 for trial in front if trial.epoch == EPOCHS), front
    assert abs(front[0].params["x"] - 0.8) < 0.1, "the best score"
    assert abs(front[-1].params["x"] - 0.4) < 0.1, "the least cost"
    assert 0.4 < record.ranking()[0].params["x"] < 0.8, "the knee"
    epochs = sum(trial.epoch for trial in record.trials.values())
    assert (epochs == 24 * EPOCHS) == (scheduler == "none"), "the others save epochs"


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "none"])
def test_early_stopping_never_stops_a_trial_of_the_front(scheduler: str) -> None:
    draw, objectives = random.Random(4), [Objective(metric="score"), Objective(metric="cost", direction="minimize")]
    rule = early_stopping(objectives, Scheduler.model_validate({"name": scheduler, "grace_epochs": 1}))
    before: list[tuple[float, float]] = []
    stopped = 0
    for trial in range(300):
        values = draw.random(), draw.random()
        verdict = rule.decide(trial, 1, values)
        if not any(score >= values[0] and cost <= values[1] for score, cost in before):
            assert verdict is Verdict.CONTINUE
        before.append(values)
        stopped += verdict is Verdict.STOP
        if trial % 7 == 0:  # rewound, and back with other values
            rule.rewind(trial, 0)
            before[-1] = draw.random(), draw.random()
            rule.decide(trial, 1, before[-1])
    assert stopped > 30 or scheduler == "hyperband", "most of its brackets decide later"
