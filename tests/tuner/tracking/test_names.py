"""Names and values that MLflow wouldn't take, held against MLflow's own checks."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from mlflow.utils.validation import _validate_metric_name, _validate_param, _validate_tag

from tuner.tracking.names import fit_image_key, fit_name, fit_param, fit_tag

CHECKS: list[Any] = [_validate_metric_name, partial(_validate_param, value="1"), partial(_validate_tag, value="1")]
NAMES = [
    "iou/car & truck",
    "iou/car + truck",
    "val/straße",
    "50%",
    "a//b",
    "/a",
    "a/./b",
    "a/../b",
    "..",
    ".",
    "..a",
    "",
    "a\nb",
    "a\0b",
    "\ud800",
    "路",
    "x" * 251,
    "x" * 250 + "y",
    "é" * 300,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_name_is_one_that_mlflow_accepts(name: str) -> None:
    fit = fit_name(name)
    for validate in CHECKS:
        validate(fit)
    assert re.fullmatch(r"[a-zA-Z0-9_\-. ]{1,150}", fit_image_key(name))


def test_distinct_names_stay_distinct() -> None:
    assert len({fit_name(name) for name in NAMES}) == len(NAMES)
    assert len({fit_image_key(name) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", ["val/iou_road", "loss", "a.b", "class: road", "straße", "x" * 250])
def test_a_name_that_mlflow_accepts_is_unchanged(name: str) -> None:
    assert fit_name(name) == name


@pytest.mark.parametrize("name", ["frame_a", "0001TP_008550", "um 000003.left"])
def test_the_key_of_an_image_that_mlflow_accepts_is_unchanged(name: str) -> None:
    assert fit_image_key(name) == name


def test_a_value_that_is_too_long_is_truncated_visibly() -> None:
    assert fit_param("x" * 6000) == "x" * 6000
    assert fit_param("x" * 6001) == "x" * 5999 + "…"
    assert len(fit_tag("x" * 9000)) == 8000
    assert fit_param([1, 2]) == "[1, 2]"


def test_a_value_that_databases_do_not_accept_is_changed() -> None:
    assert fit_tag("a\0b\ud800") == "a\ufffdb?"
