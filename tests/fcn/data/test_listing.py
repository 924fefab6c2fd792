"""Names as people, systems and labelling tools write them: what is listed, what is left out, what is refused."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcn.config import Config
from fcn.data.cache import open_cache
from fcn.data.dataset import Dataset
from fcn.data.readers import open_dataset
from fcn.data.readers.legend import read_legend
from fcn.errors import InputError

SIZE = (6, 8)


def save(folder: Path, key: str, suffix: str = ".png", level: int = 0) -> None:
    """An image, and its mask, which is all `level`."""
    for kind, ending, pixels in (
        ("images", suffix, np.full((*SIZE, 3), 90, np.uint8)),
        ("masks", ".png", np.full(SIZE, level, np.uint8)),
    ):
        path = folder / kind / f"{key}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images in two folders."""
    for key in ("day/1", "day/2", "day/3", "dusk/1", "dusk/2", "dusk/3"):
        save(tmp_path, key)
    (tmp_path / "classes.toml").write_text("[classes]\nverge = 0\nroad = 1\n")
    return tmp_path


def configure(folder: Path, **settings: Any) -> Config:
    return Config(**{"dataset": "folder", "data_dir": folder, "weights": "none", "classes": "all", **settings})


def opened(folder: Path, **settings: Any) -> Dataset:
    return open_dataset(configure(folder, **settings))


def names(dataset: Dataset, split: str | None = None) -> list[str]:
    indices = range(len(dataset.frames)) if split is None else dataset.splits[split]
    return [dataset.frames[index].name for index in indices]


