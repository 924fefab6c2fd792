"""Draws segmentation masks: overlays, ground truth and error maps.

Images are uint8 RGB (H, W, 3). Masks are integers (H, W): the class index of each pixel, VOID for unlabelled ones.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from fcn.data.dataset import VOID

UNPAINTED = "background"

OPACITY = 127  # of 255, as in the overlays of the two published recipes

ROAD_COLOUR = (0, 255, 0)
COLOURS = {  # Cityscapes' colours for its classes, except for the road, which is always green
    "road": ROAD_COLOUR,
    "sky": (70, 130, 180),
    "building": (120, 70, 70),
    "pole": (190, 190, 190),
    "pavement": (244, 35, 232),
    "sidewalk": (244, 35, 232),
    "tree": (107, 142, 35),
    "vegetation": (107, 142, 35),
    "sign": (220, 220, 0),
    "traffic sign": (220, 220, 0),
    "fence": (190, 153, 153),
    "car": (0, 0, 142),
    "pedestrian": (220, 20, 60),
    "person": (220, 20, 60),
    "bicyclist": (119, 11, 32),
    "rider": (255, 0, 0),
    "wall": (102, 102, 156),
    "traffic light": (250, 170, 30),
    "terrain": (152, 251, 152),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 132),
}

# The KITTI Road devkit's colours.
TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE = (0, 255, 0), (255, 0, 0), (0, 0, 255)
SEPARATOR_PIXELS = 2


def palette(classes: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Colour of each class, (len(classes), 3) RGB. Names in COLOURS always have the same colour.

    If one class is scored against the background, it is green whatever its name. Other names get a hue by their index.
    """
    if len(classes) == 2 and UNPAINTED in classes:
        return np.array([(0, 0, 0) if name == UNPAINTED else ROAD_COLOUR for name in classes], np.uint8)
    return np.array([COLOURS.get(name, _hue(index)) for index, name in enumerate(classes)], np.uint8)


def overlay(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.integer], classes: Sequence[str]) -> Image.Image:
    """The image with its mask over it, half transparent; background and VOID are left unpainted.

    Raises ValueError if mask and image differ in size, or if the mask holds an index that is neither in `classes` nor
    VOID.
    """
    _check(image, mask, classes)
    return Image.fromarray(_blend(image, mask, classes))


def side_by_side(
    image: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.integer],
    target: npt.NDArray[np.integer],
    classes: Sequence[str],
) -> Image.Image:
    """Three panels: prediction over the image | ground truth over the image, void darkened | error map.

    The result is H high and 3 W + 2 SEPARATOR_PIXELS wide, with a white line between panels.
    Raises ValueError as overlay() does.
    """
    _check(image, predicted, classes)
    _check(image, target, classes)
    truth = _blend(image, target, classes)
    truth[target == VOID] //= 3
    line = np.full((image.shape[0], SEPARATOR_PIXELS, 3), 255, np.uint8)
    errors = error_map(image, predicted, target, classes)
    return Image.fromarray(np.hstack([_blend(image, predicted, classes), line, truth, line, errors]))


def error_map(
    image: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.integer],
    target: npt.NDArray[np.integer],
    classes: Sequence[str],
) -> npt.NDArray[np.uint8]:
    """The errors of a prediction, painted on the image in grey: uint8 (H, W, 3).

    One class against the background: true positives green, false negatives red, false positives blue, as in the KITTI
    Road devkit. Several classes: wrong pixels red. Void is black.
    """
    grey = np.asarray(Image.fromarray(image).convert("L"))
    drawn = np.repeat(grey[..., None] // 2, 3, axis=2)
    valid = target != VOID
    drawn[~valid] = 0
    if len(classes) == 2 and UNPAINTED in classes:
        positive = 1 - list(classes).index(UNPAINTED)
        found, true = predicted == positive, target == positive
        paints = [
            (found & true, TRUE_POSITIVE),
            (~found & true, FALSE_NEGATIVE),
            (found & ~true & valid, FALSE_POSITIVE),
        ]
    else:
        paints = [(valid & (predicted != target), FALSE_NEGATIVE)]
    for where, colour in paints:
        drawn[where] = (drawn[where] + np.array(colour)) // 2
    return drawn


def _blend(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.integer], classes: Sequence[str]
) -> npt.NDArray[np.uint8]:
    # In 16-bit integers, which 255 * 255 + 127 fits into: it takes half the time of floating point.
    opacity = np.zeros(256, np.uint16)
    opacity[: len(classes)] = [0 if name == UNPAINTED else OPACITY for name in classes]
    paint = np.zeros((256, 3), np.uint16)
    paint[: len(classes)] = palette(classes)
    paint = paint * opacity[:, None] + 127
    index = mask.astype(np.uint8)
    blended: npt.NDArray[np.uint16] = image * (255 - opacity)[index][..., None]
    blended += paint[index]
    blended //= 255
    return blended.astype(np.uint8)


def _hue(index: int) -> tuple[int, int, int]:
    # Steps of the golden ratio give neighbours different hues for any number of classes.
    red, green, blue = colorsys.hsv_to_rgb((0.5 + index * 0.618034) % 1, 0.75, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _check(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.integer], classes: Sequence[str]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask and image must have one size, got {mask.shape} and {image.shape[:2]}")
    outside = (mask != VOID) & ((mask < 0) | (mask >= len(classes)))
    if outside.any():
        raise ValueError(f"mask must hold 0..{len(classes) - 1} or {VOID} (void), got {int(mask[outside][0])}")
