"""Every sampler with every scheduler, on replayed curves whose optimum is known."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from tests.studies import study_spec
from tests.tuner.search.test_sampler import Study
from tuner.events.state import StudyRecord
from tuner.search.schedulers.early_stopping import early_stopping
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study import Scheduler, Search, StudySpec

EPOCHS = 12
SAMPLERS = get_args(Search.model_fields["sampler"].annotation)
SCHEDULERS = get_args(Scheduler.model_fields["name"].annotation)


def score(x: float, epoch: int) -> float:
    """Comes to 1 at x = 0.8 and less elsewhere; trials with x near 0.1 start fastest."""
    end, start = 1 - 2 * (x - 0.8) ** 2, 0.5 - 0.4 * abs(x - 0.1)
    return start + (end - start) * (1 - math.exp(-epoch / 4)) / (1 - math.exp(-EPOCHS / 4))


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
            study.report(number, trial.epoch + 1, score(trial.params["x"], trial.epoch + 1))
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
