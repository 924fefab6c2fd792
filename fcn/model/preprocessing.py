"""The network as it is exported: pixels in, logits out, the normalisation inside, out of harm's way.

N images, C classes, H W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FromPixels(nn.Module):
    """network on images_NHWC, uint8 RGB: (pixel / 255 - mean) / std, then logits_NCHW."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        # Apart from the weights: the buffers' names would otherwise land in weights.safetensors.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images_NHWC: Tensor) -> Tensor:
        normalised: Tensor = (images_NHWC.to(torch.float32) / 255 - self.mean) / self.std
        logits: Tensor = self.network(normalised.permute(0, 3, 1, 2))
        return logits


def to_pixels(images_NCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undoes the normalisation: uint8 images_NHWC, exactly the pixels that a cached frame held."""
    shape = (1, 3, 1, 1)
    device = images_NCHW.device
    scaled = images_NCHW.float() * torch.tensor(std, device=device).view(shape)
    scaled = (scaled + torch.tensor(mean, device=device).view(shape)) * 255
    return scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
