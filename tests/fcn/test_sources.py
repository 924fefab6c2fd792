"""Which files are predicted, and what their predictions are called."""

from pathlib import Path

import pytest

from fcn.errors import InputError
from fcn.sources import plan


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def targets(paths: list[Path], output: Path, frames_as_pictures: bool = False) -> dict[str, str]:
    jobs, problems = plan(paths, output, frames_as_pictures=frames_as_pictures)
    assert not problems
    return {str(job.source): job.target.relative_to(output).as_posix() for job in jobs}


def test_names_that_would_collide_grow_until_they_differ(tmp_path: Path) -> None:
    paths = touch(tmp_path, "one/x.png", "one/x.jpg", "two/x.png", "two/y.png", "deep/y.PNG", "two/z.png")

    assert list(targets(paths, tmp_path / "out").values()) == [
        "one_x.png.png",
        "x.jpg.png",
        "two_x.png.png",
        "two_y.png.png",
        "deep_y.PNG.png",
        "z.png",
    ]


def test_folders_of_one_name_are_numbered(tmp_path: Path) -> None:
    paths = touch(tmp_path, "a/images/x.png", "b/images/x.png", "c/images/x.png")

    names = targets(paths, tmp_path / "out")

    assert len({name.casefold() for name in names.values()}) == 3


def test_a_folder_is_read_to_its_depth_without_hidden_files_and_earlier_output(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/deep/b.jpg", "in/._a.png", "in/notes.txt", "in/out/a.png", "in/c.mp4")

    names = targets([tmp_path / "in"], tmp_path / "in" / "out")

    assert sorted(names.values()) == ["a.png", "c.mp4", "deep/b.png"]


def test_an_output_above_the_inputs_hides_none(tmp_path: Path) -> None:
    touch(tmp_path, "in/deep/a.png")

    assert list(targets([tmp_path / "in"], tmp_path).values()) == ["deep/a.png"]


def test_a_file_given_twice_is_predicted_once(tmp_path: Path) -> None:
    (path,) = touch(tmp_path, "in/a.png")

    jobs, _ = plan([tmp_path / "in", path, path], tmp_path / "out", frames_as_pictures=False)

    assert [job.target.name for job in jobs] == ["a.png"]


def test_a_video_becomes_a_video_or_a_folder(tmp_path: Path) -> None:
    paths = touch(tmp_path, "drive.MOV", "drive.png")

    assert sorted(targets(paths, tmp_path / "out").values()) == ["drive.mp4", "drive.png"]
    assert sorted(targets(paths, tmp_path / "out", frames_as_pictures=True).values()) == [
        "drive",
        "drive.png",
    ]


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    first, second = touch(tmp_path, "in/a.jpg", "out/a.png")

    assert list(targets([first, second], tmp_path / "out").values()) == ["a.jpg.png", "a.png.png"]
    with pytest.raises(InputError, match=r"would overwrite the input .*out/a\.png: choose another folder"):
        plan([second], tmp_path / "out", frames_as_pictures=False)
