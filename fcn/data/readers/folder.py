"""Your own frames: images/, masks/ with images of the same names, and classes.toml, their legend.

    void = "#000000"                  # optional: what counts as no class
    sequence = '^(.+)_\\d+$'           # optional: the part of a name that tells the sequence
    [classes]                         # in channel order
    background = ["#464646", "#6b8e23"]
    road = "#804080"

A class is one or several indices (road = 1, or road = [1, 7]), for masks of one channel or with a palette,
or one or several colours ("#804080" or [128, 64, 128]). Images in folders within images/ and masks/ are
sequences by the folder's name. Where nothing tells sequences, each image is one. split = published reads
train.txt, val.txt and test.txt.
"""

from __future__ import annotations

from pathlib import Path

from fcn.config import Config
from fcn.data.dataset import VOID, Dataset, Decoded, Frame, raise_problems, subsample
from fcn.data.image_files import check_sizes, decode_image, read_colours, read_indices
from fcn.data.listing import (
    IMAGE_SUFFIXES,
    by_key,
    check_unique_names,
    files_within,
    is_image_file,
    key_of,
    left_out,
    match,
)
from fcn.data.readers.legend import Legend, read_legend
from fcn.data.splits import split_by_lists, split_by_sequence
from fcn.data.task import make_task
from fcn.errors import InputError


def open_folder(config: Config, folder: Path) -> Dataset:
    """The frames in a folder. Raises InputError that names what is missing, unpaired or unknown."""
    legend = read_legend(folder / "classes.toml")
    task = make_task(str(legend.path), legend.names, (VOID,), config.classes)
    everything, warnings = _list(folder, legend)
    frames = subsample(everything, config.frames)
    if config.split == "published":
        splits, of_split = split_by_lists("folder", folder, frames, everything)
    else:
        splits, of_split = split_by_sequence("folder", frames, config)
        held_out = splits["val"] or splits["test"]
        if held_out and all(frame.sequence == frame.name for frame in frames):
            of_split.append(
                "folder: each image counts as a sequence of its own; if they are frames of videos, "
                "neighbours land in training and validation: put each video into a folder of images/ and masks/, "
                "or set sequence in classes.toml"
            )

    def decode(frame: Frame) -> Decoded:
        assert frame.image is not None
        assert frame.label is not None
        image = decode_image(frame.image)
        mask = read_colours(frame.label) if legend.coloured else read_indices(frame.label)
        check_sizes(image, mask, frame.image, frame.label)
        label = task.apply(legend.classify(mask, frame.label), frame.label)
        return Decoded(image.pixels, label, image.remarks)

    warned = (*warnings, *of_split)
    return Dataset("folder", task.classes, tuple(frames), splits, warned, task.positive, decode, legend.content)


def _list(folder: Path, legend: Legend) -> tuple[list[Frame], list[str]]:
    """Frames sorted by name, and a sentence for each folder with files that are no images."""
    warnings: list[str] = []
    images, masks = (_images(folder / part, warnings) for part in ("images", "masks"))
    frames = []
    for key, image, mask in match(images, masks, f"{folder}/masks/{{key}}.png"):
        name = key.replace("/", "-")  # it is the name of an image in every record of a run
        sequence = legend.sequence_of(key, image) or (str(Path(key).parent) if "/" in key else name)
        frames.append(Frame(name, sequence, image, mask))
    check_unique_names(frames)
    return frames, warnings


def _images(folder: Path, warnings: list[str]) -> dict[str, Path]:
    """Images in a folder and the folders within it, by path without suffix."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: set data_dir to one with images/, masks/, classes.toml")
    files, problems = files_within(folder)
    raise_problems(problems)
    paths_found = [path for path in files if is_image_file(path)]
    found = by_key((key_of(path, path.relative_to(folder).with_suffix("").as_posix()), path) for path in paths_found)
    kinds = f"{folder} ({', '.join(IMAGE_SUFFIXES)})"
    others = left_out(kinds, (path for path in files if not is_image_file(path)))
    if not found:
        raise InputError(f"{folder}: must hold images, got none" + "".join(f"; {other}" for other in others))
    warnings += others
    return found
