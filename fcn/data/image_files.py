"""Reads image files as pixels, with errors that name the file, and resizes them to the network's image size.

An image is read as it is displayed, rotated by its EXIF orientation. A label is rotated only by its own orientation,
which it mostly lacks, since labels are drawn on the image as it is displayed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PillowImage

from fcn.data.dataset import SIXTEEN_BITS, TURNED, Pixels
from fcn.errors import InputError

# An image with damaged EXIF data can still be read, and Pillow's warning doesn't name the file.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)

# Pillow's other formats aren't written by cameras, and for EPS it would start another program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC = 254, 258, 262  # TIFF's tags
REDUCED, WHITE_IS_ZERO = 1, 0  # a bit of NEW_SUBFILE_TYPE, a value of PHOTOMETRIC
TO_UPRIGHT = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class DecodedImage:
    """pixels: RGB HxWx3, as the image is displayed. orientation: EXIF's; 1 if it is stored as it is displayed.

    remarks: for a person, on how it was read (SIXTEEN_BITS, TURNED).
    """

    pixels: Pixels
    orientation: int
    remarks: tuple[str, ...]


def read_image(path: Path) -> Pixels:
    """RGB pixels HxWx3 of an image file as it is displayed; transparency is dropped.

    Raises InputError as decode_image() does.
    """
    return decode_image(path).pixels


def decode_image(path: Path) -> DecodedImage:
    """Decodes an image file with 8 bits a channel, or with 16, of which the upper 8 are taken.

    Raises InputError if the file is damaged, an animation or of several pages, or if its values are 32-bit integers or
    fractions, for which white isn't defined.
    """
    image, orientation = _open(path)
    deep = _is_sixteen_bit(image)
    pixels = _upper_byte(image) if deep else _rgb(image, path)
    remarks = [remark for remark, holds in ((SIXTEEN_BITS, deep), (TURNED, orientation != 1)) if holds]
    return DecodedImage(pixels, orientation, tuple(remarks))


def read_indices(path: Path) -> Pixels:
    """Class indices HxW of a label image with one channel: its grey levels or palette indices.

    Raises InputError if the file is damaged, has colours instead of indices, or a value outside 0 to 255.
    """
    image, _ = _open(path)
    if image.mode in ("L", "P", "1"):
        return np.array(image, dtype=np.uint8)
    if image.mode != "I" and image.mode not in SIXTEEN_BIT_MODES:
        raise InputError(
            f"{path}: an index label must be grey or have a palette, got mode {image.mode}: "
            "save class indices, or describe the colours in classes.toml"
        )
    values = np.array(image).astype(np.int64)
    outside = (values < 0) | (values > 255)
    if outside.any():
        row, column = (int(where[0]) for where in np.nonzero(outside))
        raise InputError(
            f"{path}: an index must be from 0 to 255, got {values[row, column]} at row {row}, column {column}: "
            "save class indices, not measurements or instances"
        )
    return values.astype(np.uint8)


def read_colours(path: Path) -> Pixels:
    """RGB pixels HxWx3 of a label image with colours or a palette.

    Raises InputError if the file is damaged, or grey, since its indices would be taken for colours.
    """
    image, _ = _open(path)
    if image.mode not in ("RGB", "RGBA", "P", "PA"):
        raise InputError(
            f"{path}: the label must have colours (RGB or a palette), got mode {image.mode}: "
            "write indices into classes.toml, or save colours"
        )
    return _rgb(image, path)


def _open(path: Path) -> tuple[PillowImage.Image, int]:
    """The decoded image as it is displayed, and the EXIF orientation of its file. Raises InputError."""
    try:
        with PillowImage.open(path, formats=FORMATS) as image:
            if (count := _pages(image)) > 1:
                raise InputError(
                    f"{path}: must hold one image, got {count} (an animation, or pages): save the one that is meant"
                )
            # Pillow rotates a TIFF itself when it decodes it, and drops the tag.
            turned_by_pillow = _orientation(image) if image.format == "TIFF" else 1
            image.load()
            orientation = _orientation(image)
            if orientation == 1:
                return image, turned_by_pillow
            # Not ImageOps.exif_transpose, which rewrites all tags and fails on those of some cameras.
            return image.transpose(TO_UPRIGHT[orientation]), orientation
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except PermissionError:
        raise InputError(f"{path}: can't be read: permission denied") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: damaged, or no image: its header makes no sense; fetch the file again") from None
    except PillowImage.DecompressionBombError as error:
        raise InputError(f"{path}: too large to be a frame ({error})") from None
    # Decoders raise undocumented errors for damaged files, and one bad file must not stop the others.
    except Exception as error:
        raise InputError(f"{path}: damaged image ({error}); fetch the file again") from None


def _pages(image: Any) -> int:
    """Number of images in a file: frames of an animation or pages of a TIFF."""
    count = int(getattr(image, "n_frames", 1))
    # An MPO is a phone's JPEG followed by a preview or a depth map; its first image is the photo.
    if count == 1 or image.format == "MPO":
        return 1
    if image.format == "TIFF":  # smaller copies of a page don't count
        smaller = 0
        for number in range(count):
            image.seek(number)
            smaller += int(image.tag_v2.get(NEW_SUBFILE_TYPE, 0)) & REDUCED
        image.seek(0)
        count -= smaller
    return count


def _orientation(image: PillowImage.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data: viewers show the image as it is stored
        return 1
    return found if found in TO_UPRIGHT else 1


def _is_sixteen_bit(image: PillowImage.Image) -> bool:
    # Pillow stores a PPM's 16 bits in 32.
    return image.mode in SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PPM")


def _upper_byte(image: Any) -> Pixels:
    """Grey levels of 9 to 16 bits as RGB of 8 bits: their upper 8 bits, as Pillow reads 16-bit colours."""
    levels = np.array(image).astype(np.uint16)
    bits = int(image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0]) if image.format == "TIFF" else 16
    grey = (levels >> (bits - 8)).astype(np.uint8)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow does this only for 8 bits
    return np.repeat(grey[..., None], 3, axis=2)


def _rgb(image: PillowImage.Image, path: Path) -> Pixels:
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "fractions"
        raise InputError(
            f"{path}: an image must have 8 or 16 bits a channel, got {kind}, of which nobody says what is white: "
            "save it with 8 bits"
        )
    # A palette with transparent entries is converted to RGBA first, without which Pillow warns; RGB stays the same.
    for mode in (["RGBA"] if "transparency" in image.info and image.mode == "P" else []) + ["RGB"]:
        image = image if image.mode == mode else image.convert(mode)
    return np.array(image, dtype=np.uint8)


def check_sizes(image: DecodedImage, label: npt.NDArray[np.generic], image_path: Path, label_path: Path) -> None:
    """Raises InputError if an image HxWx3 and its label HxW differ in height or width."""
    (height, width), (label_height, label_width) = image.pixels.shape[:2], label.shape[:2]
    if (height, width) == (label_height, label_width):
        return
    what = (
        f"{label_path}: a label must have its image's size, got {label_width}x{label_height} for "
        f"{image_path.name} with {width}x{height} (width x height)"
    )
    if (width, height) == (label_height, label_width) and image.orientation != 1:
        raise InputError(
            f"{what}, which is stored turned (EXIF orientation {image.orientation}) and was labelled as it is "
            "stored: turn the label as the image is displayed, or take the orientation out of the image"
        )
    raise InputError(f"{what}: label the image again, or resize the label by nearest neighbour")


def resize_image(image: Pixels, size: tuple[int, int]) -> Pixels:
    """The image HxWx3 resized to (H, W), bilinearly with antialiasing."""
    height, width = size
    if image.shape[:2] == size:
        return image
    resized = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR)
    return np.array(resized, dtype=np.uint8)


def resize_label(label: Pixels, size: tuple[int, int]) -> Pixels:
    """The label HxW resized to (H, W) by nearest neighbour, since a mean of two class indices is another class."""
    height, width = size
    if label.shape == size:
        return label
    resized = PillowImage.fromarray(label).resize((width, height), PillowImage.Resampling.NEAREST)
    return np.array(resized, dtype=np.uint8)
