"""Which images and videos to predict, and the file that each prediction is written to, no two to the same."""

import errno
import hashlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fcn.data.listing import IMAGE_SUFFIXES, files_within, is_image_file, left_out
from fcn.errors import InputError

MOST_NAME_BYTES = 255 - len("-9999")  # the limit of file systems, less room for a number
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has made one slash of two
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@dataclass(frozen=True)
class Job:
    """An image or a video, and where its prediction goes: a file, or a folder for the frames of a video."""

    source: Path
    target: Path
    video: bool


class Plan(NamedTuple):
    """The jobs, a sentence for each path that gives none, and notes on files that are left out."""

    jobs: list[Job]
    problems: list[str]
    notes: list[str]


def plan(paths: Sequence[Path], output: Path, *, frames_as_images: bool) -> Plan:
    """Jobs for the files among `paths`, and for the images and videos in the folders among them, at any depth.

    frames_as_images: a video's prediction is a folder of PNGs, not a video.
    A prediction has its image's path relative to the folder that was given; if two would have the same path, each gets
    a longer name. Raises InputError if a prediction would overwrite an input, or if output is a folder of inputs.
    """
    found: dict[Path, Path] = {}  # each source once, with its path below output, still with the source's suffix
    problems: list[str] = []
    notes: list[str] = []
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            problems.append(f"{path}: {_why_unreadable(path, error)}")
            continue
        if not stat.S_ISDIR(mode):
            found.setdefault(path, Path(path.name))
            continue
        files, unreadable = _inside(path, output)
        problems += unreadable
        inside = [file for file in files if is_image_file(file) or _is_video(file)]
        found = {file: file.relative_to(path) for file in inside} | found
        others = left_out(
            f"{path} ({', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))})",
            (file for file in files if not is_image_file(file) and not _is_video(file)),
        )
        if inside:
            notes += others
        else:
            problems.append(
                f"{path}: a folder must hold images or videos, got none: give another one"
                + "".join(f"; {other}" for other in others)
            )
    found = {file: found[file] for file in {_real(file): file for file in found}.values()}
    inputs = {_real(source) for source in found}
    jobs = [
        Job(source, output / name, _is_video(source))
        for source, name in _named(found, frames_as_images=frames_as_images).items()
    ]
    for job in jobs:
        if _real(job.target) in inputs:
            raise InputError(f"--output {output}: would overwrite the input {job.target}: choose another folder")
    return Plan(jobs, problems, notes)


def _why_unreadable(path: Path, error: OSError) -> str:
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return f"can't be read ({error.strerror})"
    if _URL.match(str(path)):
        return "is a URL, and only files and folders of this machine are predicted: fetch them first"
    return "there is no such file or folder"


def _inside(folder: Path, output: Path) -> tuple[list[Path], list[str]]:
    """Files in a folder at any depth, and a sentence for each folder in it that can't be read."""
    written = _real(output)
    if written == _real(folder):
        raise InputError(f"--output {output}: must not be a folder of inputs: choose another")
    files, problems = files_within(folder)
    if _real(folder) in written.parents:
        # Without the predictions of an earlier call, which lie in a folder below the inputs.
        files = [file for file in files if written not in _real(file).parents]
    return files, problems


def _real(path: Path) -> Path:
    # Unlike Path.resolve, it doesn't raise for links that form a loop.
    return Path(os.path.realpath(path))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _named(found: dict[Path, Path], *, frames_as_images: bool) -> dict[Path, Path]:
    """The path of each prediction: its source's name with the new suffix; longer where two would be the same."""

    def suffix(source: Path) -> str:
        return ".png" if not _is_video(source) else "" if frames_as_images else ".mp4"

    schemes: tuple[Callable[[Path, Path], Path], ...] = (
        lambda source, name: name.with_suffix(suffix(source)),
        lambda source, name: name.with_name(name.name + suffix(source)),
        lambda source, name: name.with_name(f"{source.parent.name}_{name.name}{suffix(source)}"),
    )
    names = {source: _short(schemes[0](source, name), source, suffix(source)) for source, name in found.items()}
    for scheme in schemes[1:]:
        for source in _sharing(names):
            names[source] = _short(scheme(source, found[source]), source, suffix(source))
    taken = {_folded(name) for name in names.values()}
    for source in _sharing(names):
        number = 1
        while _folded(new := _numbered(names[source], number, suffix(source))) in taken:
            number += 1
        names[source] = new
        taken.add(_folded(new))
    return names


def _numbered(name: Path, number: int, suffix: str) -> Path:
    return name.with_name(f"{name.name.removesuffix(suffix)}-{number}{suffix}")


def _short(name: Path, source: Path, suffix: str) -> Path:
    """The name, or, if it is too long for file systems, its beginning with a hash of the source's path."""
    if len(os.fsencode(name.name)) <= MOST_NAME_BYTES:
        return name
    mark = f"-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}{suffix}"
    beginning = os.fsencode(name.name.removesuffix(suffix))[: MOST_NAME_BYTES - len(mark)]
    return name.with_name(beginning.decode(errors="ignore") + mark)  # drops a letter whose bytes were cut


def _sharing(names: dict[Path, Path]) -> list[Path]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for source, name in names.items():
        groups[_folded(name)].append(source)
    return [source for group in groups.values() if len(group) > 1 for source in group]


def _folded(name: Path) -> str:
    # For some file systems A.png and a.png are the same file.
    return str(name).casefold()
