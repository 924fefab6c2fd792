"""A network's prediction for a frame, as an image at the frame's native resolution.

Tensor names: N images, C classes, H W pixels.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fcn.data.image_files import resize_image
from fcn.data.overlays import overlay, palette
from fcn.errors import InputError
from fcn.formats.read import Export, Network

Kind = Literal["overlay", "mask", "probability"]
Pixels = npt.NDArray[np.uint8]


class Predictor:
    """Applies an export's network to frames of any size, several at once.

    kind: overlay: the frame with its mask over it, half transparent. mask: class indices, 8 bits, with a palette for
    viewing. probability: of one class, 8-bit grey, 255 for the probability 1.
    class_name: the class for probability; None: the one that is scored against the background.
    Raises InputError if the export has no such class, or if it has several and class_name is None.
    """

    def __init__(self, export: Export, network: Network, kind: Kind, class_name: str | None = None) -> None:
        self._export = export
        self._network = network
        self._kind = kind
        if class_name is not None and kind != "probability":
            raise InputError(
                f"--class {class_name}: chooses the class of --kind probability, got {kind}: leave one out"
            )
        self._channel = _channel(export, class_name) if kind == "probability" else None

    def render_all(self, frames: Sequence[Pixels]) -> list[Image.Image]:
        """The images for several frames, uint8 RGB (H, W, 3), which may differ in size; each has its frame's size."""
        return [self.render(frame, logits) for frame, logits in zip(frames, self.logits(frames), strict=True)]

    def logits(self, frames: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """logits_NCHW of the frames, float32, at the export's image size."""
        return self._network(np.stack([resize_image(frame, self._export.image_size) for frame in frames]))

    def render(self, frame: Pixels, logits_CHW: npt.NDArray[np.float32]) -> Image.Image:
        """The image for one frame, from its logits at the export's image size."""
        height, width = frame.shape[:2]
        if self._channel is not None:
            return Image.fromarray(levels(probability(logits_CHW, self._channel, (height, width))))
        mask = class_mask(logits_CHW, (height, width))
        if self._kind == "overlay":
            return overlay(frame, mask, self._export.classes)
        image = Image.fromarray(mask).convert("P")
        image.putpalette(palette(self._export.classes).tobytes())
        return image


def probability(logits_CHW: npt.NDArray[np.float32], channel: int, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Probability of one class by softmax, float32 (H, W) in [0, 1], resized to `size`."""
    if len(logits_CHW) == 2:
        with np.errstate(over="ignore"):  # if the exponential is infinite, the probability is 0
            found = 1 / (1 + np.exp(logits_CHW[1 - channel] - logits_CHW[channel]))
    else:
        found = _softmax(logits_CHW)[channel]
    return _resized(found, size)


def class_mask(logits_CHW: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The most probable class of each pixel, uint8 (H, W) at `size`. On a tie the lower class wins."""
    # Probabilities are resized, not classes, so that edges stay smooth.
    if len(logits_CHW) == 2:
        return (probability(logits_CHW, 1, size) > 0.5).astype(np.uint8)
    planes = np.stack([_resized(plane, size) for plane in _softmax(logits_CHW)])
    likeliest: npt.NDArray[np.intp] = planes.argmax(axis=0)
    return likeliest.astype(np.uint8)


def levels(probability_HW: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Probabilities as levels 0..255, as the KITTI server takes them."""
    return np.rint(probability_HW * 255).astype(np.uint8)


def _softmax(logits_CHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    powers = np.exp(logits_CHW - logits_CHW.max(axis=0, keepdims=True))
    probability_CHW: npt.NDArray[np.float32] = powers / powers.sum(axis=0, keepdims=True)
    return probability_CHW


def _resized(probability_HW: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    if probability_HW.shape == size:
        return probability_HW
    height, width = size
    image = Image.fromarray(np.ascontiguousarray(probability_HW, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)


def _channel(export: Export, class_name: str | None) -> int:
    if class_name is not None:
        if class_name not in export.classes:
            raise InputError(f"--class must be one of {', '.join(export.classes)}, got {class_name}")
        return export.classes.index(class_name)
    if export.positive is None:
        raise InputError(
            f"--kind probability needs --class with an export of {len(export.classes)} classes: "
            f"one of {', '.join(export.classes)}"
        )
    return export.positive
