"""The network as it is exported: it takes pixels and normalises them itself, so that no caller can do it wrongly.

Tensor names: N images, C classes, H W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FromPixels(nn.Module):
    """Maps images_NHWC, uint8 RGB, to logits_NCHW: the network applied to (pixel / 255 - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        # persistent=False keeps them out of the state_dict, and so out of weights.safetensors.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images_NHWC: Tensor) -> Tensor:
        normalised: Tensor = (images_NHWC.to(torch.float32) / 255 - self.mean) / self.std
        logits: Tensor = self.network(normalised.permute(0, 3, 1, 2))
        return logits


def to_pixels(images_NCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undoes the normalisation: returns images_NHWC, uint8, exactly the pixels of the cached frames."""
    shape = (1, 3, 1, 1)
    device = images_NCHW.device
    scaled = images_NCHW.float() * torch.tensor(std, device=device).view(shape)
    scaled = (scaled + torch.tensor(mean, device=device).view(shape)) * 255
    return scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
