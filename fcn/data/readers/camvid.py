"""CamVid with SegNet's 11 classes: street frames of Cambridge, from three to five drives.

Two layouts are read: images/ and labels/ with frames of the same name, and SegNet's own train/,
trainannot/, val/, valannot/, test/, testannot/. Labels are class indices, 11 is void. A frame's name
begins with its drive: 0001TP, 0006R0, 0016E5, Seq05VD.

The published split comes from SegNet's folders, from train.txt, val.txt and test.txt where they lie beside
images/, or else from the frames' names: val is 0016E5 from 07959 to 08159, as SegNet's val.txt lists it; test
is Seq05VD and 0001TP from 008550 on; train is the rest. It tears 0016E5 and 0001TP apart, and its validation
score ranks models wrongly for the test frames.

Source: Brostow, Fauqueur, Cipolla, Pattern Recognition Letters 2009; Badrinarayanan, Kendall, Cipolla,
SegNet.
"""

from __future__ import annotations

from pathlib import Path

from fcn.config import Config
from fcn.data.dataset import Dataset, Decoded, Frame, subsample
from fcn.data.image_files import check_sizes, decode_image, read_indices
from fcn.data.listing import by_stem, check_unique_names, list_images, match, other_files
from fcn.data.splits import Splits, published_warnings, split_by_lists, split_by_sequence
from fcn.data.task import make_task
from fcn.errors import InputError

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID_LABEL = 11
PARTS = ("train", "val", "test")


def open_camvid(config: Config, folder: Path) -> Dataset:
    """CamVid in a folder. Raises InputError that names what is missing, unpaired or unknown."""
    task = make_task("camvid", CLASSES, (VOID_LABEL,), config.classes)
    everything, part_of = _list(folder)
    frames = subsample(everything, config.frames)
    if config.split == "sequence":
        splits, warnings = split_by_sequence("camvid", frames, config)
    elif part_of:
        splits = _by_part(frames, part_of)
        warnings = published_warnings("camvid", frames, splits)
    elif any((folder / f"{part}.txt").is_file() for part in PARTS):
        splits, warnings = split_by_lists("camvid", folder, frames, everything)
    else:
        splits = _by_part(frames, {frame.name: _published_part(frame.name) for frame in frames})
        warnings = published_warnings("camvid", frames, splits)

    warnings += other_files(sorted({path.parent for frame in frames for path in (frame.image, frame.label) if path}))

    def decode(frame: Frame) -> Decoded:
        assert frame.image is not None
        assert frame.label is not None
        image, label = decode_image(frame.image), read_indices(frame.label)
        check_sizes(image, label, frame.image, frame.label)
        return Decoded(image.pixels, task.apply(label, frame.label), image.remarks)

    return Dataset("camvid", task.classes, tuple(frames), splits, tuple(warnings), task.positive, decode)


def _list(folder: Path) -> tuple[list[Frame], dict[str, str]]:
    """Frames sorted by name, and for SegNet's layout the part that each name is in."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: set data_dir to CamVid's")
    places: list[tuple[str, Path, Path]] = []
    if (folder / "images").is_dir():
        places.append(("", folder / "images", folder / "labels"))
    else:
        places += [(part, folder / part, folder / f"{part}annot") for part in PARTS if (folder / part).is_dir()]
    if not places:
        raise InputError(f"{folder}: must hold images/ and labels/, or train/ and trainannot/, got neither")
    frames, part_of = [], {}
    for part, images, labels in places:
        where = f"{labels}/{{key}}.png"
        for name, image, label in match(by_stem(list_images(images)), by_stem(list_images(labels)), where):
            frames.append(Frame(name, name.split("_")[0], image, label))
            if part:
                part_of[name] = part
    check_unique_names(frames)
    return sorted(frames, key=lambda frame: frame.name), part_of


def _published_part(name: str) -> str:
    sequence, _, number = name.partition("_")
    if sequence == "0016E5" and number.isdigit() and 7959 <= int(number) <= 8159:
        return "val"
    if sequence == "Seq05VD" or (sequence == "0001TP" and number.isdigit() and int(number) >= 8550):
        return "test"
    return "train"


def _by_part(frames: list[Frame], part_of: dict[str, str]) -> Splits:
    return {part: tuple(i for i, frame in enumerate(frames) if part_of[frame.name] == part) for part in PARTS}
