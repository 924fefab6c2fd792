"""What to predict and where each prediction goes: files, folders and videos to names that never collide."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn.datasets.listing import is_picture
from fcn.errors import InputError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@dataclass(frozen=True)
class Job:
    """One picture or video and where its prediction goes: a file, or for the frames of a video a folder."""

    source: Path
    target: Path
    video: bool


def plan(paths: Sequence[Path], output: Path, *, frames_as_pictures: bool) -> tuple[list[Job], list[str]]:
    """Jobs for files, and for pictures and videos in folders at any depth; and a sentence a path without one.

    frames_as_pictures: a video becomes a folder of PNGs, not a video.
    A picture keeps its name and its place in its folder; where two would share one, each gets a longer one.
    Raises InputError if a prediction would overwrite an input, or land among them.
    """
    found: dict[Path, Path] = {}  # each source once, and where it goes below output, still with its own suffix
    problems = []
    for path in paths:
        if path.is_dir():
            inside = _inside(path, output)
            found = {file: file.relative_to(path) for file in inside} | found
            if not inside:
                problems.append(f"{path}: a folder must hold pictures or videos, got none: give another one")
        elif path.exists():
            found.setdefault(path, Path(path.name))
        else:
            problems.append(f"{path}: there is no such file or folder")
    found = {file: found[file] for file in {file.resolve(): file for file in found}.values()}
    inputs = {source.resolve() for source in found}
    jobs = [
        Job(source, output / name, _is_video(source))
        for source, name in _named(found, frames_as_pictures=frames_as_pictures).items()
    ]
    for job in jobs:
        if job.target.resolve() in inputs:
            raise InputError(f"--output {output}: would overwrite the input {job.target}: choose another folder")
    return jobs, problems


def _inside(folder: Path, output: Path) -> list[Path]:
    written = output.resolve()
    if written == folder.resolve():
        raise InputError(f"--output {output}: must not be a folder of inputs: choose another")
    # Predictions of an earlier run, written below the folder of the frames, are no frames.
    skipped = {written} if folder.resolve() in written.parents else set()
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and (is_picture(path) or _is_video(path))
        and not path.name.startswith(".")
        and skipped.isdisjoint(path.resolve().parents)
    )


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _named(found: dict[Path, Path], *, frames_as_pictures: bool) -> dict[Path, Path]:
    """Where each source goes: its name with the new suffix; longer for those that would share it."""

    def suffix(source: Path) -> str:
        return ".png" if not _is_video(source) else "" if frames_as_pictures else ".mp4"

    schemes: tuple[Callable[[Path, Path], Path], ...] = (
        lambda source, name: name.with_suffix(suffix(source)),
        lambda source, name: name.with_name(name.name + suffix(source)),
        lambda source, name: name.with_name(f"{source.parent.name}_{name.name}{suffix(source)}"),
    )
    names = {source: schemes[0](source, name) for source, name in found.items()}
    for scheme in schemes[1:]:
        for source in _sharing(names):
            names[source] = scheme(source, found[source])
    taken = {_folded(name) for name in names.values()}
    for source in _sharing(names):
        number = 1
        while _folded(new := names[source].with_stem(f"{names[source].stem}-{number}")) in taken:
            number += 1
        names[source] = new
        taken.add(_folded(new))
    return names


def _sharing(names: dict[Path, Path]) -> list[Path]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for source, name in names.items():
        groups[_folded(name)].append(source)
    return [source for group in groups.values() if len(group) > 1 for source in group]


def _folded(name: Path) -> str:
    # Some file systems hold A.png and a.png for one.
    return str(name).casefold()
