"""Reads an export: what export.json says, and each of its formats as a function from pixels to logits.

Imports numpy and, depending on the format, torch with safetensors, or onnxruntime; nothing that only training needs.
Only "pt2" may unpickle, and fcn opens a pt2 file only right after writing it.
Tensor names: N images, C classes, H W pixels.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fcn.errors import InputError

FORMAT_VERSION = 1
DESCRIPTION = "export.json"
FormatName = Literal["safetensors", "pt2", "onnx"]
FILES: dict[FormatName, str] = {
    "safetensors": "weights.safetensors",
    "pt2": "model.pt2",
    "onnx": "model.onnx",
}

# uint8 RGB (N, H, W, 3) at the export's image size -> float32 logits (N, C, H, W)
Network = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Export:
    """The contents of export.json."""

    directory: Path
    classes: tuple[str, ...]  # in channel order
    image_size: tuple[int, int]  # height, width in pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    network: dict[str, Any]  # fields of fcn.model.fcn8s.Architecture
    config: dict[str, Any]  # fields of the run's fcn.config.Config
    sequences: dict[str, tuple[str, ...]]  # names, by split
    frames: dict[str, int]  # number, by split
    metrics: dict[str, float]  # as logged during training
    epoch: int  # that the weights are of

    @property
    def positive(self) -> int | None:
        """Channel of the class that is scored against the background; None if there are several classes."""
        if len(self.classes) == 2 and "background" in self.classes:
            return 1 - self.classes.index("background")
        return None


def read_export(directory: Path) -> Export:
    """Raises InputError if the directory is no export, is damaged, or is of another format version."""
    path = directory / DESCRIPTION
    try:
        found = json.loads(path.read_text("utf-8"))
        version = found["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path}: format_version must be {FORMAT_VERSION}, got {version!r}: "
                "read it with the version of fcn that wrote it"
            )
        height, width = (int(side) for side in found["image_size"])
        return Export(
            directory=directory,
            classes=tuple(str(name) for name in found["classes"]),
            image_size=(height, width),
            mean=tuple(float(value) for value in found["normalisation"]["mean"]),
            std=tuple(float(value) for value in found["normalisation"]["std"]),
            network=dict(found["network"]),
            config=dict(found["config"]),
            sequences={split: tuple(names) for split, names in found["sequences"].items()},
            frames={split: int(count) for split, count in found["frames"].items()},
            metrics={name: float(value) for name, value in found["metrics"].items()},
            epoch=int(found["epoch"]),
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{directory} is no export: it has no {DESCRIPTION}; "
            "give a directory that python -m fcn export or tuner.best wrote"
        ) from error
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}): export the model again") from error


def open_network(export: Export, format: FormatName = "safetensors", device: str = "cpu") -> Network:
    """One format of the export as a function from pixels to logits, for any batch size.

    device: for torch. onnxruntime uses a GPU whenever it supports one.
    Raises InputError if the file is missing, damaged, or does not fit export.json.
    """
    path = export.directory / FILES[format]
    if not path.is_file():
        raise InputError(f"{path} is missing: export the model again")
    if format == "onnx":
        return _open_onnx(path)
    return _open_pt2(path, device) if format == "pt2" else _open_weights(export, path, device)


def _open_weights(export: Export, path: Path, device: str) -> Network:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from fcn.model.fcn8s import Architecture, FCN8s
    from fcn.model.preprocessing import FromPixels

    try:
        # On "meta", tensors have shapes but no memory: 134 million weights are neither initialised nor copied.
        with torch.device("meta"):
            network = FCN8s(Architecture(**export.network))
        network.load_state_dict(load_file(path, device=device), assign=True)
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} can't be read, or isn't of this export ({reason}): export the model again") from error
    model = FromPixels(network, export.mean, export.std).to(device).eval()

    def run(images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = model(_tensor(images_NHWC, device)).cpu().numpy()
        return logits

    return run


def _open_pt2(path: Path, device: str) -> Network:
    import torch
    from torch.export.passes import move_to_device_pass

    # torch.export.load may unpickle, so `fcn predict` does not offer this format: only for files that fcn just wrote.
    try:
        program = torch.export.load(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}): export the model again") from error
    model = move_to_device_pass(program, device).module()

    def run(images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = model(_tensor(images_NHWC, device)).cpu().numpy()
        return logits

    return run


def _tensor(images_NHWC: npt.NDArray[np.uint8], device: str) -> Any:
    import torch

    return torch.from_numpy(images_NHWC).to(device)


def _open_onnx(path: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about its own changes to the graph
    here = onnxruntime.get_available_providers()
    wanted = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in here]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=wanted)
    except Exception as error:  # onnxruntime's errors have no narrower common class
        raise InputError(f"{path} can't be read ({error}): export the model again") from error
    name = session.get_inputs()[0].name

    def run(images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = session.run(None, {name: images_NHWC})[0]
        return logits

    return run
