"""The network's cost, against torch's own count of operations."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fcn.config import Config
from fcn.model.cost import gflops
from fcn.model.fcn8s import model_on_meta


@pytest.mark.parametrize("size", [(160, 576), (50, 70)])
@pytest.mark.parametrize(("width", "fc_width", "classes"), [(1.0, 4096, 2), (0.25, 96, 11)])
def test_operations_are_those_that_torch_counts(
    size: tuple[int, int], width: float, fc_width: int, classes: int
) -> None:
    config = Config(dataset="scenes", image_size=size, width=width, fc_width=fc_width, weights="none")
    model = model_on_meta(config, classes).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, *size, device="meta"))
    assert gflops(model, *size) == pytest.approx(counter.get_total_flops() / 1e9)


def test_the_published_network_takes_the_published_operations() -> None:
    # VGG16's convolutions take 15.35 * 10^9 multiplications at 224x224 (Simonyan, Zisserman, 2015); fc6, fc7 as
    # convolutions of 7x7 places are the FCN's own.
    config = Config(dataset="scenes", image_size=(224, 224), weights="none")
    fully_connected = 2 * 7 * 7 * (7 * 7 * 512 * 4096 + 4096 * 4096) / 1e9
    assert gflops(model_on_meta(config, 21), 224, 224) - fully_connected == pytest.approx(2 * 15.35, rel=0.01)
