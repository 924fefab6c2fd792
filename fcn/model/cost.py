"""What a network costs, as a number that no machine and no load on it changes."""

from __future__ import annotations

from torch import nn

from fcn.model.fcn8s import STRIDE, FCN8s


def gflops(model: FCN8s, height: int, width: int) -> float:
    """Floating-point operations, in 10^9, of the prediction of one image of so many pixels.

    Those of the convolutions, a multiplication and an addition counted as two; all others together are less than a
    hundredth. From the layers' sizes: what torch.utils.flop_counter needs is imported for seconds.
    """
    places = (height + -height % STRIDE) * (width + -width % STRIDE)
    stride, total = 1, 0
    for layer in model.features:
        if isinstance(layer, nn.MaxPool2d):
            stride *= 2
        elif isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * places // stride**2
    # Each input of a transposed convolution meets all weights of its channel, as each output of a convolution does.
    after = {
        8: (model.score_pool3, model.up_pool3),
        16: (model.score_pool4, model.up_pool4),
        32: (model.fc6, model.fc7, model.score_fc7, model.up_fc7),
    }
    total += sum(layer.weight.numel() * places // at**2 for at, layers in after.items() for layer in layers)
    return 2 * total / 1e9
