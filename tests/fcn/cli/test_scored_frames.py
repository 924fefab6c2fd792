"""DIR is what an export is scored on, or it is refused: nothing else gets the credit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn.cli.app import main
from fcn.config import Config
from fcn.data.readers import open_dataset
from fcn.formats.write import Exported
from tests.fcn.command import Result, fcn

Tiny = tuple[Path, Exported]
SIZE = (32, 96)  # the tiny export's: its frames are scored as they are


def evaluate(directory: Path, *arguments: object) -> Result:
    return fcn("evaluate", directory, *arguments, "--device", "cpu")


def scores(result: Result) -> dict[str, float]:
    assert result.exit_code == 0, result.output
    metrics: dict[str, float] = json.loads(result.stdout)["metrics"]
    return metrics


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def save_folder(folder: Path, classes: str, drives: dict[str, int], seed: int = 0) -> Path:
    """A folder data set: drawn scenes as images of some drives, with road = 1 in the masks and the rest 0."""
    config = Config(dataset="scenes", weights="none", image_size=SIZE, frames=60)
    scenes = open_dataset(config)
    index = seed
    for drive, count in drives.items():
        for number in range(count):
            image, label = scenes.read(index)
            for kind, pixels in (("images", image), ("masks", label)):
                path = folder / kind / drive / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            index += 1
    (folder / "classes.toml").write_text(f"void = 255\n[classes]\n{classes}\n")
    return folder


DRIVES = {f"drive{number}": 3 for number in range(4)}


def as_if_of_a_folder(tiny_export: Path, directory: Path, classes: tuple[str, ...], wanted: str) -> Path:
    """The export of drawn scenes, as it would be if its frames had lain in a folder as DRIVES."""
    shutil.copytree(tiny_export, directory)
    description = json.loads((directory / "export.json").read_text())
    description["classes"] = classes
    description["config"] |= {"dataset": "folder", "classes": wanted, "frames": None}
    description["sequences"] = {"train": ["drive0", "drive1"], "val": ["drive2"], "test": ["drive3"]}
    description["frames"] = {"train": 6, "val": 3, "test": 3}
    (directory / "export.json").write_text(json.dumps(description))
    return directory


@pytest.fixture(scope="module")
def folder_export(tmp_path_factory: pytest.TempPathFactory, tiny_export: Tiny) -> Path:
    """An export of road against the rest in a folder of four drives, which lies beside it."""
    place = tmp_path_factory.mktemp("folder")
    save_folder(place / "data", "background = 0\nroad = 1", DRIVES)
    return as_if_of_a_folder(tiny_export[0], place / "export", ("background", "road"), "road")


def test_a_folder_that_is_not_there_gets_no_score(tiny_export: Tiny) -> None:
    assert "/no/such/folder: the test split is one of drawn scenes" in refusal(
        evaluate(tiny_export[0], "/no/such/folder", "--json")
    )
    assert "/no/such/folder: there is no such folder" in refusal(
        evaluate(tiny_export[0], "/no/such/folder", "--split", "all", "--json")
    )


@pytest.mark.parametrize("view", [[], ["--own-size"]])
def test_an_export_of_drawn_scenes_is_scored_on_the_frames_of_a_folder(
    tiny_export: Tiny, tmp_path: Path, view: list[str]
) -> None:
    folder = save_folder(tmp_path / "data", "background = 0\nroad = 1", {"one": 4})  # a single drive can't be split
    own = refusal(evaluate(tiny_export[0], folder, *view))
    assert f"add --split all to score every frame of {folder}" in own

    result = evaluate(tiny_export[0], folder, "--split", "all", "--json", *view)

    found = json.loads(result.stdout)
    assert (found["data"], found["dataset"], found["frames"]) == (str(folder), "folder", 4)
    before = scores(result)["all/iou_road"]
    for mask in (folder / "masks").rglob("*.png"):  # other labels, other scores: they are what is read
        Image.fromarray(1 - np.asarray(Image.open(mask)).clip(0, 1)).save(mask)
    after = scores(evaluate(tiny_export[0], folder, "--split", "all", "--json", *view))["all/iou_road"]
    assert abs(before - after) > 0.05


def test_the_same_frames_score_the_same_whichever_data_set_they_are_read_from(
    tiny_export: Tiny, tmp_path: Path
) -> None:
    drawn = scores(evaluate(tiny_export[0], "--split", "all", "--json"))
    folder = save_folder(tmp_path / "data", "background = 0\nroad = 1", {"one": 24})  # what the export was trained on

    read = scores(evaluate(tiny_export[0], folder, "--split", "all", "--json"))

    assert read == pytest.approx(drawn, abs=1e-6)


def test_other_drives_are_scored_with_split_all_and_their_own_split_says_so(
    folder_export: Path, tmp_path: Path
) -> None:
    other = save_folder(tmp_path / "data", "background = 0\nroad = 1", {"elsewhere": 2, "abroad": 3}, seed=30)
    told = refusal(evaluate(folder_export, other))
    assert f"{other}: is not what the export was trained on" in told
    assert "add --split all" in told

    result = evaluate(folder_export, other, "--split", "all")

    assert result.exit_code == 0, result.output
    assert f"all: 5 frames of {other}, at the network's 32 x 96 pixels" in result.stdout
    assert result.stderr == ""


def test_frames_that_were_trained_on_are_told_where_all_are_scored(folder_export: Path) -> None:
    result = evaluate(folder_export, folder_export.parent / "data", "--split", "all")

    assert result.exit_code == 0, result.output
    assert "6 of 12 frames have the names of sequences that the export was trained on" in result.stderr


def test_an_export_of_a_folder_needs_the_folder(folder_export: Path) -> None:
    assert "DIR: give the folder of folder" in refusal(evaluate(folder_export))
    assert "DIR: give the folder of folder" in refusal(evaluate(folder_export, "--split", "all"))


def test_a_data_set_without_the_exports_class_is_refused(tiny_export: Tiny, tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "data", "verge = 0\npath = 1", {"one": 2})
    told = refusal(evaluate(tiny_export[0], folder, "--split", "all"))
    assert f"{folder}: must have the classes of the export, background, road" in told
    assert 'has "all" or one of verge, path' in told


def test_a_legend_that_was_changed_since_training_is_refused(tiny_export: Tiny, tmp_path: Path) -> None:
    directory = as_if_of_a_folder(tiny_export[0], tmp_path / "export", ("verge", "road", "sky"), "all")
    folder = save_folder(tmp_path / "data", "road = 1\nverge = 0\nsky = 2", DRIVES)

    for split in ("val", "all"):
        told = refusal(evaluate(directory, folder, "--split", split))
        assert "must be those of the export in their order, verge, road, sky, got road, verge, sky" in told


def test_where_the_layout_tells_nothing_dataset_does(tiny_export: Tiny, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    assert "looks like none of kitti_road" in refusal(evaluate(tiny_export[0], bare, "--split", "all"))
    assert "give --dataset" in refusal(evaluate(tiny_export[0], bare, "--split", "all"))
    assert "there is no such file: write one" in refusal(
        evaluate(tiny_export[0], bare, "--split", "all", "--dataset", "folder")
    )
    assert "scenes are drawn, and no folder is read for them" in refusal(
        evaluate(tiny_export[0], bare, "--split", "all", "--dataset", "scenes")
    )
    assert "--dataset folder: the test split is one of scenes" in refusal(
        evaluate(tiny_export[0], bare, "--dataset", "folder")
    )


def test_an_export_of_a_folder_is_scored_on_drawn_scenes_by_name(folder_export: Path) -> None:
    found = json.loads(evaluate(folder_export, "--split", "all", "--dataset", "scenes", "--json").stdout)
    assert (found["data"], found["dataset"], found["frames"]) == (None, "scenes", 160)


def test_a_submission_takes_no_setting_of_scoring(tiny_export: Tiny, tmp_path: Path) -> None:
    told = refusal(evaluate(tiny_export[0], tmp_path, "--submission", tmp_path / "out", "--bev"))
    assert "--submission scores nothing: leave out --own-size, --bev and --dataset" in told


def test_a_folder_is_never_shown_as_drawn_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(tmp_path), "--dataset", "scenes"]) == 2
    assert "scenes are drawn, and no folder is read for them" in capsys.readouterr().err
    warnings = open_dataset(Config(dataset="scenes", data_dir=tmp_path, weights="none")).warnings
    assert f"scenes are drawn: nothing is read of data_dir = {tmp_path}" in warnings
