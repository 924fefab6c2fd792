"""What bfloat16 does to single layers: a wrong kernel may crash the process that tries it, or spoil its memory.

    python -P fcn/model/layer_probe.py LAYERS.json RESULTS.json

LAYERS.json    a list: {"kind", "images", "channels", "out", "kernel", "stride", "padding", "height", "width"}
RESULTS.json   a list: {"output", "gradient", "status", "said"}. The first two are the largest difference from float32
               over float32's largest value, or null where it isn't finite; status is that of the layer's own process,
               0 or the negative signal that killed it; said is the last line of its stderr

Each layer is tried in a child of a process that has imported torch and done nothing else: it finds memory as nobody has
used it, and costs no import. Needs torch alone, so that it starts as fast as torch does; fcn/model/numerics.py runs it.

N images, C channels, H W pixels.
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

MOST_SECONDS = 600  # a layer
# The sizes that a C library keeps apart in lists of its own, in numbers: powers of two up to a mebibyte.
_SMALL = [1 << power for power in range(4, 19)]

Layer = dict[str, Any]
Apply = Callable[[nn.Module, Tensor], Tensor]


def build(layer: Layer) -> nn.Conv2d | nn.ConvTranspose2d:
    kind = nn.Conv2d if layer["kind"] == "convolution" else nn.ConvTranspose2d
    return kind(layer["channels"], layer["out"], layer["kernel"], stride=layer["stride"], padding=layer["padding"])


def apply(module: nn.Module, x_NCHW: Tensor) -> Tensor:
    """As a network does it under autocast."""
    return module(x_NCHW)  # type: ignore[no-any-return]


def measure(layer: Layer, apply: Apply = apply) -> dict[str, float | None]:
    """Errors of the layer's output and of its gradients: of the input, the kernel and the bias.

    All images of the batch are the same one, so that the truth costs a pass of one image in float32.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        module = build(layer)
    module.to_empty(device="cpu")
    size = layer["channels"], layer["height"], layer["width"]
    # Numbers that bfloat16 has: what is left to differ are its sums.
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
    # What a kernel wrote beyond its memory is noticed when memory is next asked for.
    poison()
    errors = [
        # A kernel's gradient sums over the images; output and input have them side by side.
        _error(one, other, 1 if place < 2 else images)
        for place, (one, other) in enumerate(zip(found, truth, strict=True))
    ]
    output, gradient = errors[0], max(errors[1:], key=lambda error: math.inf if math.isnan(error) else error)
    return {"output": _finite(output), "gradient": _finite(gradient)}


def poison(*tensors: Tensor) -> None:
    """Free memory full of NaN: what tensors are made of next, so that what nobody writes is seen.

    tensors: of the sizes that are asked for next; and twice the whole of them in one piece, for the large ones.
    """
    numbers = [tensor.numel() for tensor in tensors]
    exact = [number // part for number in numbers for part in (1, 2) if number <= _SMALL[-1]]
    spoilt = [torch.full((number,), math.nan) for number in (*_SMALL, *exact) for _ in range(4)]
    spoilt.append(torch.full((2 * sum(numbers),), math.nan))
    del spoilt


def _drawn(*shape: int) -> Tensor:
    """Of -1 to 1, in float32, with the digits that bfloat16 keeps."""
    return torch.empty(shape).uniform_(-1, 1).bfloat16().float()


def _error(found: Tensor | None, truth: Tensor | None, times: int) -> float:
    if found is None or truth is None:
        return math.nan
    largest = float(truth.abs().max()) * times
    difference = found.float()
    # The largest of tensors that hold NaN is NaN.
    return float(difference.sub_(truth, alpha=times).abs_().max()) / (largest or 1.0)


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def main(layers: Path, results: Path, apply: Apply = apply) -> None:
    """Tries every layer. apply: what is done with a layer; tests give one that is faulty."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found = [_in_a_child(layer, apply, results) for layer in json.loads(layers.read_text("utf-8"))]
    results.write_text(json.dumps(found), "utf-8")


def _in_a_child(layer: Layer, apply: Apply, results: Path) -> dict[str, Any]:
    found, said = results.with_suffix(".found"), results.with_suffix(".said")
    child = os.fork()
    if child == 0:
        # Whoever stops waiting for this process leaves nothing behind for long, and a crash may leave a lock taken.
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
