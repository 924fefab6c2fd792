"""The classes that a run learns: all classes of a data set, or one against the rest."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fcn.data.dataset import VOID, Pixels
from fcn.errors import InputError

NOT_A_CLASS = -1


@dataclass(frozen=True)
class Task:
    """The mapping from a data set's label values to channels.

    classes: names in channel order. positive: channel of the one class; None if all are learned. table: int16 (256,),
    the channel of each label value, VOID, or NOT_A_CLASS.
    """

    classes: tuple[str, ...]
    positive: int | None
    table: npt.NDArray[np.int16]

    def apply(self, label: Pixels, path: Path | None) -> Pixels:
        """Channels HxW for labels HxW as the data set writes them.

        Raises InputError with the value and its place if a label is none of the data set's.
        """
        channels = self.table[label]
        wrong = channels == NOT_A_CLASS
        if wrong.any():
            row, column = (int(where[0]) for where in np.nonzero(wrong))
            legal = np.flatnonzero(self.table != NOT_A_CLASS)
            raise InputError(
                f"{path}: labels must be classes ({_ranges(legal.tolist())}), got {int(label[row, column])} "
                f"at row {row}, column {column}: fix the label, or make the pixel void"
            )
        return channels.astype(np.uint8)


def make_task(
    dataset: str, names: tuple[str, ...], void: tuple[int, ...], wanted: str, labels: tuple[int, ...] = ()
) -> Task:
    """The task of learning the classes `wanted`, which is config.classes.

    names: the data set's classes. labels: the label value of each, or () for 0, 1, 2, ... void: label values of void.
    Raises InputError if `wanted` is neither "all" nor one of the names.
    """
    table = np.full(256, NOT_A_CLASS, dtype=np.int16)
    table[list(void)] = VOID
    of_names = list(labels or range(len(names)))
    if wanted == "all":
        table[of_names] = np.arange(len(names))
        return Task(names, None, table)
    if wanted not in names:
        close = get_close_matches(wanted, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f'classes: {dataset} has "all" or one of {", ".join(names)}, got {wanted!r}{hint}')
    table[of_names] = 0
    table[of_names[names.index(wanted)]] = 1
    return Task(("background", wanted), 1, table)


def _ranges(labels: list[int]) -> str:
    """'0 to 11' for [0, 1, ..., 11]; gaps are kept."""
    parts: list[list[int]] = []
    for label in labels:
        if parts and label == parts[-1][-1] + 1:
            parts[-1].append(label)
        else:
            parts.append([label])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts)
