"""scheduler.fidelity: which epoch is trained with which values, and what a study file may say."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from tests.studies import study_spec, study_tables
from tuner.errors import StudyError
from tuner.spec.study import StudySpec, to_json
from tuner.spec.study_file import check_study, first_configs, override_study
from tuner.spec.toml import study_toml

PARTS = {"part": [0.25, 0.5, 1.0]}


def checked(scheduler: dict[str, Any], **changes: Any) -> StudySpec:
    """A study of 12 epochs with rungs at 2 and 6, checked as a file is."""
    tables = study_tables(**{"fixed": {"epochs": 12}, **changes, "scheduler": {"grace_epochs": 2, **scheduler}})
    return check_study({"name": "s", **tables}, place="s.toml")


def refusal(scheduler: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(StudyError) as caught:
        checked(scheduler, **changes)
    return str(caught.value)


@pytest.mark.parametrize("name", ["asha", "promotion", "hyperband"])
def test_values_change_after_the_epochs_of_rungs_and_the_last_holds_to_the_end(name: str) -> None:
    spec = checked({"name": name, "fidelity": PARTS})
    assert spec.scheduler.changes == (2, 6)
    found = [spec.scheduler.fidelity_at(epoch)["part"] for epoch in range(1, 13)]
    assert found == [0.25] * 2 + [0.5] * 4 + [1.0] * 6


def test_a_rung_between_two_epochs_counts_at_the_later_one_as_for_early_stopping() -> None:
    spec = checked({"reduction_factor": 2.6, "fidelity": PARTS})
    assert spec.scheduler.changes == (2, 6)  # 5.2
    assert spec.scheduler.stretch(6) == 1


def test_the_last_value_is_fixed_and_a_study_is_read_back_as_it_was_written() -> None:
    spec = checked({"fidelity": PARTS})
    assert spec.fixed == {"epochs": 12, "part": 1.0}
    assert StudySpec.model_validate_json(to_json(spec)) == spec
    assert check_study(tomllib.loads(study_toml(spec)), place="again") == spec
    assert [config.model_dump()["part"] for config in first_configs(spec)] == [0.25, 0.5, 1.0]


def test_a_study_without_it_has_one_stretch_and_ranks_by_value_alone() -> None:
    spec = study_spec()
    assert (spec.scheduler.changes, spec.scheduler.stretch(1000), spec.scheduler.fidelity_at(5)) == ((), 0, {})
    assert spec.outranks(0.6, 1, 0.5, 9)
    assert not spec.outranks(0.5, 9, 0.6, 1)


def test_a_later_fidelity_outranks_whatever_an_earlier_one_measured() -> None:
    spec = checked({"fidelity": PARTS})
    assert spec.outranks(0.1, 7, 0.9, 6)
    assert not spec.outranks(0.9, 6, 0.1, 7)
    assert spec.outranks(0.2, 4, 0.1, 6)
    assert spec.outranks(0.1, 1, None, None)


@pytest.mark.parametrize(
    ("scheduler", "changes", "sentence"),
    [
        ({"name": "none", "fidelity": PARTS}, {}, 'scheduler.name = "none" has none; name one of the three'),
        ({"name": "median", "fidelity": PARTS}, {}, 'scheduler.name = "median" has none'),
        ({"fidelity": {"x": [0.1, 1.0]}}, {}, "scheduler.fidelity.x: a field of [space] can't change within a trial"),
        (
            {"fidelity": PARTS},
            {"fixed": {"epochs": 12, "part": 0.9}},
            "scheduler.fidelity.part: the last value must be that of fixed.part, 0.9, got 1.0",
        ),
        ({"fidelity": {"part": [1.0]}}, {}, "scheduler.fidelity.part: two or more values are needed"),
        (
            {"fidelity": {**PARTS, "bonus": [0.1, 0.0]}},
            {},
            "as many values as the others, got 3 of part, 2 of bonus",
        ),
        (
            {"fidelity": {"part": [0.1, 0.2, 0.5, 1.0]}},
            {},
            "a trial of 12 epochs has room for 3 values of each field, with changes after the epochs 2, 6, 18; got 4",
        ),
        ({"reduction_factor": 1.1, "fidelity": PARTS}, {"fixed": {"epochs": 3}}, "room for 2 values"),
        ({"grace_epochs": 1, "reduction_factor": 1.1, "fidelity": {"part": [0.1, 0.2, 0.5, 1.0]}}, {}, "1, 2, 2"),
        ({"fidelity": {"prat": [0.1, 1.0]}}, {}, "scheduler.fidelity.prat: tests.workloads.replay.Config has no such"),
        (
            {"fidelity": {"part": [0.0, 1.0]}},
            {},
            "scheduler.fidelity.part, value 1: input should be greater than 0, got 0.0",
        ),
        ({"fidelity": {"part": ["much", 1.0]}}, {}, "scheduler.fidelity.part, value 1: input should be a valid number"),
        ({"fidelity": {"part": 0.5}}, {}, "scheduler.fidelity.part: input should be a valid tuple"),
        ({"fidelity": [0.5]}, {}, "scheduler.fidelity: input should be a valid dictionary"),
    ],
)
def test_what_cannot_be_is_refused_with_place_rule_and_value(
    scheduler: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(scheduler, **changes)


def test_each_trial_reaches_the_full_fidelity_where_epochs_are_sampled() -> None:
    space = {"x": {"type": "float", "low": 0, "high": 1}, "epochs": {"type": "int", "low": 4, "high": 12}}
    assert "a trial of 4 epochs has room for 2 values" in refusal({"fidelity": PARTS}, fixed={"part": 1.0}, space=space)


def test_it_can_be_said_and_removed_on_the_command_line() -> None:
    spec = override_study(study_spec(), ["scheduler.fidelity.part=[0.5, 1.0]", "fixed.epochs=9"])
    assert spec.scheduler.fidelity == {"part": (0.5, 1.0)}
    assert override_study(spec, ["scheduler.fidelity={}"]).scheduler.changes == ()
