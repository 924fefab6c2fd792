"""`python -m fcn data DIR` prints what is there, and one sentence where something is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn.cli.app import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of two sizes in three sequences; a quarter of each is road, its first row void."""
    for number in range(6):
        size = (20, 40) if number < 4 else (24, 40)
        mask = np.zeros(size, dtype=np.uint8)
        mask[:, : size[1] // 4] = 1
        mask[0] = 255
        for kind, pixels in (("images", np.full((*size, 3), 90, dtype=np.uint8)), ("masks", mask)):
            path = tmp_path / "set" / kind / f"walk{number // 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (tmp_path / "set" / "classes.toml").write_text("void = 255\n[classes]\nverge = 0\nroad = 1\n")
    return tmp_path / "set"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["data", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_it_prints_frames_sizes_classes_sequences_and_the_split(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, str(folder), "--sheet", str(tmp_path / "sheet.png"))
    assert (status, err) == (0, "")
    assert "folder: 6 frames" in out
    assert "20x40 (4), 24x40 (2)" in out
    lines = {line.split("│")[1].strip(): line for line in out.splitlines() if "│" in line}
    assert "25.00%" in lines["road"]
    assert "75.00%" in lines["verge"]
    assert f"{(4 / 20 + 2 / 24 * 24 / 20) / (4 + 2 * 24 / 20):.2%}" in lines["void (of all pixels)"]
    assert {lines[f"walk{number}"].split("│")[2].strip() for number in range(3)} == {"train", "val", "test"}


def test_it_draws_a_contact_sheet_with_the_road_in_green(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, str(folder), "--sheet", str(tmp_path / "sheet.png"))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 240, 3 * 400, 3)
    red, green, blue = sheet[100, 50].tolist()
    assert green > red + 50
    assert green > blue + 50


def test_generated_scenes_need_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--dataset", "scenes", "--frames", "6", "--sheet", str(tmp_path / "sheet.png"))
    assert status == 0
    assert "scenes: 6 frames" in out


def test_warnings_of_the_split_are_printed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("images", "masks"):
        for path in (folder / kind / "walk2").iterdir():
            path.unlink()
    _, out, _ = run(capsys, str(folder), "--sheet", str(tmp_path / "sheet.png"))
    assert "too few for a test split" in out.replace("\n", " ")


def test_each_damaged_image_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = [folder / "images" / "walk0" / "0.png", folder / "masks" / "walk1" / "3.png"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:60])
    status, _, err = run(capsys, str(folder), "--sheet", str(tmp_path / "sheet.png"))
    assert status == 2
    assert [line.split(": ")[:2] for line in err.splitlines()] == [["error", str(path)] for path in damaged]
    assert not (tmp_path / "sheet.png").exists()


def test_a_folder_of_no_known_layout_is_told_what_it_could_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, str(tmp_path))
    assert status == 2
    assert err.startswith(f"error: {tmp_path}: looks like none of kitti_road")


def test_wrong_settings_are_all_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, str(folder), "--split", "random", "--frames", "1")
    assert status == 2
    assert [line.split(":")[1].strip() for line in err.splitlines()] == ["frames", "split"]


def test_a_sheet_that_can_not_be_written_is_explained(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, str(folder), "--sheet", str(tmp_path / "nowhere" / "sheet.png"))
    assert status == 2
    assert "set --sheet elsewhere" in err


def test_the_module_runs_as_a_command_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fcn", "data", str(tmp_path / "nowhere")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"error: {tmp_path}/nowhere: there is no such folder\n"
