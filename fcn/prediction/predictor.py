"""What a network says of a frame, as an image at the frame's native resolution.

N images, C classes, H W pixels.
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
    """An export's network for frames of any size, several at once.

    kind: overlay: the frame under its mask. mask: class indices, 8 bits, with a palette to look at.
    probability: of one class, 8-bit grey, 255 is certain.
    class_name: whose probability; None: the one class that is scored against the background.
    Raises InputError where there is no such class, or none to choose.
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
        """One image for each frame, uint8 RGB (H, W, 3), at its size; the frames may differ in size."""
        return [self.render(frame, logits) for frame, logits in zip(frames, self.logits(frames), strict=True)]

    def logits(self, frames: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """float32 logits_NCHW at the export's image size."""
        return self._network(np.stack([resize_image(frame, self._export.image_size) for frame in frames]))

    def render(self, frame: Pixels, logits_CHW: npt.NDArray[np.float32]) -> Image.Image:
        """The image of one frame from its logits at the export's image size."""
        height, width = frame.shape[:2]
        if self._channel is not None:
            share = probability(logits_CHW, self._channel, (height, width))
            return Image.fromarray(levels(share))
        mask = class_mask(logits_CHW, (height, width))
        if self._kind == "overlay":
            return overlay(frame, mask, self._export.classes)
        image = Image.fromarray(mask).convert("P")
        image.putpalette(palette(self._export.classes).tobytes())
        return image


def probability(logits_CHW: npt.NDArray[np.float32], channel: int, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Softmax of one channel, float32 (H, W) in [0, 1] at `size`."""
    if len(logits_CHW) == 2:
        with np.errstate(over="ignore"):  # an infinite exponential is a probability of nought
            share = 1 / (1 + np.exp(logits_CHW[1 - channel] - logits_CHW[channel]))
    else:
        share = _softmax(logits_CHW)[channel]
    return _resized(share, size)


def class_mask(logits_CHW: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The likeliest class of each pixel, uint8 (H, W) at `size`; the lower class wins a tie."""
    # Probabilities are resized, not classes: edges stay smooth.
    if len(logits_CHW) == 2:
        return (probability(logits_CHW, 1, size) > 0.5).astype(np.uint8)
    planes = np.stack([_resized(plane, size) for plane in _softmax(logits_CHW)])
    likeliest: npt.NDArray[np.intp] = planes.argmax(axis=0)
    return likeliest.astype(np.uint8)


def levels(share_HW: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Probabilities as the KITTI server takes them: 0..255."""
    return np.rint(share_HW * 255).astype(np.uint8)


def _softmax(logits_CHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    grown = np.exp(logits_CHW - logits_CHW.max(axis=0, keepdims=True))
    share: npt.NDArray[np.float32] = grown / grown.sum(axis=0, keepdims=True)
    return share


def _resized(share_HW: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    if share_HW.shape == size:
        return share_HW
    height, width = size
    image = Image.fromarray(np.ascontiguousarray(share_HW, np.float32))
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
