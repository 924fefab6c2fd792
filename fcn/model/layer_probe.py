"""Measures the error of single layers in bfloat16, each in a process of its own.

Some CPUs' kernels are wrong: they give wrong numbers, crash the process or write beyond their memory.

    python -P fcn/model/layer_probe.py LAYERS.json RESULTS.json

LAYERS.json    a list: {"kind", "images", "channels", "out", "kernel", "stride", "padding", "height", "width"}
RESULTS.json   a list: {"output", "gradient", "status", "said"}. output and gradient: the largest difference from
               float32, divided by float32's largest value; null if it isn't finite. status: the exit status of the
               layer's process, negative for the signal that killed it. said: the last line of its stderr

Each layer is tried in a child that is forked from a process which has imported torch and nothing more: the child finds
unused memory and needs no time to import. Only torch is imported, so that this starts fast; fcn/model/numerics.py runs
it.

Tensor names: N images, C channels, H W pixels.
"""

import json
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MOST_SECONDS = 600  # for one layer
# C libraries keep freed blocks in lists by size: these are powers of two up to 1 MiB, counted in float32 numbers.
_SMALL = [1 << power for power in range(4, 19)]

Layer = dict[str, Any]
Apply = Callable[[nn.Module, Tensor], Tensor]


def build(layer: Layer) -> nn.Conv2d | nn.ConvTranspose2d:
    kind = nn.Conv2d if layer["kind"] == "convolution" else nn.ConvTranspose2d
    return kind(layer["channels"], layer["out"], layer["kernel"], stride=layer["stride"], padding=layer["padding"])


def apply(module: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Applies the layer as a network does under autocast."""
    return module(x_NCHW)  # type: ignore[no-any-return]


def measure(layer: Layer, apply: Apply = apply) -> dict[str, float | None]:
    """The error of the layer's output, and the largest of its gradients by input, kernel and bias.

    All images of the batch are equal, so that the float32 reference needs a pass of one image only.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        module = build(layer)
    module.to_empty(device="cpu")
    size = layer["channels"], layer["height"], layer["width"]
    # Inputs and weights that bfloat16 represents exactly, so that only its sums can differ.
    x_1CHW = _drawn(1, *size).requires_grad_()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(_drawn(*parameter.shape)).mul_(2.0 ** -round(math.log2(layer["kernel"] ** 2) / 2))
    y_1CHW = module(x_1CHW)
    slope_1CHW = _drawn(*y_1CHW.shape)
    torch.autograd.backward(y_1CHW, slope_1CHW)
    truth = [y_1CHW.detach(), x_1CHW.grad, *(parameter.grad for parameter in module.parameters())]
    module.zero_grad()
    del y_1CHW

    images = layer["images"]
    x_NCHW = x_1CHW.detach().to(torch.bfloat16).repeat(images, 1, 1, 1).requires_grad_()
    slope_NCHW = slope_1CHW.repeat(images, 1, 1, 1)
    poison(x_NCHW, slope_NCHW, *module.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_NCHW = apply(module, x_NCHW)
    torch.autograd.backward(y_NCHW, slope_NCHW.to(y_NCHW.dtype))
    found = [y_NCHW.detach(), x_NCHW.grad, *(parameter.grad for parameter in module.parameters())]
    # If a kernel wrote beyond its memory, the next allocations crash.
    poison()
    errors = [
        # The gradients by kernel and bias are sums over the images; output and input gradient are per image.
        _error(one, other, 1 if place < 2 else images)
        for place, (one, other) in enumerate(zip(found, truth, strict=True))
    ]
    output, gradient = errors[0], max(errors[1:], key=lambda error: math.inf if math.isnan(error) else error)
    return {"output": _finite(output), "gradient": _finite(gradient)}


def poison(*tensors: Tensor) -> None:
    """Fills free memory with NaN, so that numbers which a kernel should write and doesn't show up in its result.

    The blocks have the sizes of `tensors`, which are allocated next, and one is twice as large as all of them together.
    """
    numbers = [tensor.numel() for tensor in tensors]
    exact = [number // part for number in numbers for part in (1, 2) if number <= _SMALL[-1]]
    blocks = [torch.full((number,), math.nan) for number in (*_SMALL, *exact) for _ in range(4)]
    blocks.append(torch.full((2 * sum(numbers),), math.nan))
    del blocks


def _drawn(*shape: int) -> Tensor:
    """Random float32 numbers from -1 to 1 that bfloat16 represents exactly."""
    return torch.empty(shape).uniform_(-1, 1).bfloat16().float()


def _error(found: Tensor | None, truth: Tensor | None, times: int) -> float:
    if found is None or truth is None:
        return math.nan
    largest = float(truth.abs().max()) * times
    difference = found.float()
    # If a tensor holds NaN, its maximum is NaN.
    return float(difference.sub_(truth, alpha=times).abs_().max()) / (largest or 1.0)


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def main(layers: Path, results: Path, apply: Apply = apply) -> None:
    """Measures every layer and writes RESULTS.json. apply: applies a layer; tests pass a faulty one."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found = [_in_a_child(layer, apply, results) for layer in json.loads(layers.read_text("utf-8"))]
    results.write_text(json.dumps(found), "utf-8")


def _in_a_child(layer: Layer, apply: Apply, results: Path) -> dict[str, Any]:
    found, said = results.with_suffix(".found"), results.with_suffix(".said")
    child = os.fork()
    if child == 0:
        # An alarm ends this child if its parent is gone, or if a crash left a lock that it waits for.
        signal.alarm(MOST_SECONDS)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        status = 1
        try:
            found.write_text(json.dumps(measure(layer, apply)), "utf-8")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors = {"output": None, "gradient": None} if status else json.loads(found.read_text("utf-8"))
    last = said.read_text("utf-8", "replace").strip().rpartition("\n")[2]
    return {**errors, "status": status, "said": last[:200]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
