"""KITTI Road as its zip lays it out: training/image_2 and training/gt_image_2, three categories of streets.

um (marked, two lanes), umm (marked, more lanes) and uu (unmarked). In a label red > 0 is valid and blue >
0 is road; all other pixels are void. Lane labels, which only um has, are a separate task: classes = lane.

The data set does not say which drive a frame is of. The frames of a category are numbered in the order of driving, so
ten consecutive numbers count as a sequence, and each category is split separately. If that gives fewer than three
sequences, each frame is one. val_sequences and test_sequences may also name categories, which keeps streets apart.

Source: Fritsch, Kuehnl, Geiger, ITSC 2013.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fcn.config import Config
from fcn.data.dataset import VOID, Dataset, Decoded, Frame, subsample
from fcn.data.image_files import check_sizes, decode_image, read_colours
from fcn.data.listing import by_key, is_image_file, list_images, match, other_files
from fcn.data.splits import split_by_sequence
from fcn.errors import InputError

TASKS = ("road", "lane")
NUMBERS_A_SEQUENCE = 10
# Frames of each category, numbered from 0, as the set was published.
PUBLISHED = {"training": {"um": 95, "umm": 96, "uu": 98}, "testing": {"um": 96, "umm": 94, "uu": 100}}
MOST_NAMES_SHOWN = 5
_IMAGE = re.compile(r"(?P<category>[a-z]+)_(?P<number>\d+)")
_LABEL = re.compile(r"(?P<category>[a-z]+)_(?P<task>road|lane)_(?P<number>\d+)")


def open_kitti_road(config: Config, folder: Path) -> Dataset:
    """KITTI Road in a folder. Raises InputError that names what is missing, unpaired or unknown."""
    if config.split == "published":
        raise InputError("split: kitti_road has no published split, got published: set split = sequence")
    task = "road" if config.classes == "all" else config.classes
    if task not in TASKS:
        raise InputError(f"classes: kitti_road has road and lane (um frames only), got {config.classes!r}")
    frames = subsample(_list(folder, task), config.frames)
    splits, warnings = split_by_sequence("kitti_road", frames, config)
    warnings += _shared_categories(frames, splits) + missing_frames(folder)
    warnings += other_files(sorted({path.parent for frame in frames for path in (frame.image, frame.label) if path}))
    classes = ("background", task)
    return Dataset("kitti_road", classes, tuple(frames), splits, tuple(warnings), 1, read_frame)


def missing_frames(data_dir: Path, parts: Iterable[str] = tuple(PUBLISHED)) -> list[str]:
    """A sentence for each of training/ and testing/ that exists and has fewer frames than were published.

    Labels aren't counted, since a frame without a label is refused.
    """
    sentences = []
    for part in parts:
        folder = data_dir / part / "image_2"
        if not folder.is_dir():
            continue
        there = {path.stem for path in folder.iterdir() if is_image_file(path)}
        missing = []
        for category, count in PUBLISHED[part].items():
            if sum(name.startswith(f"{category}_") for name in there) < count:
                names = (f"{category}_{number:06d}" for number in range(count))
                missing += [name for name in names if name not in there]
        if missing:
            whole = sum(PUBLISHED[part].values())
            some = ", ".join(missing[:MOST_NAMES_SHOWN])
            more = f" and {len(missing) - MOST_NAMES_SHOWN} more" if len(missing) > MOST_NAMES_SHOWN else ""
            sentences.append(
                f"kitti_road: {folder} has {len(there)} of the {whole} frames of KITTI Road, without {some}{more}: "
                "unpack data_road.zip again if you didn't leave them out yourself"
            )
    return sentences


def _list(data_dir: Path, task: str) -> list[Frame]:
    folder = next((f for f in (data_dir / "training", data_dir) if (f / "image_2").is_dir()), None)
    if folder is None:
        raise InputError(f"{data_dir}: must hold training/image_2 and training/gt_image_2, got no image_2")
    images, labels = [], []
    for path in list_images(folder / "image_2"):
        if (found := _IMAGE.fullmatch(path.stem)) is None:
            raise InputError(f"{path}: must be named as KITTI does (um_000000.png): rename it or take it out")
        images.append((f"{found['category']}_{found['number']}", path))
    for path in list_images(folder / "gt_image_2"):
        if (found := _LABEL.fullmatch(path.stem)) is None:
            raise InputError(f"{path}: must be named as KITTI does (um_road_000000.png): rename it or take it out")
        if found["task"] == task:
            labels.append((f"{found['category']}_{found['number']}", path))
    if task == "lane":  # only some categories have lane labels
        with_lanes = {key.split("_")[0] for key, _ in labels}
        images = [(key, path) for key, path in images if key.split("_")[0] in with_lanes]
    pairs = match(by_key(images), by_key(labels), f"{folder}/gt_image_2/CATEGORY_{task}_NUMBER.png for {{key}}")
    if not pairs:
        raise InputError(f"{folder}: must hold {task} labels, got none")
    runs = {(key.split("_")[0], int(key.split("_")[1]) // NUMBERS_A_SEQUENCE) for key, _, _ in pairs}
    frames = []
    for key, image, label in pairs:
        category, number = key.split("_")
        first = int(number) // NUMBERS_A_SEQUENCE * NUMBERS_A_SEQUENCE
        sequence = f"{category}_{first:06d}+" if len(runs) >= 3 else key
        frames.append(Frame(key, sequence, image, label, category))
    return frames


def _shared_categories(frames: list[Frame], splits: dict[str, tuple[int, ...]]) -> list[str]:
    def categories(split: str) -> set[str]:
        return {str(frames[index].category) for index in splits[split]}

    shared = sorted(categories("train") & (categories("val") | categories("test")))
    if not shared:
        return []
    return [
        f"kitti_road: train shares the categories {', '.join(shared)} with val or test, and KITTI doesn't say "
        "which drive a frame is of, so neighbouring frames may show one street in both; name categories in "
        'val_sequences and test_sequences (such as ["umm"]) to keep them apart'
    ]


def read_frame(frame: Frame) -> Decoded:
    """Image HxWx3 and label HxW (0 background, 1 road or lane, 255 void).

    Raises InputError if a file is damaged, the sizes differ, or a label has other colours than red and magenta.
    """
    assert frame.image is not None
    assert frame.label is not None
    image = decode_image(frame.image)
    label = read_colours(frame.label)
    check_sizes(image, label, frame.image, frame.label)
    red, green, blue = label[..., 0], label[..., 1], label[..., 2]
    if green.any():
        row, column = (int(where[0]) for where in np.nonzero(green))
        raise InputError(
            f"{frame.label}: a KITTI label has only red (valid) and blue (road), got green "
            f"{int(green[row, column])} at row {row}, column {column}: fetch the label again"
        )
    channels = np.where(red > 0, (blue > 0).astype(np.uint8), np.uint8(VOID))
    return Decoded(image.pixels, channels, image.remarks)
