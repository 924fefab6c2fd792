"""A data set: its frames, the classes of their labels, and the split that each frame is in."""

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
_MOST_CHARACTERS = 500  # for the names of a split's sequences

# Remarks on images that can be read but may surprise a person.
SIXTEEN_BITS = (
    "grey of 16 bits, read by the upper 8: where a camera fills fewer, save them with 8 bits, or they come out dark"
)
TURNED = "stored turned (EXIF orientation), read as displayed: their labels must fit the image as it is displayed"


@dataclass(frozen=True)
class Frame:
    """A labelled image. image and label are None if it is drawn by this program.

    sequence: the frames of a sequence (a drive, a city, a generated street) belong into the same split.
    category: a group for which metrics are also reported (KITTI's um, umm, uu), or None.
    """

    name: str
    sequence: str
    image: Path | None
    label: Path | None
    category: str | None = None


class Decoded(NamedTuple):
    """A frame's image HxWx3 RGB, its label HxW, and remarks for a person on how the image was read."""

    image: Pixels
    label: Pixels
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set whose frames are listed and split, but not yet decoded.

    classes: names in channel order; ("background", NAME) if one class is scored against the rest.
    splits: indices into frames, by "train", "val" and "test"; "val" and "test" may be empty.
    positive: channel of the one class that is scored against the rest; None if all classes are scored.
    decode: decodes a frame; call it through read() or decoded().
    content: what determines the pixels besides the files' bytes; it is part of the cache's key.
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
        """Image HxWx3 RGB and label HxW (channel of each pixel's class, 255 void), at native resolution.

        Raises InputError that names the file if it is damaged, if the sizes of image and label differ, or if a label
        is no class of the data set.
        """
        image, label, _ = self.decoded(index)
        return image, label

    def decoded(self, index: int) -> Decoded:
        """The result of read(), with the remarks on the image."""
        return self.decode(self.frames[index])

    def with_remarks(self, remarks: Mapping[str, Sequence[int]]) -> Dataset:
        """The data set with a warning for each remark. remarks: the indices of each remark's frames."""
        warnings = []
        for remark, indices in remarks.items():
            first = self.frames[min(indices)]
            count = f"{len(indices)} of {len(self.frames)} images"
            warnings.append(f"{self.name}: {count} (such as {first.image}): {remark}")
        return replace(self, warnings=(*self.warnings, *warnings))

    def sequences(self, split: str) -> tuple[str, ...]:
        """Names of the sequences of a split, sorted."""
        return tuple(sorted({self.frames[index].sequence for index in self.splits[split]}))

    def split_facts(self) -> dict[str, str]:
        """Identifies the split: a hash of the frames' names in each part, and the sequences of "val" and "test"."""
        names = {split: sorted(self.frames[index].name for index in chosen) for split, chosen in self.splits.items()}
        digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:24]
        held_out = {
            f"{split}_sequences": textwrap.shorten(", ".join(self.sequences(split)), _MOST_CHARACTERS, placeholder=" …")
            for split in ("val", "test")
            if self.splits[split]
        }
        return {"split_fingerprint": digest, **held_out}


def raise_problems(problems: Sequence[str]) -> None:
    """Raises one InputError with all problems, if there are any: the first ten in full, and the number of the rest."""
    if not problems:
        return
    shown = list(problems[:MOST_PROBLEMS_SHOWN])
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more problems like these")
    raise InputError("\n".join(shown))


def subsample(frames: Sequence[Frame], limit: int | None) -> list[Frame]:
    """At most `limit` frames, evenly spaced, so that each sequence keeps its proportion."""
    if limit is None or limit >= len(frames):
        return list(frames)
    return [frames[index] for index in np.linspace(0, len(frames) - 1, limit).round().astype(int).tolist()]


def part_of(train: tuple[int, ...], fraction: float, seed: int) -> tuple[int, ...]:
    """A share of the training frames, at least one, in their order; a smaller share is part of a larger one.

    Single frames are drawn and not whole sequences: so many frames of all drives teach more than as many of a few.
    """
    if fraction == 1:
        return train
    order = np.random.default_rng((seed, len(train))).permutation(len(train))
    return tuple(train[place] for place in sorted(order[: max(1, round(fraction * len(train)))].tolist()))
