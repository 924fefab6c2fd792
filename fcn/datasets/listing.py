"""Which files of a data set are pictures, and which label belongs to which image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fcn.datasets.frames import refuse
from fcn.errors import InputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")


def list_pictures(folder: Path) -> list[Path]:
    """Picture files right in a folder, sorted by name.

    Raises InputError if the folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: set data_dir to where the data set lies")
    found = sorted(path for path in folder.iterdir() if is_picture(path))
    if not found:
        raise InputError(f"{folder}: must hold pictures ({', '.join(PICTURE_SUFFIXES)}), got none")
    return found


def is_picture(path: Path) -> bool:
    # macOS leaves ._NAME.png beside NAME.png in archives.
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def match(images: dict[str, Path], labels: dict[str, Path], label_place: str) -> list[tuple[str, Path, Path]]:
    """(key, image, label) for each key, sorted.

    label_place: where a missing label belongs, with {key} in it.
    Raises InputError that names each image without a label and each label without an image.
    """
    lonely = [
        f"{images[key]}: has no label, expected {label_place.format(key=key)}: add it, or take the image out"
        for key in sorted(images.keys() - labels.keys())
    ]
    lonely += [
        f"{labels[key]}: is a label without an image: add the image {key}, or take the label out"
        for key in sorted(labels.keys() - images.keys())
    ]
    refuse(lonely)
    return [(key, images[key], labels[key]) for key in sorted(images)]


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Paths by file name without suffix. Raises InputError if two share one."""
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise InputError(f"{path}: has the same name as {found[path.stem].name}: keep one of the two")
        found[path.stem] = path
    return found
