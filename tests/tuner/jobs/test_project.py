"""What of a folder goes to a cluster."""

import logging
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from tuner.errors import StudyError
from tuner.jobs import project


def test_a_study_file_is_named_as_the_job_sees_it(tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    study = tmp_path / "spaces" / "street.toml"
    study.touch()
    assert project.study_file_within(tmp_path, study) == Path("spaces/street.toml")


def test_a_study_file_outside_of_the_folder_that_is_submitted_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    with pytest.raises(StudyError, match=r"street.toml: a study file in the folder .* got one outside .*project"):
        project.study_file_within(folder, tmp_path / "street.toml")


def test_a_folder_that_is_too_large_is_reported_with_its_largest_entries(tmp_path: Path) -> None:
    for name, megabytes in (("data", 9), ("videos", 3), ("weights.pt", 2), ("notes", 1)):
        path = tmp_path / name / "file" if name != "weights.pt" else tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(megabytes * 1024**2))
    message = str(project.too_large(tmp_path))
    # `data` is never sent.
    assert "videos (3 MB), weights.pt (2 MB), notes (1 MB)" in message
    assert ".rayignore" in message


def test_the_project_s_own_folder_for_data_is_left_out_and_its_modules_of_that_name_are_not(tmp_path: Path) -> None:
    """As Ray packs it."""
    sent = ["fcn/data/splits.py", "search_spaces/demo.toml", "pyproject.toml"]
    left_out = ["data/kitti/um_000000.png", "studies/demo/events.jsonl", ".venv/bin/python", "fcn/__pycache__/a.pyc"]
    for name in (*sent, *left_out):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    package = tmp_path / "package.zip"
    create_package(
        str(tmp_path / "project"),
        package,
        include_gitignore=True,
        excludes=project.EXCLUDED,
        logger=logging.getLogger(),
    )
    with zipfile.ZipFile(package) as archive:
        assert {name for name in archive.namelist() if not name.endswith("/")} == set(sent)
