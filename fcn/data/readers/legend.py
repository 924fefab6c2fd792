"""classes.toml: what the indices or colours of a folder's masks mean."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from fcn.data.dataset import VOID, Pixels
from fcn.errors import InputError

EXAMPLE = '[classes] with lines such as background = 0 and road = [1, 7], or road = "#804080"'


@dataclass(frozen=True)
class Legend:
    """The contents of classes.toml. marks: the position in names, or VOID, of each index or colour (0xRRGGBB)."""

    names: tuple[str, ...]
    marks: dict[int, int]
    coloured: bool
    sequence: re.Pattern[str] | None
    path: Path

    @property
    def content(self) -> str:
        """What determines the classes of a mask's pixels; it is part of the cache's key."""
        return repr((self.names, self.coloured, sorted(self.marks.items())))

    def classify(self, mask: Pixels, path: Path) -> Pixels:
        """Position in names for each pixel of a mask HxW (indices) or HxWx3 (colours), VOID for void.

        Raises InputError with the index or colour and its place if classes.toml doesn't have it.
        """
        marks: npt.NDArray[np.int64] = mask.astype(np.int64)
        if self.coloured:
            marks = marks[..., 0] << 16 | marks[..., 1] << 8 | marks[..., 2]
        known = np.array(sorted(self.marks), dtype=np.int64)
        places = np.minimum(np.searchsorted(known, marks), len(known) - 1)
        unknown = known[places] != marks
        if unknown.any():
            row, column = (int(where[0]) for where in np.nonzero(unknown))
            raise InputError(
                f"{path}: masks must keep to classes.toml, got {_name(int(marks[row, column]), self.coloured)} at row "
                f"{row}, column {column} ({int(unknown.sum())} pixels are unknown): add it to a class or to void, or "
                "fix the mask"
            )
        positions = np.array([self.marks[mark] for mark in sorted(self.marks)], dtype=np.uint8)
        return positions[places]

    def sequence_of(self, key: str, image: Path) -> str | None:
        """The sequence in an image's name by classes.toml's pattern; None if it has no pattern.

        Raises InputError if the name doesn't match, or if the pattern's group is empty.
        """
        if self.sequence is None:
            return None
        found = self.sequence.search(key)
        if found is None or not found[1]:
            what = "has no match" if found is None else "has a match, but nothing in its group,"
            raise InputError(
                f"{image}: must match sequence = {self.sequence.pattern!r} of {self.path}, which {what} in {key!r}: "
                "fix the pattern, or rename the image"
            )
        return found[1]


def read_legend(path: Path) -> Legend:
    """Reads a classes.toml. Raises InputError with key and value if something in it is wrong."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file: write one, {EXAMPLE}")
    try:
        # utf-8-sig: editors on Windows write a byte order mark.
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no TOML: {error}") from None
    if unknown := sorted(table.keys() - {"classes", "void", "sequence"}):
        raise InputError(f"{path}: {unknown[0]}: there is no such key; it has classes, void and sequence")
    classes = table.get("classes")
    if not isinstance(classes, dict) or len(classes) < 2:
        raise InputError(f"{path}: classes: must be a table of two or more classes, got {classes!r}: write {EXAMPLE}")
    entries = [(f"classes.{name}", value, position) for position, (name, value) in enumerate(classes.items())]
    if "void" in table:
        entries.append(("void", table["void"], VOID))
    readings = [_readings(path, key, value) for key, value, _ in entries]
    # A list of three numbers may be a colour or three indices: the other entries decide.
    coloured = all(colours for _, colours in readings)
    if not coloured and not all(indices for indices, _ in readings):
        raise InputError(f"{path}: classes: must be all indices or all colours, got both")
    marks: dict[int, int] = {}
    for (key, _, position), (indices, colours) in zip(entries, readings, strict=True):
        for mark in colours if coloured else indices:
            if mark in marks:
                raise InputError(
                    f"{path}: {key}: {_name(mark, coloured)} is used twice: each index or colour means one class"
                )
            marks[mark] = position
    return Legend(tuple(classes), marks, coloured, _sequence(path, table.get("sequence")), path)


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


def _readings(path: Path, key: str, value: object) -> tuple[list[int], list[int]]:
    """A value of classes.toml read as indices, and read as colours 0xRRGGBB; each empty if it can't be read so."""
    items = value if isinstance(value, list) else [value]
    indices: list[int] = [item for item in items if _is_level(item)]
    indices = indices if len(indices) == len(items) else []
    colours = [_colour(item) for item in ([value] if len(indices) == 3 else items)]
    found = [colour for colour in colours if colour is not None]
    found = found if len(found) == len(colours) else []
    if not indices and not found:
        raise InputError(
            f'{path}: {key}: must be an index from 0 to 255, a colour ("#804080" or [128, 64, 128]), or a list of '
            f"indices or of colours, got {value!r}"
        )
    return indices, found


def _colour(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:], 16)
    if isinstance(value, list) and len(value) == 3 and all(_is_level(level) for level in value):
        red, green, blue = value
        return int(red << 16 | green << 8 | blue)
    return None


def _is_level(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _name(mark: int, coloured: bool) -> str:
    return f"the colour #{mark:06x}" if coloured else f"the index {mark}"
