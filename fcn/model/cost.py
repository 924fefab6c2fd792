"""What a network costs, as a number that no machine and no load on it changes."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from fcn.model.fcn8s import FCN8s, Architecture


def gflops(architecture: Architecture, height: int, width: int) -> float:
    """Floating-point operations, in 10^9, of the prediction of one image of so many pixels.

    Those of convolutions and products of matrices, a multiplication and an addition counted as two, as torch's
    FlopCounterMode has them; all others together are less than a hundredth.
    """
    with torch.device("meta"):
        model = FCN8s(architecture).eval()
        images_NCHW = torch.empty(1, 3, height, width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images_NCHW)
    return counter.get_total_flops() / 1e9
