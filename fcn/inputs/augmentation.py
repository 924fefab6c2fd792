"""Random changes of a batch, the same for images and labels, all images at once on their device.

N images, C channels, H W pixels. Pixels are 0..255 here: normalising comes after.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fcn.config import Config
from fcn.data.dataset import VOID

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Augmentation:
    """Mirroring, scale and crop, gamma, brightness, contrast and colour, each as strong as its config field
    says.

    Every image needs DRAWS numbers in [0, 1); what a field leaves off ignores its own, so that turning
    one change on doesn't alter how the others fall.
    """

    DRAWS = 8

    def __init__(self, config: Config) -> None:
        self._flip = config.flip
        self._scale = config.scale_jitter
        self._brightness, self._contrast = config.brightness, config.contrast
        self._colour, self._gamma = config.colour, config.gamma

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return any((self._flip, self._scale, self._brightness, self._contrast, self._colour, self._gamma))

    def __call__(self, images_NCHW: Tensor, labels_NHW: Tensor, draws: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """Changed images (uint8 or float32, 0..255) and labels (uint8) from uint8 ones.

        On a CPU the arguments are changed in place. draws: (N, DRAWS). fill: colour (1, C, 1, 1) of what comes
        into sight from outside; its label is void.
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
        """Gamma, brightness, contrast about the image's mean grey, colour about each pixel's grey."""

        def around_one(column: int, jitter: float) -> Tensor:
            return (1 + jitter * (2 * draws[:, column] - 1))[:, None]

        # There are only 256 levels: one power each instead of one a pixel.
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
        """Scale by 1 -+ scale_jitter, at a random place: cropped if larger, framed if smaller."""
        scale = 1 + self._scale * (2 * draws[:, 0] - 1)
        # affine_grid maps places of the result to places of the source, both from -1 to 1 over the image.
        inverse = 1 / scale
        room = (inverse - 1).abs()
        theta = torch.zeros((len(draws), 2, 3), device=draws.device)
        theta[:, 0, 0] = torch.where(mirrored, -inverse, inverse)
        theta[:, 1, 1] = inverse
        theta[:, 0, 2] = room * (2 * draws[:, 1] - 1)
        theta[:, 1, 2] = room * (2 * draws[:, 2] - 1)
        grid = functional.affine_grid(theta, list(images_NCHW.shape), align_corners=False)
        # Outside is zero to grid_sample: shifted, so that zero means fill and void.
        images_NCHW = functional.grid_sample(images_NCHW - fill, grid, mode="bilinear", align_corners=False) + fill
        shifted = labels_NHW[:, None].float() - VOID
        labels_NHW = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0] + VOID
        return images_NCHW, labels_NHW.round().to(torch.uint8)


def _mirror(images_NCHW: Tensor, labels_NHW: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    if images_NCHW.device.type == "cpu":
        # Half of the images in place: less work than the batch and its mirror image (docs/performance.md).
        for place in mirrored.nonzero()[:, 0].tolist():
            images_NCHW[place] = images_NCHW[place].flip(-1)
            labels_NHW[place] = labels_NHW[place].flip(-1)
        return images_NCHW, labels_NHW
    # Which ones it is stays on the GPU: asking would wait for it.
    return (
        torch.where(mirrored[:, None, None, None], images_NCHW.flip(-1), images_NCHW),
        torch.where(mirrored[:, None, None], labels_NHW.flip(-1), labels_NHW),
    )