def refused(folder: Path, **settings: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        opened(folder, **settings)
    return str(caught.value).splitlines()


# Published lists


def write_lists(folder: Path, **lists: str) -> None:
    for split, text in lists.items():
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")


def test_a_listed_frame_that_is_not_there_is_named_with_file_and_line(folder: Path) -> None:
    write_lists(folder, train="day/1.png\nday/2.png\n\nday/33.png\n", val="dusk/1\nelsewhere/x.png\n")
    lines = refused(folder, split="published")
    assert lines[0].startswith(f"{folder}/train.txt, line 4: {folder} has no frame 'day/33.png'")
    assert lines[1].startswith(f"{folder}/val.txt, line 2: {folder} has no frame 'elsewhere/x.png'")
    assert len(lines) == 2


def test_a_frame_that_is_listed_twice_is_named_with_both_lines(folder: Path) -> None:
    write_lists(folder, train="day/1.png\nday/2.png\nimages/day/1.png\n", val="dusk/1.png\nday/2.png\n")
    lines = refused(folder, split="published")
    assert lines[0].startswith(f"{folder}/train.txt, line 3: a frame must be listed once, got day-1 in ")
    assert f"{folder}/train.txt, line 1 too" in lines[0]
    assert lines[1].startswith(f"{folder}/val.txt, line 2: a frame must be listed once, got day-2 in ")
    assert len(lines) == 2


def test_lists_take_names_and_paths_with_and_without_suffix_and_label(folder: Path) -> None:
    save(folder, "walk 1 (copy)", ".jpg")
    save(folder, "walk.v2")
    write_lists(
        folder,
        train="\ufeffday-1\r\nimages/day/2.png masks/day/2.png\r\nC:\\images\\day\\3.png\tC:\\masks\\day\\3.png\r\n",
        val="  dusk/1\nwalk 1 (copy).jpg\nwalk.v2\n",
        test="dusk/2.png masks/other.png\n",
    )
    dataset = opened(folder, split="published")
    assert names(dataset, "train") == ["day-1", "day-2", "day-3"]
    assert names(dataset, "val") == ["dusk-1", "walk 1 (copy)", "walk.v2"]
    assert names(dataset, "test") == ["dusk-2"]


def test_lists_of_the_whole_set_hold_for_some_of_its_frames(folder: Path) -> None:
    write_lists(folder, train="day/1\nday/2\nday/3\n", val="dusk/1\ndusk/2\ndusk/3\n")
    dataset = opened(folder, split="published", frames=4)
    assert len(dataset.frames) == 4
    assert {*names(dataset, "train"), *names(dataset, "val")} == set(names(dataset))


def test_a_list_that_is_no_text_is_named(folder: Path) -> None:
    write_lists(folder, val="dusk/1\n")
    (folder / "train.txt").write_bytes(b"day/1\nstra\xdfe\n")
    assert refused(folder, split="published")[0].startswith(f"{folder}/train.txt: a list must be UTF-8 text")


# Names


def test_two_images_whose_paths_flatten_to_one_name_are_refused(folder: Path) -> None:
    save(folder, "day-2")
    assert refused(folder) == [
        f"{folder}/images/day/2.png: would be called day-2, as {folder}/images/day-2.png is: rename one of them and "
        "its label"
    ]


def test_one_name_in_two_parts_of_camvid_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for place in (part, f"{part}annot"):
            (tmp_path / place).mkdir()
            Image.new("L" if "annot" in place else "RGB", (8, 6)).save(tmp_path / place / "0001TP_1.png")
    lines = refused(tmp_path, dataset="camvid")
    assert lines == [
        f"{tmp_path}/val/0001TP_1.png: would be called 0001TP_1, as {tmp_path}/train/0001TP_1.png is: rename one of "
        "them and its label"
    ]


def test_one_kitti_frame_in_two_formats_is_refused(tmp_path: Path) -> None:
    for kind, name in (
        ("image_2", "um_000000.png"),
        ("image_2", "um_000000.jpg"),
        ("gt_image_2", "um_road_000000.png"),
    ):
        (tmp_path / "training" / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / "training" / kind / name)
    assert (
        "um_000000.png: has the same name as um_000000.jpg"
        in refused(tmp_path, dataset="kitti_road", classes="road")[0]
    )


@pytest.mark.parametrize("pattern", ["^(day|noon)?", "^(\\\\d*)"])
def test_a_sequence_pattern_whose_group_matches_nothing_is_refused(folder: Path, pattern: str) -> None:
    (folder / "classes.toml").write_text(f'sequence = "{pattern}"\n[classes]\nverge = 0\nroad = 1\n')
    (line,) = refused(folder)
    assert "which has a match, but nothing in its group, in '" in line
    assert line.startswith(f"{folder}/images/d")


def test_a_name_written_by_macos_meets_the_same_name_written_by_others(folder: Path) -> None:
    save(folder, unicodedata.normalize("NFC", "Grünstraße"))
    image = folder / "images" / f"{unicodedata.normalize('NFC', 'Grünstraße')}.png"
    image.rename(image.with_name(unicodedata.normalize("NFD", image.name)))
    write_lists(folder, train="day/1\nday/2\n", val=unicodedata.normalize("NFD", "Grünstraße.png"))
    assert names(opened(folder, split="published"), "val") == [unicodedata.normalize("NFC", "Grünstraße")]


def test_one_name_in_two_spellings_of_unicode_is_refused(folder: Path) -> None:
    for form in ("NFC", "NFD"):
        save(folder, unicodedata.normalize(form, "Grün"))
    assert "has the same name as" in refused(folder)[0]


def test_a_name_that_is_no_utf8_is_refused_in_letters_that_can_be_printed(folder: Path) -> None:
    save(folder, os.fsdecode(b"stra\xdfe"))
    assert refused(folder) == [f"{folder}/images/stra\\xdfe.png: the name must be UTF-8: rename the file"]


def test_suffixes_in_upper_case_are_images_too(folder: Path) -> None:
    save(folder, "DSC 0001", ".JPG")
    (folder / "masks" / "DSC 0001.png").rename(folder / "masks" / "DSC 0001.PNG")
    assert "DSC 0001" in names(opened(folder))


# What is no image


def test_what_systems_leave_beside_images_is_no_image_and_not_mentioned(folder: Path) -> None:
    before = opened(folder)
    for name in (
        ".DS_Store", "day/._1.png", "day/Thumbs.db", "desktop.ini", "__MACOSX/day/._1.png", "day/@eaDir/1.png",
        "day/.ipynb_checkpoints/1-checkpoint.png",
    ):  # fmt: skip
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk")
    after = opened(folder)
    assert (names(after), after.warnings) == (names(before), before.warnings)


def test_files_of_other_kinds_are_counted_and_named(folder: Path) -> None:
    for number in range(6):
        (folder / "images" / "day" / f"{number}.heic").write_bytes(b"a phone's")
    (folder / "masks" / "labels.json").write_text("{}")
    first, second = opened(folder).warnings[:2]
    assert first.startswith(f"{folder}/images (.png, .jpg, ")
    assert first.endswith("6 files are of another kind and left out: 0.heic, 1.heic, 2.heic, 3.heic, 4.heic and 1 more")
    assert second.endswith("1 file is of another kind and left out: labels.json")


def test_files_of_other_kinds_are_named_in_published_sets_too(tmp_path: Path) -> None:
    for drive in ("0001TP", "0006R0", "0016E5"):
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.new("L" if kind == "labels" else "RGB", (8, 6)).save(tmp_path / kind / f"{drive}_1.png")
    (tmp_path / "images" / "0001TP_2.heic").write_bytes(b"")
    (warning,) = opened(tmp_path, dataset="camvid").warnings
    assert warning.endswith("1 file is of another kind and left out: 0001TP_2.heic")


def test_a_gif_is_an_image_of_a_data_set(folder: Path) -> None:
    save(folder, "day/4", ".gif")
    dataset = opened(folder)
    assert (dataset.read(names(dataset).index("day-4"))[0] == 90).all()


def test_linked_folders_are_read_and_a_link_upwards_is_not_followed(folder: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        shutil.move(folder / kind / "day", tmp_path / f"elsewhere-{kind}")
        (folder / kind / "day").symlink_to(tmp_path / f"elsewhere-{kind}")
        (folder / kind / "dusk" / "up").symlink_to(folder / kind)
    assert names(opened(folder)) == ["day-1", "day-2", "day-3", "dusk-1", "dusk-2", "dusk-3"]


# classes.toml


@pytest.mark.parametrize(
    ("text", "marks", "coloured"),
    [
        ("void = [9, 255]\n[classes]\na = [0, 2]\nb = 1\n", {9: 255, 255: 255, 0: 0, 2: 0, 1: 1}, False),
        ("[classes]\na = [0, 2, 5]\nb = 1\n", {0: 0, 2: 0, 5: 0, 1: 1}, False),
        (
            "void = 255\n[classes]\na = [0, 2, 5]\nb = [1, 3, 4]\n",
            {255: 255, 0: 0, 2: 0, 5: 0, 1: 1, 3: 1, 4: 1},
            False,
        ),
        ("[classes]\na = [0, 2, 5]\nb = [1, 3, 4]\n", {0x000205: 0, 0x010304: 1}, True),
        ("[classes]\na = [0, 2, 5]\nb = '#010304'\n", {0x000205: 0, 0x010304: 1}, True),
        ("[classes]\na = [[0, 2, 5], '#000001']\nb = [1, 3, 4]\n", {0x000205: 0, 1: 0, 0x010304: 1}, True),
        ("\ufeff[classes]\na = [0, 1, 2, 3]\nb = [4]\n", {0: 0, 1: 0, 2: 0, 3: 0, 4: 1}, False),
    ],
)
def test_a_class_is_one_or_several_indices_or_colours(
    tmp_path: Path, text: str, marks: dict[int, int], coloured: bool
) -> None:
    (tmp_path / "classes.toml").write_text(text, encoding="utf-8")
    legend = read_legend(tmp_path / "classes.toml")
    assert (legend.marks, legend.coloured) == (marks, coloured)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = [0, 2]\nb = '#000001'\n", "classes: must be all indices or all colours, got both"),
        ("a = [0, 2, 5]\nb = [1, 2]\n", "classes.b: the index 2 is used twice"),
        ("a = ['#000001', '#000002']\nb = [0, 0, 2]\n", "classes.b: the colour #000002 is used twice"),
        ("a = []\nb = 1\n", "classes.a: must be an index from 0 to 255, a colour"),
        ("a = [0, 256]\nb = 1\n", "classes.a: must be an index from 0 to 255, a colour"),
        ("a = [0, '#000002']\nb = 1\n", "classes.a: must be an index from 0 to 255, a colour"),
        ("a = [true]\nb = 1\n", "classes.a: must be an index from 0 to 255, a colour"),
    ],
)
def test_a_mixed_or_doubled_list_is_explained(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "classes.toml").write_text(f"[classes]\n{text}")
    with pytest.raises(InputError) as caught:
        read_legend(tmp_path / "classes.toml")
    assert str(caught.value).startswith(f"{tmp_path}/classes.toml: {sentence}")


def test_several_indices_of_a_class_train_as_one(folder: Path) -> None:
    (folder / "classes.toml").write_text("void = 255\n[classes]\nverge = [0, 7]\nroad = 1\n")
    save(folder, "day/1", level=7)
    save(folder, "day/2", level=1)
    dataset = opened(folder)
    assert [int(dataset.read(index)[1].max()) for index in range(3)] == [0, 1, 0]


def test_names_that_change_places_in_classes_toml_find_no_labels_of_before(folder: Path, tmp_path: Path) -> None:
    save(folder, "day/1", level=1)
    config = configure(folder, classes="road", image_size=(32, 32), cache_dir=tmp_path / "cache")
    assert (open_cache(config).labels[0] == 1).all()
    (folder / "classes.toml").write_text("[classes]\nroad = 0\nverge = 1\n")
    assert (open_cache(config).labels[0] == 0).all()
