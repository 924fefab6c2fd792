"""CMA-ES: what its distribution is, and what it leaves to chance."""

from __future__ import annotations

from typing import Any

import cmaes
import numpy as np
import pytest

from tests.studies import study_spec
from tests.tuner.search.test_sampler import Study
from tests.written_study import SPACE
from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.search.samplers.evolution import CmaEs
from tuner.spec.study_file import check_study

UNIT: dict[str, Any] = {"type": "float", "low": 0.0, "high": 1.0}
POPULATION = 6
"""Of two hyperparameters."""


def study(trials: int, **changes: Any) -> Study:
    return Study(StudyRecord(study_spec(search={"sampler": "cmaes"}, budget={"trials": trials}, **changes)))


def test_its_trials_come_near_an_optimum_between_hyperparameters_that_depend_on_each_other() -> None:
    found = study(10 * POPULATION, space={"x": UNIT, "momentum": UNIT})
    values = []
    for _ in range(10 * POPULATION):
        number, params = found.begin()
        along, across = params["x"] + params["momentum"] - 1.4, params["x"] - params["momentum"]
        values.append(-(along**2) - 25 * across**2)
        found.report(number, 1, values[-1])
        found.end(number)
    assert np.median(values[-POPULATION:]) > 0.05 * np.median(values[:POPULATION])
    assert max(values[:POPULATION]) < np.median(values[-POPULATION:])


def test_its_distribution_is_that_of_the_package_told_generation_after_generation() -> None:
    found = study(3 * POPULATION + 1, space={"x": UNIT, "momentum": UNIT})
    told: list[tuple[np.ndarray, float]] = []
    for place in range(3 * POPULATION):
        params = found.run(value := float(np.sin(7.0 * place)))
        told.append((np.array([params["x"], params["momentum"]]), -value))
    number, params = found.begin()
    strategy = cmaes.CMA(
        np.full(2, 0.5), 1 / 6, np.array([[0.0, 1.0]] * 2), 20, seed=7919 * number, population_size=POPULATION
    )
    for first in range(0, 3 * POPULATION, POPULATION):
        strategy.tell(told[first : first + POPULATION])
    assert [params["x"], params["momentum"]] == pytest.approx(strategy.ask())


def test_a_generation_is_told_when_its_last_trial_has_ended_and_one_without_a_value_counts_as_its_worst() -> None:
    def proposed(*, ended: bool, lost: float | None) -> dict[str, Any]:
        found = study(POPULATION + 1, space={"x": UNIT, "momentum": UNIT})
        for value in (0.1, 0.2, 0.3, 0.4):
            found.run(value)
        if lost is None:
            number, _ = found.begin()
            found.end(number, "stopped")  # before its first report
        else:
            found.run(lost)
        number, _ = found.begin()
        if ended:
            found.report(number, 1, 0.5)
            found.end(number)
        return found.begin()[1]

    untold = study(POPULATION + 1, space={"x": UNIT, "momentum": UNIT})
    first = [untold.begin()[1] for _ in range(POPULATION + 1)][-1]
    assert proposed(ended=False, lost=0.05) == first, "of the distribution that nothing was told"
    assert proposed(ended=True, lost=0.05) != first
    assert proposed(ended=True, lost=None) != proposed(ended=True, lost=0.05)
    assert proposed(ended=True, lost=None) == proposed(ended=True, lost=None)


def test_choices_and_what_is_conditional_are_drawn_at_random_under_their_conditions() -> None:
    found = study(60, space=SPACE)
    params = [found.run(0.1 * (number % 7)) for number in range(60)]
    assert {each["optimizer"] for each in params[-20:]} == {"adam", "sgd"}
    assert all(("momentum" in each) == (each["optimizer"] == "sgd") for each in params)
    assert all(isinstance(each["batch_size"], int) and 1 <= each["batch_size"] <= 64 for each in params)


def test_a_generation_grows_with_the_hyperparameters_that_evolve() -> None:
    def population(space: dict[str, Any]) -> int:
        return CmaEs(study_spec(space=space).space, seed=0, number=1).population

    assert population({"x": UNIT}) == 4
    assert population({"x": UNIT, "momentum": UNIT}) == POPULATION
    assert population(SPACE) == POPULATION, "the choice and the conditional one aren't counted"


def test_a_space_of_choices_and_conditions_alone_is_refused() -> None:
    tables = {
        "name": "s",
        "workload": "tests.workloads.replay",
        "objective": {"metric": "score"},
        "budget": {"trials": 9},
        "search": {"sampler": "cmaes"},
        "space": {"optimizer": SPACE["optimizer"], "momentum": SPACE["momentum"]},
    }
    with pytest.raises(StudyError) as caught:
        check_study(tables, place="choices.toml")
    assert str(caught.value) == (
        "choices.toml: space: cmaes needs a float or int hyperparameter without a condition, got optimizer, momentum; "
        'use sampler = "tpe"'
    )
