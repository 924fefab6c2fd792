"""Every data set reads what its publisher writes, and says in a sentence what is wrong with a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcn.config import Config
from fcn.data.dataset import Dataset
from fcn.data.readers import open_dataset
from fcn.errors import InputError

RED, MAGENTA, BLACK = (255, 0, 0), (255, 0, 255), (0, 0, 0)


def configure(dataset: str, folder: Path | None = None, **settings: Any) -> Config:
    return Config(dataset=dataset, data_dir=folder, weights="none", **settings)


def save_image(path: Path, size: tuple[int, int] = (12, 20), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_label(path: Path, label: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(label, dtype=np.uint8)).save(path)


def problems_of(config: Config) -> str:
    """The sentences of the InputError that opening and reading everything ends with."""
    with pytest.raises(InputError) as caught:
        read_all(open_dataset(config))
    return str(caught.value)


def read_all(dataset: Dataset) -> list[tuple[Any, Any]]:
    return [dataset.read(index) for index in range(len(dataset.frames))]


def no_sequence_in_two_splits(dataset: Dataset) -> bool:
    parts = [set(dataset.sequences(split)) for split in ("train", "val", "test")]
    return not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


# CamVid


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Three drives of 4, 3 and 3 frames; each label holds all classes and void."""
    names = [f"{drive}_{n:05d}" for drive, count in (("0001TP", 4), ("0006R0", 3), ("0016E5", 3)) for n in range(count)]
    for seed, name in enumerate(names):
        save_image(tmp_path / "images" / f"{name}.png", seed=seed)
        save_label(tmp_path / "labels" / f"{name}.png", np.arange(240).reshape(12, 20) % 12)
    return tmp_path


def test_camvid_gives_its_eleven_classes_in_order_and_void_as_255(camvid: Path) -> None:
    dataset = open_dataset(configure("camvid", camvid, classes="all"))
    image, label = dataset.read(0)
    assert (len(dataset.classes), dataset.classes[3], dataset.positive) == (11, "road", None)
    assert image.shape == (12, 20, 3)
    assert label[0, :12].tolist() == [*range(11), 255]


def test_one_class_of_camvid_is_scored_against_the_rest(camvid: Path) -> None:
    dataset = open_dataset(configure("camvid", camvid, classes="road"))
    assert (dataset.classes, dataset.positive) == (("background", "road"), 1)
    assert dataset.read(0)[1][0, :12].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 255]


def test_a_sequence_of_camvid_is_its_drive_and_lies_in_one_split(camvid: Path) -> None:
    for seed in range(6):
        dataset = open_dataset(configure("camvid", camvid, split_seed=seed))
        assert no_sequence_in_two_splits(dataset)
        assert all(dataset.splits.values())
        assert sorted(i for part in dataset.splits.values() for i in part) == list(range(10))


def test_the_split_follows_its_seed_and_nothing_else(camvid: Path) -> None:
    splits = [
        open_dataset(configure("camvid", camvid, split_seed=seed, seed=seed % 2)).splits for seed in (3, 3, 4, 5, 6)
    ]
    assert splits[0] == splits[1]
    assert any(split != splits[0] for split in splits[2:])


def test_named_sequences_are_held_out(camvid: Path) -> None:
    dataset = open_dataset(configure("camvid", camvid, val_sequences=("0006R0",), test_fraction=0.0))
    assert dataset.sequences("val") == ("0006R0",)
    assert dataset.sequences("train") == ("0001TP", "0016E5")
    assert dataset.splits["test"] == ()


def test_an_unknown_sequence_is_named_with_the_nearest_one(camvid: Path) -> None:
    said = problems_of(configure("camvid", camvid, val_sequences=("0006R",)))
    assert said == "val_sequences: camvid has no sequence '0006R'; did you mean 0006R0?"


def test_a_sequence_can_not_validate_and_test(camvid: Path) -> None:
    said = problems_of(configure("camvid", camvid, val_sequences=("0006R0",), test_sequences=("0006R0",)))
    assert "test_sequences: must not share sequences with val_sequences, got 0006R0" in said


