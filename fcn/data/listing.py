"""Which files of a data set are images, their names, and which label belongs to which image."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from fcn.data.dataset import Frame, raise_problems
from fcn.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")
# Files and folders that operating systems create beside images, besides those whose names begin with a dot.
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
MOST_NAMES_SHOWN = 5


def is_image_file(path: Path) -> bool:
    # Archives made on macOS have ._NAME.png beside NAME.png, which is no image.
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def list_images(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted by name.

    Raises InputError if the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: set data_dir to where the data set lies")
    found = sorted(path for path in folder.iterdir() if is_image_file(path))
    if not found:
        raise InputError(f"{folder}: must hold images ({', '.join(IMAGE_SUFFIXES)}), got none")
    return found


def files_within(folder: Path) -> tuple[list[Path], list[str]]:
    """The files in a folder at any depth, sorted, and a sentence for each folder that can't be read.

    Links to folders are followed; hidden files and folders are left out.
    """
    found: list[Path] = []
    problems: list[str] = []

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: can't be read ({error.strerror}): fix its permissions, or take it out")

    for place, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        above = Path(place).resolve()
        # Without links to a folder above, which would never end.
        folders[:] = [
            name for name in folders if not is_hidden(name) and not above.is_relative_to(Path(place, name).resolve())
        ]
        found += [Path(place, name) for name in names if not is_hidden(name)]
    return sorted(found), problems


def left_out(what: str, files: Iterable[Path]) -> list[str]:
    """A sentence with the number and names of the files that aren't read, if there are any.

    what: their folder, and the kinds of files that are read there.
    """
    names = [shown(path.name) for path in files]
    if not names:
        return []
    some = ", ".join(names[:MOST_NAMES_SHOWN])
    more = f" and {len(names) - MOST_NAMES_SHOWN} more" if len(names) > MOST_NAMES_SHOWN else ""
    count = "1 file is" if len(names) == 1 else f"{len(names)} files are"
    return [f"{what}: {count} of another kind and left out: {some}{more}"]


def other_files(folders: Iterable[Path]) -> list[str]:
    """A sentence for each folder that directly holds files other than images."""
    sentences = []
    for folder in folders:
        others = [path for path in sorted(folder.iterdir()) if not path.is_dir() and not is_image_file(path)]
        visible = [path for path in others if not is_hidden(path.name)]
        sentences += left_out(f"{folder} ({', '.join(IMAGE_SUFFIXES)})", visible)
    return sentences


def shown(name: str | Path) -> str:
    """A file name, or a sentence with one, as valid UTF-8 for any terminal; other bytes are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def key_of(path: Path, name: str) -> str:
    """`name` in Unicode's NFC form, for comparing: macOS writes ü as two characters, most other systems as one.

    Raises InputError if it isn't UTF-8, which a study's records and MLflow require.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{shown(path)}: the name must be UTF-8: rename the file") from None
    return unicodedata.normalize("NFC", name)


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Paths by file name without suffix. Raises InputError if two have the same."""
    return by_key((key_of(path, path.stem), path) for path in paths)


def by_key(pairs: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Paths by key. Raises InputError if two have the same."""
    found: dict[str, Path] = {}
    for key, path in pairs:
        if key in found:
            raise InputError(f"{path}: has the same name as {found[key].name}: keep one of the two")
        found[key] = path
    return found


def match(images: dict[str, Path], labels: dict[str, Path], label_place: str) -> list[tuple[str, Path, Path]]:
    """(key, image, label) for each key, sorted.

    label_place: where a missing label belongs, with {key} in it.
    Raises InputError that names each image without a label and each label without an image.
    """
    unpaired = [
        f"{images[key]}: has no label, expected {label_place.format(key=key)}: add it, or take the image out"
        for key in sorted(images.keys() - labels.keys())
    ]
    unpaired += [
        f"{labels[key]}: is a label without an image: add the image {key}, or take the label out"
        for key in sorted(labels.keys() - images.keys())
    ]
    raise_problems(unpaired)
    return [(key, images[key], labels[key]) for key in sorted(images)]


def check_unique_names(frames: Sequence[Frame]) -> None:
    """Raises InputError that names the files of frames with the same name."""
    first: dict[str, Frame] = {}
    problems = []
    for frame in frames:
        other = first.setdefault(frame.name, frame)
        if other is not frame:
            problems.append(
                f"{frame.image}: would be called {frame.name}, as {other.image} is: rename one of them and its label"
            )
    raise_problems(problems)
