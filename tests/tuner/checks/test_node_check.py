"""What a node is found to lack before it runs a trial."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from tests.studies import study_spec
from tuner.checks import node_check
from tuner.checks.node_check import MARKER, problem, software
from tuner.storage.storage import Storage

WORKLOAD = "tests.workloads.replay"
SAME = software(WORKLOAD)


@pytest.fixture
def study(tmp_path: Path) -> Storage:
    study = Storage(str(tmp_path)) / "s"
    study.write_text(MARKER, "token")
    return study


def found(
    study: Storage, expected: dict[str, str] = SAME, fingerprint: str | None = None, **changes: Any
) -> str | None:
    return problem(expected, WORKLOAD, pickle.dumps((study_spec(**changes), study, "token", fingerprint)))


def test_a_node_like_the_drivers_has_no_problem(study: Storage) -> None:
    assert found(study) is None


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (
            "Python",
            f"Python must be other as on the driver's machine, got {SAME['Python']}: install that version there",
        ),
        ("ray", f"ray must be other as on the driver's machine, got {SAME['ray']}: install that version there"),
        ("torch", f"torch must be other as on the driver's machine, got {SAME['torch']}: install that version there"),
        ("tuner", "the code of tuner there differs from the driver's: copy the driver's project there"),
        (WORKLOAD, f"the code of {WORKLOAD} there differs from the driver's: copy the driver's project there"),
    ],
)
def test_what_differs_from_the_driver_is_named(study: Storage, what: str, sentence: str) -> None:
    assert found(study, {**SAME, what: "other"}) == sentence


def test_data_that_is_missing_is_said_in_the_workloads_own_words(study: Storage) -> None:
    sentence = "fixed.missing_data: frames are needed, got none; take missing_data out"
    assert found(study, fixed={"missing_data": True}) == sentence


def test_other_data_than_the_drivers_are_found(study: Storage, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("roads-2")
    fixed = {"data": str(tmp_path / "data")}
    assert found(study, fingerprint="roads-2", fixed=fixed) is None
    assert found(study, fingerprint="roads-1", fixed=fixed) == (
        "the data there must have the fingerprint roads-1, as the driver's have, got roads-2: bring the same data to "
        "all nodes, or resume the study if its data were changed on purpose"
    )


@pytest.mark.parametrize("token", [None, "that of another run"])
def test_a_storage_that_is_not_the_drivers_is_found(
    tmp_path: Path, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_check, "_SHARING_SECONDS", 0.0)
    study = Storage(str(tmp_path)) / "s"
    if token:
        study.write_text(MARKER, token)
    assert found(study) == (
        f"--storage {study.uri} there isn't the folder that the driver uses: "
        "mount the same folder on all nodes, or give a bucket"
    )


def test_a_package_that_changed_by_one_character_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "some_trainer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text("width = 1")
    before = software("some_trainer")["some_trainer"]
    assert software("some_trainer")["some_trainer"] == before
    (package / "model.py").write_text("width = 2")
    assert software("some_trainer")["some_trainer"] != before


def test_the_check_runs_where_the_project_is_not_installed(tmp_path: Path, study: Storage) -> None:
    cloudpickle.register_pickle_by_value(node_check)  # type: ignore[no-untyped-call]
    call = (problem, (SAME, WORKLOAD, b"not read"))
    (tmp_path / "call").write_bytes(cloudpickle.dumps(call))  # type: ignore[no-untyped-call]
    script = "import pickle; function, arguments = pickle.load(open('call', 'rb')); print(function(*arguments))"
    # Isolated, and in another folder: what this machine has installed is there, but not this project.
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            f"import sys; sys.path[:] = [p for p in sys.path if 'work' not in p or "
            f"'site-packages' in p]; sys.modules['tuner'] = None; {script}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "tuner isn't installed there: install the same packages as on the driver's machine", (
        done.stderr
    )