def test_a_split_that_leaves_nothing_to_train_on_is_refused(camvid: Path) -> None:
    settings = {"val_sequences": ("0006R0", "0001TP"), "test_sequences": ("0016E5",)}
    assert "leave none to train on" in problems_of(configure("camvid", camvid, **settings))


def test_one_drive_alone_can_not_be_split(camvid: Path) -> None:
    for path in [*camvid.glob("*/0001TP*"), *camvid.glob("*/0006R0*")]:
        path.unlink()
    assert "two or more sequences, got 1 (0016E5)" in problems_of(configure("camvid", camvid))


def test_two_drives_give_no_test_split_and_a_warning(camvid: Path) -> None:
    for path in camvid.glob("*/0001TP*"):
        path.unlink()
    dataset = open_dataset(configure("camvid", camvid))
    assert dataset.splits["test"] == ()
    assert "too few for a test split" in dataset.warnings[0]


def test_the_published_split_of_camvid_comes_from_names_and_warns(tmp_path: Path) -> None:
    # SegNet's lists: val is 0016E5 from 07959 to 08159, test is Seq05VD and the later half of 0001TP.
    parts = {
        "train": ["0001TP_008520", "0006R0_f00930", "0016E5_07957", "0016E5_08161"],
        "val": ["0016E5_07959", "0016E5_08159"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }
    for name in (name for names in parts.values() for name in names):
        save_image(tmp_path / "images" / f"{name}.png")
        save_label(tmp_path / "labels" / f"{name}.png", np.zeros((12, 20)))
    dataset = open_dataset(configure("camvid", tmp_path, split="published"))
    got = {part: [dataset.frames[i].name for i in indices] for part, indices in dataset.splits.items()}
    assert got == parts
    assert any("2 of 2 val frames are of 0016E5, which train has too" in warning for warning in dataset.warnings)
    assert any("0001TP" in warning for warning in dataset.warnings)


def test_lists_beside_the_frames_give_the_published_split(camvid: Path) -> None:
    names = sorted(path.stem for path in (camvid / "images").iterdir())
    lines = [f"/SegNet/CamVid/train/{name}.png /SegNet/CamVid/trainannot/{name}.png\n" for name in names]
    (camvid / "train.txt").write_text("".join(lines[:6]))
    (camvid / "val.txt").write_text("".join(lines[6:8]))
    dataset = open_dataset(configure("camvid", camvid, split="published"))
    assert dataset.splits == {"train": tuple(range(6)), "val": (6, 7), "test": ()}


def test_a_frame_in_two_published_lists_is_refused(camvid: Path) -> None:
    for part in ("train", "val"):
        (camvid / f"{part}.txt").write_text("0001TP_00000.png\n")
    said = problems_of(configure("camvid", camvid, split="published"))
    assert said.startswith(f"{camvid}/val.txt, line 1: a frame must be listed once, got 0001TP_00000 in ")
    assert f"in {camvid}/train.txt, line 1 too" in said


def test_segnets_own_folders_are_read_with_their_split(camvid: Path) -> None:
    for drive, part in (("0001TP", "train"), ("0006R0", "val"), ("0016E5", "test")):
        for source, target in (("images", part), ("labels", f"{part}annot")):
            (camvid / target).mkdir()
            for path in (camvid / source).glob(f"{drive}*"):
                path.rename(camvid / target / path.name)
    for folder in ("images", "labels"):
        (camvid / folder).rmdir()
    dataset = open_dataset(configure("camvid", camvid, split="published"))
    assert [dataset.sequences(part) for part in ("train", "val", "test")] == [
        ("0001TP",),
        ("0006R0",),
        ("0016E5",),
    ]


def test_frames_limits_the_data_set_evenly(camvid: Path) -> None:
    dataset = open_dataset(configure("camvid", camvid, frames=5))
    assert len(dataset.frames) == 5
    assert {frame.sequence for frame in dataset.frames} == {"0001TP", "0006R0", "0016E5"}


# What bad input gets


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for name in ("camvid", "kitti_road", "cityscapes", "folder"):
        said = problems_of(configure(name, tmp_path / "nowhere"))
        assert str(tmp_path / "nowhere") in said


def test_a_data_set_of_files_without_a_folder_is_refused() -> None:
    for name in ("camvid", "kitti_road", "cityscapes", "folder"):
        assert problems_of(configure(name)).startswith("data_dir: ")


def test_an_empty_folder_is_named(camvid: Path) -> None:
    for path in (camvid / "images").iterdir():
        path.unlink()
    said = problems_of(configure("camvid", camvid))
    assert said.startswith(f"{camvid / 'images'}: must hold images")


def test_an_image_without_its_label_and_the_reverse_are_both_named(camvid: Path) -> None:
    (camvid / "labels" / "0006R0_00001.png").unlink()
    (camvid / "images" / "0016E5_00002.png").unlink()
    lines = problems_of(configure("camvid", camvid)).splitlines()
    assert lines[0].startswith(
        f"{camvid}/images/0006R0_00001.png: has no label, expected {camvid}/labels/0006R0_00001.png"
    )
    assert lines[1].startswith(f"{camvid}/labels/0016E5_00002.png: is a label without an image")


def test_many_problems_are_shown_ten_at_a_time(tmp_path: Path) -> None:
    for number in range(14):
        save_image(tmp_path / "images" / f"0001TP_{number}.png")
    save_image(tmp_path / "labels" / "0002_0.png")
    lines = problems_of(configure("camvid", tmp_path)).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "and 5 more problems like these"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_the_header(path: Path) -> None:
    path.write_bytes(bytes(26) + path.read_bytes()[26:])


def garble_the_middle(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[60:120] = bytes(60)
    path.write_bytes(whole)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, zero_the_header, garble_the_middle, empty])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_damaged_image_is_named(camvid: Path, kind: str, damage: Callable[[Path], None]) -> None:
    path = camvid / kind / "0006R0_00001.png"
    save_image(path, (40, 60)) if kind == "images" else save_label(
        path, np.random.default_rng(0).integers(0, 11, (40, 60))
    )
    damage(path)
    said = problems_of(configure("camvid", camvid))
    assert said.startswith(f"{path}: damaged")


