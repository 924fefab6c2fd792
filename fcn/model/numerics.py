"""How wrong each layer of a network is in bfloat16 on this CPU: measured once, stored, and read by later runs.

    CACHE_DIR/bfloat16/KEY.json   {"machine": {…}, "layers": [{"layer", "output", "gradient", "death"}, …]}

KEY is a hash of the CPU, torch and the environment variables that choose kernels, so that different machines can share
a folder. A file that is damaged or of another machine is ignored. Missing layers are measured in separate processes
(fcn/model/layer_probe.py), under a lock, so that runs which start together measure once; then the file is replaced as a
whole.
"""

import hashlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from torch import nn

from fcn import files
from fcn.model import layer_probe
from fcn.model.fcn8s import Convolution, FCN8s

# The command that measures; its arguments are two paths, of the layers and of the results. Tests replace it.
PROGRAM: tuple[str, ...] = (sys.executable, "-P", layer_probe.__file__)
# Relative to float32's largest value. Correct sums differ by a few roundings: 0.002 to 0.01 has been seen.
TOLERANCE = 0.05
# Kernels are chosen by the shape of one feature map: measuring with more images takes longer and finds nothing more.
MOST_IMAGES = 8
# Makes glibc keep freed memory, which poison() has filled with NaN, for the next tensors. Returned to the system, it
# would come back as zeros, and numbers that a kernel doesn't write would go unnoticed.
_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"}


@dataclass(frozen=True)
class Layer:
    """A layer and the shape of its input."""

    kind: Literal["convolution", "transposed"]
    images: int
    channels: int
    out: int
    kernel: int
    stride: int
    padding: int
    height: int
    width: int

    def __str__(self) -> str:
        size = f"{self.images}x{self.channels}x{self.height}x{self.width}"
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{size} into {self.out}, {self.kind} {self.kernel}x{self.kernel}{stride}"


@dataclass(frozen=True)
class Finding:
    """The measured error of a layer in bfloat16.

    output, gradient: the largest difference from float32, divided by float32's largest value; None: not finite.
    death: how the process that measured the layer failed, empty if it didn't; if it did, both errors are None.
    """

    output: float | None
    gradient: float | None
    death: str = ""

    @property
    def unusable(self) -> bool:
        """Whether the layer can't be used in bfloat16 at all: it crashes, or its errors can't come from rounding."""
        return bool(self.death) or not all(map(_is_computed, (self.output, self.gradient)))

    @property
    def fault(self) -> str:
        """What is wrong with the layer in bfloat16, as the words after "because"; empty if nothing is."""
        if self.death:
            return f"the process that tried it in bfloat16 {self.death}"
        for what, error in (("output", self.output), ("gradient", self.gradient)):
            if error is None or not _is_computed(error):
                return f"its {what} in bfloat16 holds memory that nobody wrote"
            if error > TOLERANCE:
                return f"its {what} in bfloat16 is {error:.0%} off"
        return ""

    @property
    def lasts(self) -> bool:
        """Whether to store it. A process that was killed from outside says nothing about the layer."""
        return not self.death.startswith(_FROM_OUTSIDE)


def _is_computed(error: float | None) -> bool:
    # An error of the size of the largest value, or NaN, can't come from rounding.
    return error is not None and error < 1


_FROM_OUTSIDE = "did not come to an end"
# SIGKILL is also what a system without free memory sends.
_KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)

# All that this process has read or measured, also what couldn't be stored.
known: dict[Layer, Finding] = {}


def layers_of(model: FCN8s, images: int, height: int, width: int) -> dict[str, Layer]:
    """The network's layers by name, for `images` images of this size at once."""
    found = {}
    for name, layer, rows, columns in model.layers(height, width):
        found[name] = Layer(
            kind="convolution" if isinstance(layer, nn.Conv2d) else "transposed",
            images=min(images, MOST_IMAGES),
            channels=layer.in_channels,
            out=layer.out_channels,
            kernel=layer.kernel_size[0],
            stride=layer.stride[0],
            padding=int(layer.padding[0]),
            height=rows,
            width=columns,
        )
    return found


def rounded_by_autocast(model: FCN8s, layers: dict[str, Layer]) -> dict[str, Layer]:
    """The layers that autocast computes in bfloat16: not those that always compute in float32."""
    modules = dict(model.named_modules())
    return {name: layer for name, layer in layers.items() if isinstance(modules[name], Convolution)}


