"""First trials from earlier studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.studies import study_spec, study_tables
from tests.written_study import end, report, run, start, stop, write_study
from tuner.errors import StudyError
from tuner.search.earlier_studies import earlier_trials, with_first_trials
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage

X = {"type": "float", "low": 0.0, "high": 1.0}


def write(storage: Path, name: str, trials: list[tuple[dict[str, Any], float]], **changes: Any) -> None:
    """A study of these trials: hyperparameters and score."""
    lines = [run()]
    for number, (params, score) in enumerate(trials, start=1):
        lines += [start(number, **params), report(number, 1, score), end(number, value=score)]
    write_study(storage, name, *lines, stop(), **{"space": {"x": X}, **changes})


def first_trials(storage: Path, *names: str, **changes: Any) -> list[tuple[str, int, dict[str, Any]]]:
    spec = study_spec(**{"budget": {"trials": 15}, "search": {"from_studies": names}, **changes})
    return [(each.study, each.trial, each.params) for each in earlier_trials(spec, Storage(str(storage)))]


def test_the_best_of_each_study_comes_first_then_the_second_best_of_each(tmp_path: Path) -> None:
    write(tmp_path, "a", [({"x": 0.1}, 0.5), ({"x": 0.9}, 0.7)])
    write(tmp_path, "b", [({"x": 0.5}, 100.0), ({"x": 0.7}, 1.0)])
    assert first_trials(tmp_path, "a", "b") == [
        ("a", 2, {"x": 0.9}),
        ("b", 1, {"x": 0.5}),
        ("a", 1, {"x": 0.1}),
        ("b", 2, {"x": 0.7}),
    ]


def test_the_best_is_the_least_where_the_study_minimizes(tmp_path: Path) -> None:
    objective = {"metric": "score", "direction": "minimize"}
    write(tmp_path, "a", [({"x": 0.1}, 0.5), ({"x": 0.9}, 0.7)], objective=objective)
    assert first_trials(tmp_path, "a", objective=objective)[0] == ("a", 1, {"x": 0.1})


def test_trials_near_one_that_is_taken_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a", [({"x": 0.5}, 0.9), ({"x": 0.55}, 0.8), ({"x": 0.2}, 0.1)])
    assert first_trials(tmp_path, "a") == [("a", 1, {"x": 0.5}), ("a", 3, {"x": 0.2})]
    assert first_trials(tmp_path, "a", first_trials=[{"x": 0.25}]) == [("a", 1, {"x": 0.5})]


def test_no_more_than_five_are_taken_and_no_more_than_a_third_of_the_budget(tmp_path: Path) -> None:
    write(tmp_path, "a", [({"x": number / 8}, number) for number in range(9)])
    assert [trial for _, trial, _ in first_trials(tmp_path, "a")] == [9, 8, 7, 6, 5]
    assert [trial for _, trial, _ in first_trials(tmp_path, "a", budget={"trials": 8})] == [9, 8]


@pytest.mark.parametrize(("control", "taken"), [(0, 4), (9, 3), (12, 0)])
def test_they_leave_room_for_the_control_trials(tmp_path: Path, control: int, taken: int) -> None:
    write(tmp_path, "a", [({"x": number / 8}, number) for number in range(9)])
    spec = {"budget": {"trials": 12}, "scheduler": {"control_trials": control}}
    assert len(first_trials(tmp_path, "a", **spec)) == taken


def test_they_come_after_the_first_trials_of_the_study_file(tmp_path: Path) -> None:
    write(tmp_path, "a", [({"x": 0.875}, 1)])
    spec = study_spec(search={"from_studies": ["a"]}, first_trials=[{"x": 0.05}])
    firsts = with_first_trials(spec, earlier_trials(spec, Storage(str(tmp_path)))).first_trials
    assert firsts == ({"x": 0.05}, {"x": 0.875})


def test_hyperparameters_that_are_not_in_this_space_are_left_to_the_sampler(tmp_path: Path) -> None:
    trials = [
        ({"x": 0.9, "batch_size": 4, "optimizer": "sgd", "momentum": 0.5}, 0.9),
        ({"x": 0.5, "batch_size": 16, "optimizer": "adam"}, 0.8),
    ]
    write(
        tmp_path,
        "a",
        trials,
        space={
            "x": X,
            "batch_size": {"type": "choice", "choices": [4, 16]},
            "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
            "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd"]}},
        },
    )
    space = {
        "x": {"type": "float", "low": 0.01, "high": 0.6, "log": True},
        "batch_size": {"type": "int", "low": 1, "high": 8},
        "optimizer": {"type": "choice", "choices": ["sgd", "lion"]},
    }
    assert first_trials(tmp_path, "a", space=space) == [
        ("a", 1, {"batch_size": 4, "optimizer": "sgd"}),
        ("a", 2, {"x": 0.5}),
    ]


def test_a_hyperparameter_that_the_rest_of_the_setting_rules_out_is_left_out(tmp_path: Path) -> None:
    space: dict[str, dict[str, Any]] = {
        "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
        "momentum": {"type": "float", "low": 0.0, "high": 0.9},
    }
    trials = [({"optimizer": "adam", "momentum": 0.1}, 0.9), ({"optimizer": "sgd", "momentum": 0.8}, 0.8)]
    write(tmp_path, "a", trials, space=space)
    conditional = {**space, "momentum": {**space["momentum"], "when": {"optimizer": ["sgd"]}}}
    assert first_trials(tmp_path, "a", space=conditional) == [
        ("a", 1, {"optimizer": "adam"}),
        ("a", 2, {"optimizer": "sgd", "momentum": 0.8}),
    ]


@pytest.mark.parametrize(
    ("names", "changes", "said"),
    [
        (["roads"], {}, "a study in .* is needed, got 'roads'; did you mean road\\?"),
        (["s"], {}, "an earlier study is needed, got 's', which is this one; remove it"),
        (
            ["road"],
            {"objective": {"metric": "loss"}},
            "road must be a study of .* to maximize loss, got one of .* score",
        ),
        (["empty"], {}, "empty has no trial that ended without failing; remove it"),
        (
            ["road"],
            {"space": {"l2": X}},
            "road has no hyperparameter whose values lie in this space; it samples x; remove",
        ),
    ],
)
def test_a_study_that_cannot_be_taken_from_is_said_with_the_fix(
    tmp_path: Path, names: list[str], changes: dict[str, Any], said: str
) -> None:
    write(tmp_path, "road", [({"x": 0.1}, 0.5)])
    write(tmp_path, "empty", [])
    write(tmp_path, "s", [({"x": 0.1}, 0.5)])
    spec = StudySpec.model_validate({"name": "s", **study_tables(search={"from_studies": names}), **changes})
    with pytest.raises(StudyError, match=f"search.from_studies: {said}"):
        earlier_trials(spec, Storage(str(tmp_path)))
