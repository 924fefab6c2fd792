"""A directory that appears whole or not at all."""

from pathlib import Path

import pytest

from fcn.errors import InputError
from fcn.fresh_directory import fresh_directory


def test_of_two_at_once_the_second_is_told_and_deletes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(InputError, match="must be new or empty"), fresh_directory(output) as second:  # noqa: PT012
        (second / "file").write_text("second")
        with fresh_directory(output) as first:
            (first / "file").write_text("first")
    assert (output / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_came_there_meanwhile_stays(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(InputError, match="must be new or empty"), fresh_directory(output):
        output.write_text("mine")
    assert output.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
