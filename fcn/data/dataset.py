"""What a data set is: named frames, the classes of their labels, and the split that each is in."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fcn.errors import InputError

Pixels = npt.NDArray[np.uint8]

VOID = 255  # label of pixels that count neither in the loss nor in the metrics
MOST_PROBLEMS_SHOWN = 10
_MOST_CHARACTERS = 500  # of the names of sequences

# What a person should know of images that could be read all the same.
SIXTEEN_BITS = (
    "grey of 16 bits, read by the upper 8: where a camera fills fewer, save them with 8 bits, or they come out dark"
)
TURNED = "stored turned (EXIF orientation), read as displayed: their labels must fit the image as it is displayed"


@dataclass(frozen=True)
class Frame:
    """One labelled image. image and label are None where it is drawn, not read.

    sequence: what may not be torn apart by a split: a drive, a city, a generated street.
    category: group that metrics are also reported for (KITTI's um, umm, uu), or None.
    """

    name: str
    sequence: str
    image: Path | None
    label: Path | None
    category: str | None = None


class Decoded(NamedTuple):
    """A frame's image HxWx3 RGB, its label HxW, and what a person should know of the image."""

    image: Pixels
    label: Pixels
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set that has been listed, not yet decoded.

    classes: names in channel order; ("background", NAME) where one class is scored against the rest.
    splits: "train", "val" and "test" to indices into frames; they share no sequence. "test" may be empty.
    positive: channel of the one class, or None where all classes are scored.
    decode: gives a frame's pixels; `read` and `decoded` are how to call it.
    content: what besides the files' bytes decides about the pixels, for the cache's key.
    """

    name: str
    classes: tuple[str, ...]
    frames: tuple[Frame, ...]
    splits: dict[str, tuple[int, ...]]
    warnings: tuple[str, ...]
    positive: int | None
    decode: Callable[[Frame], Decoded]
    content: str = ""

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Image HxWx3 RGB and label HxW (channel of each pixel's class, 255 void), at the original size.

        Raises InputError that names the file if it is damaged, if the two sizes differ, or if a label is
        no class.
        """
        image, label, _ = self.decoded(index)
        return image, label

    def decoded(self, index: int) -> Decoded:
        """What `read` gives, with remarks on the image."""
        return self.decode(self.frames[index])

    def with_remarks(self, remarks: Mapping[str, Sequence[int]]) -> Dataset:
        """The data set with a warning for each remark. remarks: the frames that each is about, by index."""
        said = []
        for remark, indices in remarks.items():
            first = self.frames[min(indices)]
            count = f"{len(indices)} of {len(self.frames)} images"
            said.append(f"{self.name}: {count} (such as {first.image}): {remark}")
        return replace(self, warnings=(*self.warnings, *said))

    def sequences(self, split: str) -> tuple[str, ...]:
        """Names of the sequences of a split, sorted."""
        return tuple(sorted({self.frames[index].sequence for index in self.splits[split]}))

    def split_facts(self) -> dict[str, str]:
        """Which frames are in which split: a digest of all their names, and the sequences that are held out."""
        names = {split: sorted(self.frames[index].name for index in chosen) for split, chosen in self.splits.items()}
        digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:24]
        held_out = {
            f"{split}_sequences": textwrap.shorten(", ".join(self.sequences(split)), _MOST_CHARACTERS, placeholder=" …")
            for split in ("val", "test")
            if self.splits[split]
        }
        return {"split_fingerprint": digest, **held_out}


def raise_problems(problems: Sequence[str]) -> None:
    """Raises one InputError for all problems, if there are any: the first ten in full, the rest by number."""
    if not problems:
        return
    shown = list(problems[:MOST_PROBLEMS_SHOWN])
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more problems like these")
    raise InputError("\n".join(shown))


def subsample(frames: Sequence[Frame], limit: int | None) -> list[Frame]:
    """At most `limit` frames, at even steps through all of them, so that every sequence keeps its share."""
    if limit is None or limit >= len(frames):
        return list(frames)
    return [frames[index] for index in np.linspace(0, len(frames) - 1, limit).round().astype(int).tolist()]
