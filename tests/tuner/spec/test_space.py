"""The search space: ranges, choices, conditions."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from pydantic import TypeAdapter, ValidationError

from tuner.spec.space import Dimension, is_active, ordered, sample

adapter: TypeAdapter[Dimension] = TypeAdapter(Dimension)


def dimension(**entry: Any) -> Dimension:
    return adapter.validate_python(entry)


def samples(space: dict[str, Dimension], count: int, seed: int = 0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [sample(space, study.ask()) for _ in range(count)]


def test_an_int_range_includes_both_its_ends() -> None:
    drawn = {params["n"] for params in samples({"n": dimension(type="int", low=1, high=3)}, 60)}
    assert drawn == {1, 2, 3}


def test_a_logarithmic_int_range_includes_both_its_ends() -> None:
    drawn = {params["n"] for params in samples({"n": dimension(type="int", low=1, high=4, log=True)}, 200)}
    assert drawn == {1, 2, 3, 4}


def test_a_step_is_kept_and_reaches_the_upper_end() -> None:
    drawn = {params["n"] for params in samples({"n": dimension(type="int", low=2, high=10, step=4)}, 60)}
    assert drawn == {2, 6, 10}
    floats = {params["x"] for params in samples({"x": dimension(type="float", low=0, high=0.3, step=0.1)}, 60)}
    assert sorted(floats) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_logarithmic_range_gives_each_decade_the_same_share() -> None:
    drawn = [p["lr"] for p in samples({"lr": dimension(type="float", low=1e-5, high=1e-1, log=True)}, 4000)]
    shares = [sum(10.0**e <= value < 10.0 ** (e + 1) for value in drawn) / 4000 for e in range(-5, -1)]
    # Binomial with p = 1/4 and n = 4000 has a standard deviation of 0.007.
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_a_choice_gives_its_values_back_as_they_are() -> None:
    choices = (True, 1.5, "a", 7)
    drawn = {params["c"] for params in samples({"c": dimension(type="choice", choices=choices)}, 80)}
    assert drawn == set(choices)
    assert {type(value) for value in drawn} == {bool, float, str, int}


def test_a_conditional_hyperparameter_is_sampled_only_where_its_condition_holds() -> None:
    space = {
        "momentum": dimension(type="float", low=0.5, high=0.99, when={"optimizer": ["sgd"]}),
        "nesterov": dimension(type="choice", choices=[True, False], when={"momentum": [0.5]}),
        "optimizer": dimension(type="choice", choices=["adam", "sgd"]),
    }
    drawn = samples(space, 50)
    assert {params["optimizer"] for params in drawn} == {"adam", "sgd"}
    for params in drawn:
        assert ("momentum" in params) == (params["optimizer"] == "sgd")
        assert "nesterov" not in params or params["momentum"] == 0.5


def test_parents_are_sampled_before_their_children() -> None:
    space = {
        "c": dimension(type="choice", choices=[1], when={"b": [1]}),
        "b": dimension(type="choice", choices=[1], when={"a": [1]}),
        "a": dimension(type="choice", choices=[1]),
    }
    assert ordered(space) == ["a", "b", "c"]


def test_conditions_in_a_cycle_are_refused() -> None:
    space = {
        "a": dimension(type="choice", choices=[1], when={"b": [1]}),
        "b": dimension(type="choice", choices=[1], when={"a": [1]}),
    }
    with pytest.raises(ValueError, match="cycle, got a, b"):
        ordered(space)


def test_a_child_of_an_inactive_parent_is_inactive() -> None:
    child = dimension(type="int", low=1, high=2, when={"parent": [1]})
    assert not is_active(child, {})
    assert not is_active(child, {"parent": 2})
    assert is_active(child, {"parent": 1})


@pytest.mark.parametrize(
    ("entry", "value", "inside"),
    [
        ({"type": "float", "low": 0, "high": 1}, 1.0, True),
        ({"type": "float", "low": 0, "high": 1}, 0, True),
        ({"type": "float", "low": 0, "high": 1}, 1.0000001, False),
        ({"type": "float", "low": 0, "high": 1}, float("nan"), False),
        ({"type": "float", "low": 0, "high": 1}, "0.5", False),
        ({"type": "float", "low": 0, "high": 1}, True, False),
        ({"type": "float", "low": 0.1, "high": 0.5, "step": 0.1}, 0.3, True),
        ({"type": "float", "low": 0.1, "high": 0.5, "step": 0.1}, 0.35, False),
        ({"type": "int", "low": 1, "high": 9}, 3, True),
        ({"type": "int", "low": 1, "high": 9}, 3.5, False),
        ({"type": "int", "low": 1, "high": 9, "step": 4}, 5, True),
        ({"type": "int", "low": 1, "high": 9, "step": 4}, 6, False),
        ({"type": "choice", "choices": ["a", "b"]}, "b", True),
        ({"type": "choice", "choices": ["a", "b"]}, "c", False),
    ],
)
def test_a_space_knows_what_lies_in_it(entry: dict[str, Any], value: Any, inside: bool) -> None:
    assert dimension(**entry).contains(value) is inside


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"type": "float", "low": 1, "high": 0.1}, "low < high must hold, got low=1.0, high=0.1; swap them"),
        ({"type": "int", "low": 3, "high": 3}, "low < high must hold, got low=3, high=3"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "a log range needs low > 0, got low=0.0"),
        ({"type": "float", "low": 1, "high": 2, "log": True, "step": 0.5}, "a log range takes no step, got step=0.5"),
        ({"type": "int", "low": 0, "high": 10, "step": 4}, "got low=0, high=10, step=4; use high=8"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.3}, "use high=0.9"),
        ({"type": "choice", "choices": ["a", "a"]}, "choices must differ"),
        ({"type": "choice", "choices": []}, "at least 1 item"),
        ({"type": "float", "low": float("-inf"), "high": 1}, "finite number"),
    ],
)
def test_a_wrong_range_is_refused_with_its_values(entry: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        dimension(**entry)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "float", "low": 0.1, "high": 0.5, "step": 0.1},
        {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        {"type": "int", "low": 1, "high": 64, "log": True},
        {"type": "int", "low": 1, "high": 9, "step": 4},
        {"type": "choice", "choices": ["a", 1]},
    ],
)
def test_optuna_takes_every_endpoint_back_when_a_study_is_rebuilt(entry: dict[str, Any]) -> None:
    found = dimension(**entry)
    for endpoint in found.endpoints:
        trial = optuna.trial.create_trial(value=1.0, params={"p": endpoint}, distributions={"p": found.distribution()})
        assert trial.params["p"] == endpoint
