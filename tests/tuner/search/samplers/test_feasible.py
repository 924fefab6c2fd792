"""Proposals keep away from hyperparameters that can't work, and not from all that a failed trial had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.studies import study_spec
from tests.tuner.search.test_sampler import Study
from tuner.events.state import StudyRecord

Params = dict[str, Any]
UNIT: Params = {"type": "float", "low": 0.0, "high": 1.0}
HALVES: dict[str, tuple[Params, Callable[[Params], bool], Callable[[Params], float]]] = {
    "two of four batch sizes": (
        {"x": UNIT, "batch_size": {"type": "choice", "choices": [1, 2, 4, 8]}},
        lambda params: params["batch_size"] >= 4,
        lambda params: params["x"],
    ),
    "a range whose best is at its border": ({"x": UNIT}, lambda params: params["x"] > 0.5, lambda params: params["x"]),
    "a corner of two": (
        {"x": UNIT, "momentum": {**UNIT, "high": 0.9}},
        lambda params: params["x"] + params["momentum"] > 0.95,
        lambda params: params["x"] - params["momentum"] ** 2,
    ),
}


def proposals(sampler: str, seed: int, space: Params, fails: Callable[[Params], bool], score: Any) -> list[Params]:
    study = Study(
        StudyRecord(study_spec(space=space, search={"sampler": sampler, "seed": seed}, budget={"trials": 50}))
    )
    found = []
    for _ in range(50):
        number, params = study.begin()
        found.append(params)
        if fails(params):
            study.end(number, "failed")
        else:
            study.report(number, 1, score(params))
            study.end(number)
    return found


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("sampler", ["gp_curves", "tpe"])
def test_where_half_of_the_space_fails_at_most_15_of_50_trials_do(sampler: str, half: str) -> None:
    space, fails, score = HALVES[half]
    for seed in range(3):
        failed = sum(fails(params) for params in proposals(sampler, seed, space, fails, score))
        assert failed <= 15, (seed, failed)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("sampler", ["gp_curves", "tpe"])
def test_where_half_of_the_space_keeps_no_constraint_at_most_15_of_50_trials_lie_there(sampler: str, half: str) -> None:
    space, breaks, score = HALVES[half]
    changes: Params = {"space": space, "constraints": [{"metric": "memory", "at_most": 8}], "budget": {"trials": 50}}
    for seed in range(3):
        study = Study(StudyRecord(study_spec(search={"sampler": sampler, "seed": seed}, **changes)))
        broken = 0
        for _ in range(50):
            number, params = study.begin()
            broken += breaks(params)
            # What breaks it looks best.
            metrics = {"score": score(params) + breaks(params), "memory": 9.0 if breaks(params) else 7.0}
            study.event("report", trial=number, epoch=1, metrics=metrics)
            study.end(number)
        assert broken <= 15, (seed, broken)
        best = study.record.ranking()[0]
        assert not breaks(best.params)
        assert best.value is not None
        assert best.value > (0.9 if half == "two of four batch sizes" else 0.4)


@pytest.mark.parametrize("sampler", ["gp_curves", "tpe"])
def test_a_choice_that_failed_for_another_reason_is_proposed_again(sampler: str) -> None:
    """sgd fails where x is above 0.5 and is best below; adam works everywhere."""
    space = {"x": UNIT, "optimizer": {"type": "choice", "choices": ["adam", "sgd"]}}

    def fails(params: Params) -> bool:
        return bool(params["optimizer"] == "sgd" and params["x"] > 0.5)

    def score(params: Params) -> float:
        return 1.0 if params["optimizer"] == "sgd" else 0.5 * params["x"]

    for seed in range(3):
        found = proposals(sampler, seed, space, fails, score)
        assert sum(params["optimizer"] == "sgd" and not fails(params) for params in found) >= 5, found


def test_until_a_trial_fails_proposals_are_those_of_the_sampler_alone() -> None:
    space = HALVES["a corner of two"][0]
    never = proposals("tpe", 1, space, lambda params: False, lambda params: params["x"])
    last = proposals("tpe", 1, space, lambda params: params == never[40], lambda params: params["x"])
    assert never[:41] == last[:41]
