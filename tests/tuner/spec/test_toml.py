"""A study as TOML, the file that would run it again; and the values of --set."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.studies import study_spec
from tuner.spec.study_file import read_study
from tuner.spec.toml import override, parse_value, study_toml, toml

ROOT = Path(__file__).parents[3]
STRANGE = {"a b": 'tab\there "quoted" back\\slash \x7f \x01 🛣 é', "path": "/data/é", "n": [1, 2.5, True], "e": {}}


@pytest.mark.parametrize("file", sorted((ROOT / "search_spaces").glob("*.toml")), ids=lambda file: file.stem)
def test_every_study_of_search_spaces_comes_back_from_its_file(file: Path, tmp_path: Path) -> None:
    spec = read_study(file)
    (tmp_path / "again.toml").write_text(study_toml(spec), encoding="utf-8")
    assert read_study(tmp_path / "again.toml") == spec


def test_a_studys_id_is_not_in_its_file_and_absent_values_are_left_out() -> None:
    text = study_toml(study_spec(id="0" * 32, space={"y": {"type": "choice", "choices": ["a", 1, False]}}))
    assert "id =" not in text
    assert "time_seconds" not in text
    assert "stop_when" not in text
    limited = study_spec(budget={"stop_when": {"value": 0.5}})
    assert tomllib.loads(study_toml(limited))["budget"]["stop_when"] == {"value": 0.5}
    assert tomllib.loads(text)["space"]["y"]["choices"] == ["a", 1, False]


@pytest.mark.parametrize("value", [STRANGE, 1e-05, 1e22, -0.0, "", [], "\U0001f6e3"], ids=repr)
def test_a_value_survives_set(value: Any) -> None:
    assert tomllib.loads(f"value = {toml(value)}")["value"] == value
    path, _, text = override("fixed.x", value).partition("=")
    assert (path, parse_value(text)) == ("fixed.x", value)


def test_a_value_of_set_that_is_not_toml_is_text() -> None:
    assert parse_value("val/iou_road") == "val/iou_road"


def test_what_toml_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="got None"):
        toml([None])