def test_a_label_outside_the_classes_is_named_with_value_and_place(camvid: Path) -> None:
    label = np.zeros((12, 20))
    label[5, 7] = 17
    path = camvid / "labels" / "0006R0_00001.png"
    save_label(path, label)
    said = problems_of(configure("camvid", camvid))
    assert said.startswith(f"{path}: labels must be classes (0 to 11), got 17 at row 5, column 7")


def test_a_label_of_another_size_than_its_image_is_named(camvid: Path) -> None:
    path = camvid / "labels" / "0006R0_00001.png"
    save_label(path, np.zeros((12, 22)))
    said = problems_of(configure("camvid", camvid))
    assert said.startswith(f"{path}: a label must have its image's size, got 22x12 for 0006R0_00001.png with 20x12")


def test_colours_where_indices_should_be_are_refused(camvid: Path) -> None:
    path = camvid / "labels" / "0006R0_00001.png"
    save_image(path)
    assert problems_of(configure("camvid", camvid)).startswith(
        f"{path}: an index label must be grey or have a palette, got mode RGB"
    )


def test_an_unknown_class_is_refused_with_the_nearest_one(camvid: Path) -> None:
    assert "did you mean road?" in problems_of(configure("camvid", camvid, classes="rood"))


# KITTI Road


def save_kitti(folder: Path, category: str, number: int, size: tuple[int, int] = (10, 30), lane: bool = False) -> None:
    """An image and its label: row 0 void, the lower half road, the rest not."""
    save_image(folder / "training" / "image_2" / f"{category}_{number:06d}.png", size, seed=number)
    label = np.empty((*size, 3), dtype=np.uint8)
    label[:] = RED
    label[size[0] // 2 :] = MAGENTA
    label[0] = BLACK
    truth = folder / "training" / "gt_image_2"
    save_label(truth / f"{category}_road_{number:06d}.png", label)
    if lane:
        label[:, : size[1] // 2] = RED
        save_label(truth / f"{category}_lane_{number:06d}.png", label)


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """Forty frames of each category, in two sizes; um has lane labels too."""
    for category in ("um", "umm", "uu"):
        for number in range(40):
            save_kitti(tmp_path, category, number, (10, 30 + number % 2), lane=category == "um")
    return tmp_path


def test_kitti_reads_red_as_valid_and_blue_as_road(kitti: Path) -> None:
    dataset = open_dataset(configure("kitti_road", kitti))
    _, label = dataset.read(0)
    assert dataset.classes == ("background", "road")
    assert [set(label[rows].ravel().tolist()) for rows in (0, slice(1, 5), slice(5, 10))] == [{255}, {0}, {1}]


def test_kitti_frames_keep_their_native_resolutions(kitti: Path) -> None:
    dataset = open_dataset(configure("kitti_road", kitti))
    assert {image.shape for image, _ in read_all(dataset)} == {(10, 30, 3), (10, 31, 3)}


def test_kitti_lanes_are_a_task_of_the_frames_that_have_them(kitti: Path) -> None:
    dataset = open_dataset(configure("kitti_road", kitti, classes="lane"))
    assert dataset.classes == ("background", "lane")
    assert {frame.category for frame in dataset.frames} == {"um"}
    label = dataset.read(0)[1]
    assert label[9].tolist() == [0] * 15 + [1] * 15


def test_kitti_shares_out_runs_of_neighbours_within_each_category(kitti: Path) -> None:
    dataset = open_dataset(configure("kitti_road", kitti))
    assert no_sequence_in_two_splits(dataset)
    for split in ("train", "val", "test"):
        assert {dataset.frames[i].category for i in dataset.splits[split]} == {"um", "umm", "uu"}
    first = dataset.frames[0].sequence
    assert sum(frame.sequence == first for frame in dataset.frames) == 10
    assert any("neighbouring frames may show one street" in warning for warning in dataset.warnings)


def test_a_whole_category_of_kitti_can_be_held_out_without_a_warning(kitti: Path) -> None:
    settings = {"val_sequences": ("umm",), "test_sequences": ("uu",)}
    dataset = open_dataset(configure("kitti_road", kitti / "training", **settings))
    categories = [{dataset.frames[i].category for i in dataset.splits[s]} for s in ("train", "val", "test")]
    assert categories == [{"um"}, {"umm"}, {"uu"}]
    assert not any("shares the categories" in warning for warning in dataset.warnings)


def test_two_frames_of_kitti_train_and_validate_with_a_warning(tmp_path: Path) -> None:
    for number in (0, 1):
        save_kitti(tmp_path, "um", number)
    dataset = open_dataset(configure("kitti_road", tmp_path))
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {
        "train": 1,
        "val": 1,
        "test": 0,
    }
    assert any("shares the categories um" in warning for warning in dataset.warnings)


def test_a_kitti_frame_without_its_road_label_is_named(kitti: Path) -> None:
    (kitti / "training" / "gt_image_2" / "uu_road_000003.png").unlink()
    assert "uu_000003.png: has no label" in problems_of(configure("kitti_road", kitti))


def test_a_kitti_label_with_green_in_it_is_refused(kitti: Path) -> None:
    path = kitti / "training" / "gt_image_2" / "uu_road_000003.png"
    save_label(path, np.full((10, 31, 3), 255))
    assert problems_of(configure("kitti_road", kitti)).startswith(f"{path}: a KITTI label has only red (valid)")


def test_kitti_and_scenes_have_no_published_split(kitti: Path) -> None:
    for config in (configure("kitti_road", kitti, split="published"), configure("scenes", split="published")):
        assert "no published split" in problems_of(config)


# Cityscapes


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Cities with one frame each; labels hold the raw numbers 0 to 33 and 255, the licence plate's."""
    numbers = np.array([*range(34), 255, 7] * 2).reshape(8, 9)
    for part, cities in (("train", ("aachen", "bochum", "bremen")), ("val", ("munster",))):
        for city in cities:
            stem = f"{city}_000000_000019"
            save_image(tmp_path / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png", (8, 9))
            for kind in ("labelIds", "instanceIds", "color"):
                save_label(tmp_path / "gtFine" / part / city / f"{stem}_gtFine_{kind}.png", numbers)
            (tmp_path / "gtFine" / part / city / f"{stem}_gtFine_polygons.json").write_text("{}")
    return tmp_path


def test_cityscapes_gives_its_nineteen_training_classes(cityscapes: Path) -> None:
    dataset = open_dataset(configure("cityscapes", cityscapes, classes="all"))
    label = dataset.read(0)[1].ravel()[:36]
    # Cordts et al.: road is 7, sidewalk 8, building 11, ... bicycle 33; all others are not trained on.
    trained = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    expected = [trained.index(n) if n in trained else 255 for n in [*range(34), 255, 7]]
    assert label.tolist() == expected
    assert (dataset.classes[0], dataset.classes[18]) == ("road", "bicycle")


def test_cityscapes_splits_by_city(cityscapes: Path) -> None:
    dataset = open_dataset(configure("cityscapes", cityscapes))
    assert no_sequence_in_two_splits(dataset)
    assert {frame.sequence for frame in dataset.frames} == {"aachen", "bochum", "bremen", "munster"}


def test_cityscapes_published_split_validates_on_its_val_part(cityscapes: Path) -> None:
    dataset = open_dataset(configure("cityscapes", cityscapes, split="published"))
    assert dataset.sequences("val") == ("munster",)
    assert dataset.sequences("train") == ("aachen", "bochum", "bremen")


def test_a_cityscapes_image_without_its_label_is_named(cityscapes: Path) -> None:
    next((cityscapes / "gtFine" / "train" / "bremen").glob("*labelIds.png")).unlink()
    assert "bremen_000000_000019" in problems_of(configure("cityscapes", cityscapes))


def test_what_systems_leave_among_cities_is_no_city(cityscapes: Path) -> None:
    before = [frame.name for frame in open_dataset(configure("cityscapes", cityscapes)).frames]
    for kind in ("leftImg8bit", "gtFine"):
        (cityscapes / kind / "train" / ".DS_Store").write_bytes(b"junk")
        (cityscapes / kind / "train" / "bremen" / ".DS_Store").write_bytes(b"junk")
    name = "bremen_000000_000019_leftImg8bit.png"
    (cityscapes / "leftImg8bit" / "train" / "bremen" / f"._{name}").write_bytes(b"junk")
    assert [frame.name for frame in open_dataset(configure("cityscapes", cityscapes)).frames] == before


# A folder of one's own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images with colour masks: half street, half verge, one void pixel."""
    (tmp_path / "classes.toml").write_text(
        'void = "#000000"\n[classes]\nverge = ["#006400", [0, 120, 0]]\nstreet = "#804080"\n'
    )
    mask = np.zeros((6, 8, 3), dtype=np.uint8)
    mask[:, :4] = (128, 64, 128)
    mask[:3, 4:] = (0, 100, 0)
    mask[3:, 4:] = (0, 120, 0)
    mask[0, 0] = (0, 0, 0)
    for number in range(4):
        save_image(tmp_path / "images" / f"walk_{number}.jpg", (6, 8))
        save_label(tmp_path / "masks" / f"walk_{number}.png", mask)
    return tmp_path


def test_a_folder_maps_its_colours_to_classes(folder: Path) -> None:
    dataset = open_dataset(configure("folder", folder, classes="all"))
    expected = np.full((6, 8), 0)
    expected[:, :4] = 1
    expected[0, 0] = 255
    assert dataset.classes == ("verge", "street")
    np.testing.assert_array_equal(dataset.read(0)[1], expected)


def test_a_folder_of_indices_reads_grey_and_palette_masks_alike(folder: Path) -> None:
    (folder / "classes.toml").write_text("void = 255\n[classes]\nverge = 3\nstreet = 1\n")
    indices = np.array([[1, 3, 255, 1]] * 6, dtype=np.uint8).repeat(2, axis=1)
    for number in range(4):
        mask = Image.fromarray(indices)
        if number == 0:
            mask = mask.copy()
            mask.putpalette([level for level in range(256) for _ in range(3)])
            assert mask.mode == "P"
        mask.save(folder / "masks" / f"walk_{number}.png")
    labels = [label for _, label in read_all(open_dataset(configure("folder", folder, classes="street")))]
    assert labels[0][0].tolist() == [1, 1, 0, 0, 255, 255, 1, 1]
    np.testing.assert_array_equal(labels[0], labels[1])


def test_a_palette_colour_that_classes_toml_lacks_is_named_with_its_place(folder: Path) -> None:
    mask = Image.fromarray(np.zeros((6, 8), dtype=np.uint8))
    mask.putpixel((5, 2), 1)
    mask.putpalette([0, 0, 0, 18, 52, 86])
    mask.save(folder / "masks" / "walk_2.png")
    said = problems_of(configure("folder", folder, classes="street"))
    assert said.startswith(
        f"{folder}/masks/walk_2.png: masks must keep to classes.toml, got the colour #123456 at row 2, column 5"
    )


def test_an_index_that_classes_toml_lacks_is_named(folder: Path) -> None:
    (folder / "classes.toml").write_text("[classes]\nverge = 0\nstreet = 1\n")
    for number in range(4):
        save_label(folder / "masks" / f"walk_{number}.png", np.full((6, 8), number))
    said = problems_of(configure("folder", folder, classes="street"))
    assert f"{folder}/masks/walk_2.png: masks must keep to classes.toml, got the index 2" in said


def test_images_that_share_no_sequence_are_each_their_own_with_a_warning(folder: Path) -> None:
    dataset = open_dataset(configure("folder", folder, classes="street"))
    assert len({frame.sequence for frame in dataset.frames}) == 4
    assert "each image counts as a sequence of its own" in dataset.warnings[-1]


def test_folders_within_a_folder_are_sequences(folder: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        for number in range(4):
            source = folder / kind / f"walk_{number}.{suffix}"
            (folder / kind / f"day{number % 3}").mkdir(exist_ok=True)
            source.rename(folder / kind / f"day{number % 3}" / source.name)
    dataset = open_dataset(configure("folder", folder, classes="street"))
    assert {frame.sequence for frame in dataset.frames} == {"day0", "day1", "day2"}
    assert dataset.frames[0].name == "day0-walk_0"
    assert not dataset.warnings


def test_a_pattern_in_classes_toml_tells_sequences(folder: Path) -> None:
    with (folder / "classes.toml").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write("sequence = '^walk_(\\d)'\n" + text)
    assert {frame.sequence for frame in open_dataset(configure("folder", folder, classes="street")).frames} == set(
        "0123"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[classes\n", "is no TOML"),
        ("[classes]\nroad = 1\n", "classes: must be a table of two or more classes"),
        ("[clases]\na = 1\nb = 2\n", "clases: there is no such key"),
        ("[classes]\na = 1\nb = '#804080'\n", "classes: must be all indices or all colours, got both"),
        ("[classes]\na = 1\nb = 1\n", "classes.b: the index 1 is used twice"),
        ("[classes]\na = 1\nb = 256\n", "classes.b: must be an index from 0 to 255"),
        ("[classes]\na = '#123'\nb = '#123456'\n", "classes.a: must be an index from 0 to 255, a colour"),
        (
            "sequence = '(a)(b)'\n[classes]\na = 1\nb = 2\n",
            "sequence: must be a regular expression with one (group)",
        ),
        ("sequence = '('\n[classes]\na = 1\nb = 2\n", "sequence: is no regular expression"),
    ],
)
def test_a_wrong_classes_toml_is_explained(folder: Path, text: str, sentence: str) -> None:
    (folder / "classes.toml").write_text(text)
    said = problems_of(configure("folder", folder))
    assert said.startswith(f"{folder}/classes.toml: ")
    assert sentence in said


def test_a_folder_without_classes_toml_is_told_what_to_write(folder: Path) -> None:
    (folder / "classes.toml").unlink()
    assert "there is no such file: write one, [classes]" in problems_of(configure("folder", folder))


def test_two_images_of_one_name_are_refused(folder: Path) -> None:
    save_image(folder / "images" / "walk_1.png", (6, 8))
    said = problems_of(configure("folder", folder, classes="street"))
    assert said.startswith(f"{folder}/images/walk_1.png: has the same name as walk_1.jpg")


# Real frames, where they are


@pytest.fixture
def real() -> Path:
    place = os.environ.get("FCN_TEST_DATA")
    if not place:
        pytest.skip("FCN_TEST_DATA is unset: no real frames here")
    return Path(place)


def test_real_kitti_labels_have_the_pixels_that_the_devkit_counts(real: Path) -> None:
    dataset = open_dataset(configure("kitti_road", real / "kitti_road_tiny"))
    for index, frame in enumerate(dataset.frames):
        _, label = dataset.read(index)
        assert frame.label is not None
        with Image.open(frame.label) as image:
            colours = {colour: count for count, colour in image.convert("RGB").getcolors()}  # type: ignore[union-attr]
        assert (label == 1).sum() == colours[MAGENTA]
        assert (label == 0).sum() == colours[RED]
        assert (label == 255).sum() == colours[BLACK]


def test_real_camvid_has_its_three_drives(real: Path) -> None:
    dataset = open_dataset(configure("camvid", real / "camvid"))
    counts = {name: sum(f.sequence == name for f in dataset.frames) for name in ("0001TP", "0006R0", "0016E5")}
    assert counts == {"0001TP": 62, "0006R0": 101, "0016E5": 305}
    published = open_dataset(configure("camvid", real / "camvid", split="published"))
    assert [len(published.splits[part]) for part in ("train", "val", "test")] == [367, 101, 0]


@pytest.mark.parametrize("name", ["all_zero_header.png", "truncated.png"])
def test_real_damaged_images_are_named(real: Path, camvid: Path, name: str) -> None:
    path = camvid / "images" / "0006R0_00001.png"
    shutil.copy(real / "bad_inputs" / name, path)
    assert problems_of(configure("camvid", camvid)).startswith(f"{path}: damaged")


# A part of the training frames


def test_a_smaller_share_of_the_training_frames_is_part_of_a_larger_one_and_nothing_else_changes() -> None:
    whole, half, tenth = (
        open_dataset(configure("scenes", frames=60, train_fraction=fraction)).splits for fraction in (1, 0.5, 0.1)
    )
    assert set(tenth["train"]) < set(half["train"]) < set(whole["train"])
    assert (len(half["train"]), len(tenth["train"])) == (
        round(len(whole["train"]) / 2),
        round(len(whole["train"]) / 10),
    )
    assert half["val"] == tenth["val"] == whole["val"]
    assert half["test"] == tenth["test"] == whole["test"]


def test_another_seed_draws_other_training_frames_and_one_is_always_left() -> None:
    by_name = open_dataset(configure("scenes", frames=60)).sequences("val")
    parts = [
        open_dataset(
            configure("scenes", frames=60, val_sequences=by_name, test_fraction=0, split_seed=seed, train_fraction=0.5)
        ).splits["train"]
        for seed in (0, 1)
    ]
    assert len(parts[0]) == len(parts[1])
    assert parts[0] != parts[1]
    assert len(open_dataset(configure("scenes", frames=60, train_fraction=1e-6)).splits["train"]) == 1
