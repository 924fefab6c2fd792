"""Cityscapes with fine labels: 19 classes, one sequence a city.

The labelled frames are those of train and val; Cityscapes keeps the labels of its test part to itself. Its
published split is by city too, and has no test part here. The sets must be fetched by hand: they need an
account at cityscapes-dataset.com.

Source: Cordts et al., CVPR 2016; the 19 classes and their numbers: torchvision.datasets.Cityscapes.classes.
"""

from __future__ import annotations

from pathlib import Path

from fcn.config import Config
from fcn.data.dataset import Dataset, Decoded, Frame, subsample
from fcn.data.image_files import check_sizes, decode_image, read_indices
from fcn.data.listing import by_key, check_unique_names, is_image_file, match, other_files
from fcn.data.splits import published_warnings, split_by_sequence
from fcn.data.task import make_task
from fcn.errors import InputError

PARTS = ("train", "val")
IMAGE, LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"  # what names end with
LICENCE_PLATE = 255  # its number is -1, which the label images write as 255


def open_cityscapes(config: Config, folder: Path) -> Dataset:
    """Cityscapes in a folder. Raises InputError that names what is missing or unknown."""
    for place in (folder / kind / part for part in PARTS for kind in ("leftImg8bit", "gtFine")):
        if not any(place.glob("*/*.png")):
            raise InputError(
                f"{place}: must hold a folder of PNGs for each city, got none: unpack "
                "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of cityscapes-dataset.com there"
            )
    # Late: torchvision's import is slow, and no other data set needs it.
    from torchvision.datasets import Cityscapes

    of_interest = sorted((c for c in Cityscapes.classes if 0 <= c.train_id < 19), key=lambda c: c.train_id)
    names = tuple(c.name for c in of_interest)
    numbers = tuple(c.id for c in of_interest)
    void = (*(c.id for c in Cityscapes.classes if c.id >= 0 and c.id not in numbers), LICENCE_PLATE)
    task = make_task("cityscapes", names, void, config.classes, numbers)

    found, part_of = [], {}
    for part in PARTS:
        for name, image, label in _list(folder, part):
            found.append(Frame(name, image.parent.name, image, label))
            part_of[name] = part
    check_unique_names(found)
    frames = subsample(sorted(found, key=lambda frame: frame.name), config.frames)
    if config.split == "sequence":
        splits, warnings = split_by_sequence("cityscapes", frames, config)
    else:
        splits = {
            part: tuple(i for i, frame in enumerate(frames) if part_of[frame.name] == part) for part in (*PARTS, "test")
        }
        warnings = published_warnings("cityscapes", frames, splits)

    warnings += other_files(sorted({frame.image.parent for frame in found if frame.image}))

    def decode(frame: Frame) -> Decoded:
        assert frame.image is not None
        assert frame.label is not None
        image, label = decode_image(frame.image), read_indices(frame.label)
        check_sizes(image, label, frame.image, frame.label)
        return Decoded(image.pixels, task.apply(label, frame.label), image.remarks)

    return Dataset("cityscapes", task.classes, tuple(frames), splits, tuple(warnings), task.positive, decode)


def _list(folder: Path, part: str) -> list[tuple[str, Path, Path]]:
    """Name, image and label of each frame of a part. Raises InputError that names what has no partner."""

    def files(kind: str, ending: str) -> dict[str, Path]:
        paths = sorted(path for path in (folder / kind / part).glob(f"*/*{ending}") if is_image_file(path))
        return by_key((f"{path.parent.name}/{path.name.removesuffix(ending)}", path) for path in paths)

    pairs = match(files("leftImg8bit", IMAGE), files("gtFine", LABEL), f"{folder}/gtFine/{part}/{{key}}{LABEL}")
    return [(key.split("/")[1], image, label) for key, image, label in pairs]
