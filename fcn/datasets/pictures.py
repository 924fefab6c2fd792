"""Picture files to pixels and back to the size that a network wants, with errors that name the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from fcn.datasets.frames import Pixels, refuse
from fcn.errors import InputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


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


def read_image(path: Path) -> Pixels:
    """RGB pixels HxWx3 of a picture file of any mode, without its transparency.

    Raises InputError if it is damaged.
    """
    return np.array(_open(path, "RGB"), dtype=np.uint8)


def read_indices(path: Path) -> Pixels:
    """Label values HxW of a picture with one channel: grey levels, or the entries of a palette.

    Raises InputError if it is damaged, has colours instead of indices, or more than 8 bits.
    """
    picture = _open(path, None)
    if picture.mode not in ("L", "P", "1"):
        raise InputError(
            f"{path}: an index label must be 8-bit grey or have a palette, got mode {picture.mode}: "
            "save class indices, or describe the colours in classes.toml"
        )
    return np.array(picture, dtype=np.uint8)


def read_colours(path: Path) -> Pixels:
    """RGB pixels HxWx3 of a label that is a picture with colours or a palette.

    Raises InputError if it is damaged, or grey: indices would be taken for colours.
    """
    picture = _open(path, None)
    if picture.mode not in ("RGB", "RGBA", "P", "PA"):
        raise InputError(f"{path}: the label must have colours (RGB or a palette), got mode {picture.mode}")
    return np.array(picture.convert("RGB"), dtype=np.uint8)


def _open(path: Path, mode: str | None) -> PillowImage.Image:
    try:
        with PillowImage.open(path) as picture:
            picture.load()
            return picture.convert(mode) if mode and picture.mode != mode else picture.copy()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except PermissionError:
        raise InputError(f"{path}: can't be read: permission denied") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: damaged, or no picture: its header makes no sense; fetch the file again") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: damaged picture ({error}); fetch the file again") from None
    except PillowImage.DecompressionBombError as error:
        raise InputError(f"{path}: too large to be a frame ({error})") from None


def check_sizes(image: Pixels, label: npt.NDArray[np.generic], image_path: Path, label_path: Path) -> None:
    """Raises InputError if an image HxWx3 and its label HxW differ in height or width."""
    if image.shape[:2] != label.shape[:2]:
        raise InputError(
            f"{label_path}: a label must have its image's size, got {label.shape[1]}x{label.shape[0]} for "
            f"{image_path.name} with {image.shape[1]}x{image.shape[0]} (width x height): label the image "
            "again, or resize the label by nearest neighbour"
        )


def resize_image(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Image HxWx3 at size (H, W): bilinear, and averaged over as many pixels as it shrinks by."""
    height, width = size
    if image.shape[:2] == size:
        return image
    picture = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR)
    return np.array(picture, dtype=np.uint8)


def resize_label(label: Pixels, size: tuple[int, int]) -> Pixels:
    """Label HxW at size (H, W), by nearest neighbour: a mixture of two classes is a third one."""
    height, width = size
    if label.shape == size:
        return label
    picture = PillowImage.fromarray(label).resize((width, height), PillowImage.Resampling.NEAREST)
    return np.array(picture, dtype=np.uint8)
