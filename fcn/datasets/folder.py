"""Your own frames: images/, masks/ with pictures of the same names, and classes.toml, their legend.

    void = "#000000"                  # optional: what counts as no class
    sequence = '^(.+)_\\d+$'           # optional: the part of a name that tells the sequence
    [classes]                         # in channel order
    background = ["#464646", "#6b8e23"]
    road = "#804080"

A class is an index (road = 1), for masks of one channel or with a palette, or one or several colours
("#804080" or [128, 64, 128]). Pictures in folders within images/ and masks/ are sequences by the folder's
name. Where nothing tells sequences, each picture is one. split = published reads train.txt, val.txt and
test.txt.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fcn.config import Config
from fcn.datasets.frames import VOID, Dataset, Decoded, Frame, Pixels, thin
from fcn.datasets.listing import is_picture, match
from fcn.datasets.pictures import check_sizes, read_colours, read_indices, read_picture
from fcn.datasets.splits import split_by_lists, split_by_sequence
from fcn.datasets.task import make_task
from fcn.errors import InputError

EXAMPLE = '[classes] with lines such as background = 0 and road = 1, or road = "#804080"'


@dataclass(frozen=True)
class Legend:
    """What classes.toml says. marks: index, or colour as 0xRRGGBB, to position in names; VOID for void."""

    names: tuple[str, ...]
    marks: dict[int, int]
    coloured: bool
    sequence: re.Pattern[str] | None
    path: Path


def open_folder(config: Config) -> Dataset:
    """The frames in config.data_dir. Raises InputError that names what is missing, unpaired or unknown."""
    if config.data_dir is None:
        raise InputError("data_dir: folder is read from files, got none: set data_dir to your folder")
    legend = read_legend(config.data_dir / "classes.toml")
    task = make_task(str(legend.path), legend.names, (VOID,), config.classes)
    frames = thin(_list(config.data_dir, legend), config.frames)
    if config.split == "published":
        splits, warnings = split_by_lists("folder", config.data_dir, frames)
    else:
        splits, warnings = split_by_sequence("folder", frames, config)
        if all(frame.sequence == frame.name for frame in frames):
            warnings.append(
                "folder: each picture counts as a sequence of its own; if they are frames of videos, "
                "neighbours land in "
                "training and validation: put each video into a folder of images/ and masks/, or set "
                "sequence in classes.toml"
            )

    def decode(frame: Frame) -> Decoded:
        assert frame.image is not None
        assert frame.label is not None
        image = read_picture(frame.image)
        mask = read_colours(frame.label) if legend.coloured else read_indices(frame.label)
        check_sizes(image, mask, frame.image, frame.label)
        label = task.apply(_classify(mask, legend, frame.label), frame.label)
        return Decoded(image.pixels, label, image.remarks)

    content = repr(sorted(legend.marks.items()))
    return Dataset("folder", task.classes, tuple(frames), splits, tuple(warnings), task.positive, decode, content)


def _list(folder: Path, legend: Legend) -> list[Frame]:
    images, masks = (_pictures(folder / part) for part in ("images", "masks"))
    frames = []
    for key, image, mask in match(images, masks, f"{folder}/masks/{{key}}.png"):
        name = key.replace("/", "-")
        sequence = str(Path(key).parent) if "/" in key else name
        if legend.sequence is not None:
            found = legend.sequence.search(key)
            if found is None:
                raise InputError(f"{image}: must match sequence = {legend.sequence.pattern!r} of {legend.path}")
            sequence = found[1]
        frames.append(Frame(name, sequence, image, mask))
    return frames


def _pictures(folder: Path) -> dict[str, Path]:
    """Pictures in a folder and the folders within it, by path without suffix."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: set data_dir to one with images/, masks/, classes.toml")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if is_picture(path)):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise InputError(f"{path}: has the same name as {found[key].name}: keep one of the two")
        found[key] = path
    if not found:
        raise InputError(f"{folder}: must hold pictures, got none")
    return found


def read_legend(path: Path) -> Legend:
    """What a classes.toml says. Raises InputError with the line's key and value if it makes no sense."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file: write one, {EXAMPLE}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no TOML: {error}") from None
    if unknown := sorted(table.keys() - {"classes", "void", "sequence"}):
        raise InputError(f"{path}: {unknown[0]}: there is no such key; it has classes, void and sequence")
    classes = table.get("classes")
    if not isinstance(classes, dict) or len(classes) < 2:
        raise InputError(f"{path}: classes: must be a table of two or more classes, got {classes!r}: write {EXAMPLE}")
    marks: dict[int, int] = {}
    kinds: set[bool] = set()
    entries = [(f"classes.{name}", value, position) for position, (name, value) in enumerate(classes.items())]
    if "void" in table:
        entries.append(("void", table["void"], VOID))
    for key, value, position in entries:
        for mark, coloured in _marks(path, key, value):
            if mark in marks:
                raise InputError(f"{path}: {key}: {value!r} is used twice: each index or colour means one class")
            marks[mark] = position
            kinds.add(coloured)
    if len(kinds) > 1:
        raise InputError(f"{path}: classes: must be all indices or all colours, got both")
    return Legend(tuple(classes), marks, kinds == {True}, _sequence(path, table.get("sequence")), path)


def _sequence(path: Path, pattern: object) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern) if isinstance(pattern, str) else None
    except re.error as error:
        raise InputError(f"{path}: sequence: is no regular expression, got {pattern!r}: {error}") from None
    if compiled is None or compiled.groups != 1:
        raise InputError(
            f"{path}: sequence: must be a regular expression with one (group) that is the sequence, got {pattern!r}"
        )
    return compiled


def _marks(path: Path, key: str, value: object) -> list[tuple[int, bool]]:
    """Each index or colour (0xRRGGBB, True) that a value of classes.toml lists."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:
        return [(value, False)]
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return [(int(value[1:], 16), True)]
    if isinstance(value, list) and value:
        levels = [v for v in value if isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255]
        if len(levels) == len(value) == 3:
            return [(levels[0] << 16 | levels[1] << 8 | levels[2], True)]
        if all(isinstance(v, str | list) for v in value):
            return [mark for v in value for mark in _marks(path, key, v)]
    raise InputError(
        f'{path}: {key}: must be an index from 0 to 255, a colour ("#804080" or [128, 64, 128]) or a '
        "list of colours, "
        f"got {value!r}"
    )


def _classify(mask: Pixels, legend: Legend, path: Path) -> Pixels:
    """Position in legend.names for each pixel of a mask HxW (indices) or HxWx3 (colours), VOID for void.

    Raises InputError with the index or colour and its place if classes.toml doesn't have it.
    """
    marks: npt.NDArray[np.int64] = mask.astype(np.int64)
    if legend.coloured:
        marks = marks[..., 0] << 16 | marks[..., 1] << 8 | marks[..., 2]
    known = np.array(sorted(legend.marks), dtype=np.int64)
    places = np.minimum(np.searchsorted(known, marks), len(known) - 1)
    unknown = known[places] != marks
    if unknown.any():
        row, column = (int(where[0]) for where in np.nonzero(unknown))
        mark = int(marks[row, column])
        what = f"the colour #{mark:06x}" if legend.coloured else f"the index {mark}"
        raise InputError(
            f"{path}: masks must keep to classes.toml, got {what} at row {row}, column {column} "
            f"({int(unknown.sum())} pixels are unknown): add it to a class or to void, or mend the mask"
        )
    positions = np.array([legend.marks[mark] for mark in sorted(legend.marks)], dtype=np.uint8)
    return positions[places]
