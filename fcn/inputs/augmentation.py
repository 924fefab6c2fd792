"""Random augmentation of a batch, images and labels together, on their device.

Tensor names: N images, C channels, H W pixels. Pixels are 0..255: normalisation comes after augmentation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fcn.config import Config
from fcn.data.dataset import VOID

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Augmentation:
    """Mirrors, scales and crops, and changes gamma, brightness, contrast and colour, as the config fields say.

    Every image takes DRAWS random numbers in [0, 1), a fixed one for each change, whether it is on or off: turning one
    on leaves the others as they were.
    """

    DRAWS = 8

    def __init__(self, config: Config) -> None:
        self._flip = config.flip
        self._scale = config.scale_jitter
        self._brightness, self._contrast = config.brightness, config.contrast
        self._colour, self._gamma = config.colour, config.gamma

    @property
    def active(self) -> bool:
        """Whether any augmentation is on."""
        return any((self._flip, self._scale, self._brightness, self._contrast, self._colour, self._gamma))

    def __call__(self, images_NCHW: Tensor, labels_NHW: Tensor, draws: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the augmented images (uint8 or float32, 0..255) and labels (uint8). Both arguments are uint8.

        On a CPU the arguments may be changed in place. draws: (N, DRAWS), random numbers in [0, 1). fill: (1, C, 1, 1),
        the colour of pixels from outside the image, which scaling down brings into view; their label is void.
        """
        mirrored = draws[:, 0] < self._flip
        if self._flip and not self._scale:
            images_NCHW, labels_NHW = _mirror(images_NCHW, labels_NHW, mirrored)
        if self._gamma or self._brightness or self._contrast or self._colour:
            images_NCHW = self._relight(images_NCHW, draws[:, 4:8])
        if self._scale:
            images_NCHW, labels_NHW = self._resample(images_NCHW, labels_NHW, mirrored, draws[:, 1:4], fill)
        return images_NCHW, labels_NHW

    def _relight(self, images_NCHW: Tensor, draws: Tensor) -> Tensor:
        """Changes gamma and brightness, contrast around the image's mean grey, and colour around each pixel's grey."""

        def around_one(column: int, jitter: float) -> Tensor:
            return (1 + jitter * (2 * draws[:, column] - 1))[:, None]

        # A table of the 256 levels: a power for each level costs less than one for each pixel.
        levels = torch.linspace(0, 1, 256, device=images_NCHW.device).expand(len(draws), 256)
        levels = 255 * around_one(1, self._brightness) * levels ** around_one(0, self._gamma)
        lit = torch.gather(levels, 1, images_NCHW.flatten(1).long()).view(images_NCHW.shape)
        if self._contrast or self._colour:
            contrast = around_one(2, self._contrast)[..., None, None]
            colour = around_one(3, self._colour)[..., None, None]
            red, green, blue = LUMA
            grey = (red * lit[:, 0] + green * lit[:, 1] + blue * lit[:, 2])[:, None]
            middle = grey.mean(dim=(2, 3), keepdim=True)
            # middle + (x - middle) * contrast, then grey + (x - grey) * colour, in one pass.
            offset = grey * (contrast * (1 - colour)) + middle * (1 - contrast)
            lit = lit.mul_(contrast * colour).add_(offset)
        return lit.clamp_(0, 255)

    def _resample(
        self, images_NCHW: Tensor, labels_NHW: Tensor, mirrored: Tensor, draws: Tensor, fill: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scales by a factor of 1 -+ scale_jitter, then crops a larger image and pads a smaller one, at random."""
        scale = 1 + self._scale * (2 * draws[:, 0] - 1)
        # affine_grid maps positions in the result to positions in the source; both run from -1 to 1.
        inverse = 1 / scale
        room = (inverse - 1).abs()
        theta = torch.zeros((len(draws), 2, 3), device=draws.device)
        theta[:, 0, 0] = torch.where(mirrored, -inverse, inverse)
        theta[:, 1, 1] = inverse
        theta[:, 0, 2] = room * (2 * draws[:, 1] - 1)
        theta[:, 1, 2] = room * (2 * draws[:, 2] - 1)
        grid = functional.affine_grid(theta, list(images_NCHW.shape), align_corners=False)
        # grid_sample takes 0 for pixels outside: the values are shifted so that 0 means fill, or void.
        images_NCHW = functional.grid_sample(images_NCHW - fill, grid, mode="bilinear", align_corners=False) + fill
        shifted = labels_NHW[:, None].float() - VOID
        labels_NHW = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0] + VOID
        return images_NCHW, labels_NHW.round().to(torch.uint8)


def _mirror(images_NCHW: Tensor, labels_NHW: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    if images_NCHW.device.type == "cpu":
        # Only the mirrored images, in place: less work than mirroring the whole batch (docs/performance.md).
        for place in mirrored.nonzero()[:, 0].tolist():
            images_NCHW[place] = images_NCHW[place].flip(-1)
            labels_NHW[place] = labels_NHW[place].flip(-1)
        return images_NCHW, labels_NHW
    # All images are mirrored: to choose some, the host would have to wait for the GPU.
    return (
        torch.where(mirrored[:, None, None, None], images_NCHW.flip(-1), images_NCHW),
        torch.where(mirrored[:, None, None], labels_NHW.flip(-1), labels_NHW),
    )
