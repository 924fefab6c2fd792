"""Splits the frames of a data set into training, validation and test.

Neighbouring frames of a drive look alike: if a sequence were in two splits, the score would reward memorised frames. So
whole sequences go to validation and to test until these have their fraction of the frames, and the rest to training. If
frames have categories, each category is split separately, so that every split has every kind of street.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import numpy as np

from fcn.config import Config
from fcn.data.dataset import Frame, raise_problems
from fcn.data.listing import is_image_file
from fcn.errors import InputError

Splits = dict[str, tuple[int, ...]]


def split_by_sequence(dataset: str, frames: Sequence[Frame], config: Config) -> tuple[Splits, list[str]]:
    """The indices of each split, and warnings. The same frames and config always give the same split.

    config.val_sequences and config.test_sequences may name sequences or categories; one that is None is drawn by
    config.split_seed. Raises InputError if a name is unknown or in both, or if no sequence is left to train on.
    """
    sizes = Counter(frame.sequence for frame in frames)
    if len(sizes) < 2 and config.val_fraction > 0:
        raise InputError(
            f"{dataset}: a split needs two or more sequences, got {len(sizes)} ({', '.join(sizes)}) "
            f"of {len(frames)} "
            "frames: add frames of another sequence"
        )
    validation = _named(dataset, "val_sequences", config.val_sequences, frames)
    test = _named(dataset, "test_sequences", config.test_sequences, frames)
    if both := (validation or set()) & (test or set()):
        raise InputError(
            f"test_sequences: must not share sequences with val_sequences, got {', '.join(sorted(both))} in both"
        )
    warnings: list[str] = []
    rng = np.random.default_rng(config.split_seed)
    if validation is None:
        validation = _draw(frames, test or set(), config.val_fraction, rng) if config.val_fraction > 0 else set()
    if test is None and config.test_fraction > 0:
        if len(sizes.keys() - validation) >= 2:
            test = _draw(frames, validation, config.test_fraction, rng)
        else:
            warnings.append(f"{dataset}: {len(sizes)} sequences are too few for a test split as well: there is none")
    test = test or set()
    if config.val_fraction == 0:
        validation = set()
    if not sizes.keys() - validation - test:
        raise InputError(
            f"{dataset}: validation and test take all {len(sizes)} sequences and leave none to train on: "
            "name fewer in val_sequences and test_sequences"
        )
    return _assign(frames, validation, test), warnings


def _named(dataset: str, field: str, wanted: tuple[str, ...] | None, frames: Sequence[Frame]) -> set[str] | None:
    if wanted is None:
        return None
    sequences = {frame.sequence for frame in frames}
    chosen: set[str] = set()
    for name in wanted:
        of_category = {frame.sequence for frame in frames if frame.category == name}
        if name not in sequences and not of_category:
            close = get_close_matches(name, sequences, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; it has {_some(sorted(sequences))}"
            raise InputError(f"{field}: {dataset} has no sequence {name!r}{hint}")
        chosen |= of_category or {name}
    if field == "val_sequences" and not chosen:
        raise InputError("val_sequences: must name at least one sequence, got none: a run is judged by them")
    return chosen


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _draw(frames: Sequence[Frame], taken: set[str], fraction: float, rng: np.random.Generator) -> set[str]:
    """Draws whole sequences with about `fraction` of the frames of each category; at least one sequence in all."""
    sizes = Counter(frame.sequence for frame in frames if frame.sequence not in taken)
    total = Counter(frame.category for frame in frames)
    chosen: set[str] = set()
    for category in sorted(total, key=str):
        members = sorted({f.sequence for f in frames if f.category == category and f.sequence not in taken})
        held, target = 0, fraction * total[category]
        for name in (members[i] for i in rng.permutation(len(members))):
            # A sequence is taken if that brings the total nearer to the target; a category's last one is not.
            nearer = abs(held + sizes[name] - target) < abs(held - target)
            if nearer and len(members) - len(chosen & set(members)) > 1:
                chosen.add(name)
                held += sizes[name]
    if not chosen:
        smallest = min(sizes.values())
        candidates = sorted(name for name, size in sizes.items() if size == smallest)
        chosen.add(candidates[int(rng.integers(len(candidates)))])
    return chosen


def _assign(frames: Sequence[Frame], validation: set[str], test: set[str]) -> Splits:
    def of(condition: Iterable[bool]) -> tuple[int, ...]:
        return tuple(index for index, holds in enumerate(condition) if holds)

    return {
        "train": of(frame.sequence not in validation | test for frame in frames),
        "val": of(frame.sequence in validation for frame in frames),
        "test": of(frame.sequence in test for frame in frames),
    }


def split_by_lists(
    dataset: str, folder: Path, frames: Sequence[Frame], everything: Sequence[Frame]
) -> tuple[Splits, list[str]]:
    """The published split by a folder's train.txt, val.txt and, if there is one, test.txt, with a frame in each line.

    A line is a name or a path, which the label's path may follow, as in SegNet's lists.
    everything: all frames of the data set; `frames` may be a part of them. Frames in no list are not used.
    Raises InputError with file and line if a list is missing or empty, or names an unknown frame or one twice.
    """
    places = {frame.name: index for index, frame in enumerate(frames)}
    known = {frame.name for frame in everything}
    splits: Splits = {"test": ()}
    listed: dict[str, str] = {}  # each name, with file and line
    problems: list[str] = []
    for split in ("train", "val", "test"):
        path = folder / f"{split}.txt"
        if not path.is_file() and split == "test":
            continue
        lines = _lines(dataset, path)
        names = [_frame_of(line, known) for line in lines.values()]
        if not any(names):
            raise InputError(f"{path}: must list frames of {folder}, got {len(names)} names and none of them is there")
        for (number, line), name in zip(lines.items(), names, strict=True):
            place = f"{path}, line {number}"
            if name is None:
                close = get_close_matches(Path(line.split()[0]).stem, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                problems.append(f"{place}: {folder} has no frame {line!r}{hint}: add it, or take the line out")
            elif (first := listed.setdefault(name, place)) != place:
                problems.append(f"{place}: a frame must be listed once, got {name} in {first} too: take one out")
        splits[split] = tuple(places[name] for name in names if name in places)
    raise_problems(problems)
    return splits, published_warnings(dataset, frames, splits)


def _lines(dataset: str, path: Path) -> dict[int, str]:
    """The lines of a list by their number, without empty ones."""
    if not path.is_file():
        raise InputError(
            f"{path}: split = published needs {dataset}'s own lists, and this one is missing: add it (one frame a "
            "line), or set split = sequence"
        )
    try:
        # utf-8-sig: editors on Windows write a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a list must be UTF-8 text, got: {error}: save it so") from None
    return {number: line.strip() for number, line in enumerate(text.splitlines(), 1) if line.strip()}


def _frame_of(line: str, known: set[str]) -> str | None:
    """The frame that a line of a list names, by name or path, with or without a label's path after it; or None."""
    text = unicodedata.normalize("NFC", line).replace("\\", "/").replace("\t", " ")
    while text:
        path = PurePosixPath(text)
        for name in (path.name, path.stem):
            for start in range(len(path.parts)):
                # In the data set "folder" a frame's name is made of its whole path.
                whole = "-".join([*path.parts[start:-1], name])
                if whole in known:
                    return whole
        # Names may contain spaces: text after a space is dropped only if an image file's name is before it.
        while text := text.rpartition(" ")[0].rstrip():
            if is_image_file(Path(text)):
                break
    return None


def published_warnings(dataset: str, frames: Sequence[Frame], splits: Splits) -> list[str]:
    """A sentence for each pair of splits that share a sequence.

    Raises InputError if they share a frame, or if train or val is empty.
    """
    for split in ("train", "val"):
        if not splits[split]:
            raise InputError(
                f"{dataset}: none of the {len(frames)} frames is of the published {split} part: "
                "add them, or set split = sequence"
            )
    warnings = []
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        if frame := set(splits[first]) & set(splits[second]):
            name = frames[min(frame)].name
            raise InputError(f"{dataset}: a frame must be in one split, got {name} in {first} and in {second}")
        shared = {frames[i].sequence for i in splits[first]} & {frames[i].sequence for i in splits[second]}
        if shared:
            inside = sum(frames[i].sequence in shared for i in splits[second])
            warnings.append(
                f"{dataset}: the published split divides sequences: {inside} of "
                f"{len(splits[second])} {second} frames are "
                f"of {', '.join(sorted(shared))}, which {first} has too; their score rewards memory "
                "and can rank "
                "models wrongly: prefer split = sequence"
            )
    return warnings