def findings(folder: Path, layers: Iterable[Layer]) -> dict[Layer, Finding]:
    """The finding for each layer, read from `folder`, or measured and stored there. A layer's crash raises nothing."""
    wanted = list(dict.fromkeys(layers))
    if any(layer not in known for layer in wanted):
        known.update(_read(_path(folder)))
    if any(layer not in known for layer in wanted):
        try:
            _measure_missing(folder, wanted)
        except OSError:
            # Nothing can be stored there: only this process knows the findings, and the next one measures again.
            known.update(measure([layer for layer in wanted if layer not in known]))
    return {layer: known[layer] for layer in wanted}


def _measure_missing(folder: Path, wanted: list[Layer]) -> None:
    path = _path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The system releases the lock if the process that holds it dies.
    with FileLock(path.with_suffix(".lock")):
        kept = _read(path)
        known.update(kept)
        known.update(measure([layer for layer in wanted if layer not in known]))
        _write(path, kept | {layer: known[layer] for layer in wanted if known[layer].lasts})


def measure(layers: Sequence[Layer]) -> dict[Layer, Finding]:
    """Measures the layers, each in a process of its own."""
    if not layers:
        return {}
    with tempfile.TemporaryDirectory(prefix="fcn-bfloat16-") as scratch:
        given, results = Path(scratch) / "layers.json", Path(scratch) / "results.json"
        given.write_text(json.dumps([asdict(layer) for layer in layers]), "utf-8")
        try:
            subprocess.run(
                [*PROGRAM, str(given), str(results)],
                env=_ENVIRONMENT | os.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=True,
            )
            found = json.loads(results.read_text("utf-8"))
        except OSError as error:
            death = f"{_FROM_OUTSIDE} (it couldn't be started: {error.strerror})"
        except subprocess.CalledProcessError as error:
            last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            death = f"{_FROM_OUTSIDE} (status {error.returncode}: {last[:200]})"
        else:
            return {layer: _found(entry) for layer, entry in zip(layers, found, strict=True)}
    return {layer: Finding(None, None, death) for layer in layers}


def _found(entry: dict[str, Any]) -> Finding:
    status, said = entry["status"], entry["said"]
    words = f": {said}" if said else ""
    death = ""
    if status > 0:
        death = f"ended with status {status}{words}"
    elif -status in _KILLS:
        death = f"{_FROM_OUTSIDE} ({signal.Signals(-status).name}; out of memory, perhaps)"
    elif status < 0:
        death = f"died of {signal.Signals(-status).name}{words}"
    return Finding(entry["output"], entry["gradient"], death)


def machine() -> dict[str, str]:
    """All that decides which kernels this process computes with."""
    chosen = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("ONEDNN_", "DNNL_")) or name == "ATEN_CPU_CAPABILITY"
    }
    return {**_processor(), "torch": torch.__version__, "told": json.dumps(chosen, sort_keys=True)}


@cache
def _processor() -> dict[str, str]:
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8", "replace").partition("\n\n")[0]
    except OSError:
        return {"model name": platform.processor() or platform.machine()}
    pairs = (line.partition(":") for line in first.splitlines())
    lines = {name.strip(): value.strip() for name, _, value in pairs}
    found = {name: lines[name] for name in wanted if name in lines}
    return found or {"model name": platform.machine(), "cpuinfo": first}


def cpu_name() -> str:
    return _processor().get("model name") or platform.machine()


def _path(folder: Path) -> Path:
    key = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:24]
    return folder / "bfloat16" / f"{key}.json"


def _read(path: Path) -> dict[Layer, Finding]:
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["machine"] != machine():
            return {}
        return {Layer(**entry["layer"]): _finding(entry) for entry in found["layers"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _finding(entry: dict[str, Any]) -> Finding:
    output, gradient = (None if entry[name] is None else float(entry[name]) for name in ("output", "gradient"))
    if any(error is not None and not math.isfinite(error) for error in (output, gradient)):
        raise ValueError("an error that is no number")
    return Finding(output, gradient, str(entry["death"]))


def _write(path: Path, known: dict[Layer, Finding]) -> None:
    entries = [{"layer": asdict(layer), **asdict(finding)} for layer, finding in known.items()]
    text = json.dumps({"machine": machine(), "layers": entries}, indent=1, allow_nan=False)
    with files.atomic_write(path, durable=True) as partial:
        partial.write_text(text, "utf-8")
