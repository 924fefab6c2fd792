"""Samplers that go by a trial's number: Sobol's sequence, the grid, the generations of NSGA-II."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import qmc

from tests.studies import study_spec
from tests.tuner.search.test_sampler import Study
from tests.written_study import SPACE
from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.search.samplers.counted_samplers import POPULATION
from tuner.spec.grid import points
from tuner.spec.study_file import check_study

UNIT: dict[str, Any] = {"type": "float", "low": 0.0, "high": 1.0}


def proposals(sampler: str, trials: int, **changes: Any) -> list[dict[str, Any]]:
    spec = study_spec(search={"sampler": sampler, "seed": 3}, budget={"trials": trials}, **changes)
    study = Study(StudyRecord(spec))
    return [study.run(0.5) for _ in range(trials)]


def test_qmc_proposes_the_points_of_the_studys_scrambled_sobol_sequence() -> None:
    found = proposals("qmc", 16, space={"x": UNIT, "momentum": UNIT})
    truth = qmc.Sobol(2, scramble=True, seed=3).random(16)
    assert np.array([[params["momentum"], params["x"]] for params in found]) == pytest.approx(truth)


def test_qmc_samples_choices_and_what_is_conditional_only_under_its_condition() -> None:
    found = proposals("qmc", 32, space=SPACE)
    assert {"momentum" in params for params in found} == {True, False}
    assert all(("momentum" in params) == (params["optimizer"] == "sgd") for params in found)
    assert all(1e-3 <= params["x"] <= 1.0 for params in found)


def test_grid_proposes_each_point_once_also_those_under_a_condition() -> None:
    space = {
        "x": {**UNIT, "step": 0.1},
        "batch_size": {"type": "int", "low": 2, "high": 8, "step": 3},
        "optimizer": SPACE["optimizer"],
        "momentum": {"type": "choice", "choices": [0.8, 0.9], "when": {"optimizer": ["sgd"]}},
    }
    size = 11 * 3 * (1 + 2)
    found = proposals("grid", size, space=space)
    assert len({tuple(sorted((key, str(value)) for key, value in params.items())) for params in found}) == size
    assert found != points(study_spec(space=space).space), "an order that the seed shuffles"
    assert sorted({params["x"] for params in found}) == pytest.approx([place / 10 for place in range(11)])


def test_first_trials_come_before_the_grid_and_take_none_of_its_points() -> None:
    space = {"x": {**UNIT, "step": 0.25}}
    found = proposals("grid", 7, space=space, first_trials=[{"x": 0.5}, {}])
    assert found[0] == {"x": 0.5}
    assert sorted(params["x"] for params in found[2:]) == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("space", "trials", "said"),
    [
        (
            {"x": UNIT},
            9,
            'space.x: sampler = "grid" needs values to try, got a continuous range (0 to 1); '
            'give it a step, or type = "choice"',
        ),
        (
            {"x": {**UNIT, "low": 0.1, "log": True}},
            9,
            'space.x: sampler = "grid" needs values to try, got a continuous range (0.1 to 1, log); '
            'give it type = "choice"',
        ),
        (
            {"x": {**UNIT, "step": 0.25}},
            9,
            "budget.trials: the grid has 5 points, got 9 trials; set it to 5 or fewer, or use smaller steps",
        ),
        (
            {"x": {**UNIT, "step": 1e-4}, "batch_size": {"type": "int", "low": 1, "high": 64}},
            9,
            "search.sampler: a grid of at most 100,000 points is needed, got 640,064; use larger steps, or "
            'sampler = "random"',
        ),
    ],
    ids=["continuous", "continuous log", "too small", "too large"],
)
def test_a_space_that_makes_no_grid_is_refused(space: dict[str, Any], trials: int, said: str) -> None:
    tables = {
        "name": "s",
        "workload": "tests.workloads.replay",
        "objective": {"metric": "score"},
        "budget": {"trials": trials},
        "search": {"sampler": "grid"},
        "space": space,
    }
    with pytest.raises(StudyError) as caught:
        check_study(tables, place="grid.toml")
    assert str(caught.value) == f"grid.toml: {said}"


def test_children_of_nsga2_come_from_the_best_of_the_generations_before() -> None:
    space = {"x": UNIT, "momentum": {**UNIT, "high": 0.9}}
    spec = study_spec(search={"sampler": "nsga2"}, budget={"trials": 6 * POPULATION}, space=space)
    study = Study(StudyRecord(spec))
    distances = []
    for _ in range(6 * POPULATION):
        number, params = study.begin()
        distances.append(math.hypot(params["x"] - 0.3, params["momentum"] - 0.7))
        study.report(number, 1, -distances[-1])
        study.end(number)
    first, last = distances[:POPULATION], distances[-POPULATION:]
    assert np.median(last) < 0.7 * np.median(first), (first, last)
