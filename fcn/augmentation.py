"""Random changes of a batch, the same for images and labels, all images at once on their device.

N images, C channels, H W pixels. Pixels are 0..255 here: normalising comes after.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fcn.config import Config
from fcn.datasets import VOID

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Augmentation:
    """Mirroring, scale and crop, gamma, brightness, contrast and colour, each as strong as its setting
    says.

    Every image needs DRAWS numbers in [0, 1); what a setting leaves off ignores its own, so that turning
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

    def __call__(
        self, images_NCHW: Tensor, labels_NHW: Tensor, draws: Tensor, fill: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Changed images and labels.

        draws: (N, DRAWS). fill: colour (1, C, 1, 1) of what comes into sight from outside; its label is void.
        """
        mirrored = draws[:, 0] < self._flip
        if self._scale:
            images_NCHW, labels_NHW = self._resample(images_NCHW, labels_NHW, mirrored, draws[:, 1:4], fill)
        elif self._flip:
            images_NCHW = torch.where(mirrored[:, None, None, None], images_NCHW.flip(-1), images_NCHW)
            labels_NHW = torch.where(mirrored[:, None, None], labels_NHW.flip(-1), labels_NHW)
        if self._gamma or self._brightness or self._contrast or self._colour:
            images_NCHW = self._relight(images_NCHW, draws[:, 4:8])
        return images_NCHW, labels_NHW

    def _resample(
        self, images_NCHW: Tensor, labels_NHW: Tensor, mirrored: Tensor, draws: Tensor, fill: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scale by 1 -+ scale_jitter, at a random place: cropped if larger, framed if smaller."""
        scale = 1 + self._scale * (2 * draws[:, 0] - 1)
        # affine_grid maps places of the result to places of the source, both from -1 to 1 over the picture.
        inverse = 1 / scale
        room = (inverse - 1).abs()
        theta = torch.zeros((len(draws), 2, 3), device=draws.device)
        theta[:, 0, 0] = torch.where(mirrored, -inverse, inverse)
        theta[:, 1, 1] = inverse
        theta[:, 0, 2] = room * (2 * draws[:, 1] - 1)
        theta[:, 1, 2] = room * (2 * draws[:, 2] - 1)
        grid = functional.affine_grid(theta, list(images_NCHW.shape), align_corners=False)
        # Outside is zero to grid_sample: shifted, so that zero means fill and void.
        images_NCHW = (
            functional.grid_sample(images_NCHW - fill, grid, mode="bilinear", align_corners=False) + fill
        )
        shifted = labels_NHW[:, None].float() - VOID
        labels_NHW = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0] + VOID
        return images_NCHW, labels_NHW.round().to(torch.uint8)

    def _relight(self, images_NCHW: Tensor, draws: Tensor) -> Tensor:
        def around_one(column: int, jitter: float) -> Tensor:
            return (1 + jitter * (2 * draws[:, column] - 1))[:, None, None, None]

        light = images_NCHW / 255
        if self._gamma:
            light = light.clamp(0, 1) ** around_one(0, self._gamma)
        if self._brightness:
            light = light * around_one(1, self._brightness)
        if self._contrast:
            middle = _grey(light).mean(dim=(1, 2, 3), keepdim=True)
            light = middle + (light - middle) * around_one(2, self._contrast)
        if self._colour:
            grey = _grey(light)
            light = grey + (light - grey) * around_one(3, self._colour)
        return light.clamp(0, 1) * 255


def _grey(images_NCHW: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=images_NCHW.device, dtype=images_NCHW.dtype).view(1, 3, 1, 1)
    return (images_NCHW * weights).sum(dim=1, keepdim=True)
