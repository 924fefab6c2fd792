"""Which files are predicted, and what their predictions are called."""

import os
from pathlib import Path

import pytest

from fcn.errors import InputError
from fcn.prediction.plan import plan


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def targets(paths: list[Path], output: Path, frames_as_images: bool = False) -> dict[str, str]:
    jobs, problems, _ = plan(paths, output, frames_as_images=frames_as_images)
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

    jobs, _, _ = plan([tmp_path / "in", path, path], tmp_path / "out", frames_as_images=False)

    assert [job.target.name for job in jobs] == ["a.png"]


def test_a_video_becomes_a_video_or_a_folder(tmp_path: Path) -> None:
    paths = touch(tmp_path, "drive.MOV", "drive.png")

    assert sorted(targets(paths, tmp_path / "out").values()) == ["drive.mp4", "drive.png"]
    assert sorted(targets(paths, tmp_path / "out", frames_as_images=True).values()) == [
        "drive",
        "drive.png",
    ]


def test_names_that_no_file_system_takes_are_cut_and_still_differ(tmp_path: Path) -> None:
    long = "ü" * 120
    paths = touch(
        tmp_path, f"in/{long}-eleven.jpeg", f"in/{long}-twelve.jpeg", f"in/{long}_.mov", "in/a.b" + "c" * 240,
        "in/short.jpeg",
    )  # fmt: skip

    for frames_as_images in (False, True):
        names = list(targets(paths, tmp_path / "out", frames_as_images).values())

        assert len({name.casefold() for name in names}) == 5
        assert max(len(os.fsencode(name)) for name in names) <= 255
        assert [Path(name).suffix for name in names[:2]] == [".png", ".png"]
        assert names[0].startswith("ü" * 100)
        assert names[4] == "short.png"
        assert names == list(targets(paths, tmp_path / "out", frames_as_images).values())


def test_long_names_that_would_collide_are_cut_apart(tmp_path: Path) -> None:
    long = "x" * 245
    paths = touch(tmp_path, *(f"{folder}/{long}{suffix}" for folder in "ab" for suffix in (".png", ".jpg")))

    names = list(targets(paths, tmp_path / "out").values())

    assert len(set(names)) == 4
    assert max(map(len, names)) <= 255


def test_files_of_other_kinds_in_a_folder_are_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/b.gif", "in/c.heic", "in/deep/d.HEIC", "in/.DS_Store", "in/Thumbs.db")
    touch(tmp_path, "none/notes.txt")

    jobs, problems, notes = plan([tmp_path / "in", tmp_path / "none"], tmp_path / "out", frames_as_images=False)

    assert [job.source.name for job in jobs] == ["a.png", "b.gif"]
    (note,) = notes
    assert note.startswith(f"{tmp_path}/in (.png, ")
    assert note.endswith("2 files are of another kind and left out: c.heic, d.HEIC")
    (problem,) = problems
    assert problem.startswith(f"{tmp_path}/none: a folder must hold images or videos, got none")
    assert problem.endswith("1 file is of another kind and left out: notes.txt")


def test_linked_folders_are_read_and_links_that_go_round_end(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "elsewhere/b.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "round.png").symlink_to(tmp_path / "in" / "round.png")

    jobs, problems, _ = plan([tmp_path / "in"], tmp_path / "out", frames_as_images=False)

    assert sorted(job.target.relative_to(tmp_path / "out").as_posix() for job in jobs) == [
        "a.png", "link/b.png", "round.png",
    ]  # fmt: skip
    assert problems == []


def test_a_path_that_no_file_system_takes_is_told_and_the_rest_is_planned(tmp_path: Path) -> None:
    (path,) = touch(tmp_path, "a.png")

    jobs, problems, _ = plan([tmp_path / ("x" * 300), path], tmp_path / "out", frames_as_images=False)

    assert [job.source for job in jobs] == [path]
    assert problems == [f"{tmp_path / ('x' * 300)}: can't be read (File name too long)"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_can_not_be_read_is_told_and_the_rest_is_planned(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/locked/b.png")
    (tmp_path / "in" / "locked").chmod(0)

    jobs, problems, _ = plan([tmp_path / "in"], tmp_path / "out", frames_as_images=False)

    (tmp_path / "in" / "locked").chmod(0o755)
    assert [job.source.name for job in jobs] == ["a.png"]
    assert problems[0].startswith(f"{tmp_path}/in/locked: can't be read (Permission denied)")


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    first, second = touch(tmp_path, "in/a.jpg", "out/a.png")

    assert list(targets([first, second], tmp_path / "out").values()) == ["a.jpg.png", "a.png.png"]
    with pytest.raises(InputError, match=r"would overwrite the input .*out/a\.png: choose another folder"):
        plan([second], tmp_path / "out", frames_as_images=False)
