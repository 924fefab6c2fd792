"""Where a network's first weights come from: ImageNet, an earlier run, a file; and their normalisation.

`python -m fcn.train --set weights=PATH` takes
- an export or a checkpoint directory (weights.safetensors beside export.json or config.json),
- a .safetensors file from such a directory, or one with VGG16's names,
- a .pth file of torchvision's VGG16, read without unpickling code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fcn.errors import InputError

if TYPE_CHECKING:
    from fcn.config import Config
    from fcn.model import FCN8s

IMAGENET_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
IMAGENET_HASH = "397923af"  # the first digits of the file's SHA-256
# VGG16's classifier, as fully connected layers, and the convolutions it becomes.
_CLASSIFIER = {"classifier.0": "fc6", "classifier.3": "fc7"}
_PARTS = ("weight", "bias")
_DECODER = ("score_", "up_")


@dataclass(frozen=True)
class Normalisation:
    """Per channel, red, green, blue, on pixels of 0..1: (pixel - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def normalisation(config: Config) -> Normalisation:
    """What config.weights were trained with. Raises InputError where a path doesn't say it.

    PLAIN where the network standardises each image itself, whatever the weights.
    """
    if config.standardise == "image":
        return PLAIN
    if config.weights == "imagenet":
        return IMAGENET
    if config.weights == "none":
        return PLAIN
    path = _weights_file(config.weights)
    if path.suffix == ".pth":
        return IMAGENET
    if described := _description(path):
        return described_normalisation(*described)
    if "classifier.0.weight" in _names(path):
        return IMAGENET
    raise InputError(
        f"weights: {path} doesn't say how its images were normalised: "
        "keep the export.json or config.json of its run beside it"
    )


def described_normalisation(path: Path, description: dict[str, Any]) -> Normalisation:
    """From the contents of an export.json or a config.json. Raises InputError where they don't say it."""
    try:
        found = description["normalisation"]
        (r_mean, g_mean, b_mean), (r_std, g_std, b_std) = found["mean"], found["std"]
        return Normalisation((float(r_mean), float(g_mean), float(b_mean)), (float(r_std), float(g_std), float(b_std)))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: normalisation must be mean and std of three channels ({error!r}): "
            "choose another export or checkpoint"
        ) from error


def _description(weights: Path) -> tuple[Path, dict[str, Any]] | None:
    """The export.json or config.json beside a file of weights, and what it says; None where there is neither."""
    for name in ("export.json", "config.json"):
        path = weights.parent / name
        if path.is_file():
            return path, _json(path)
    return None


def _check_standardise(config: Config) -> None:
    """Raises InputError where an earlier run's weights are used to other images than config.standardise gives."""
    described = _description(_weights_file(config.weights))
    if described is None:
        return
    path, found = described
    # An export says it of its network, a checkpoint in its config.
    was = {**found.get("config", {}), **found.get("network", {})}.get("standardise", config.standardise)
    if was != config.standardise:
        raise InputError(
            f"standardise: {path} says that the weights were trained with {was!r}, got {config.standardise!r}: "
            f"set standardise = {was}"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): choose another export or checkpoint") from error


def fetch_weights(config: Config) -> None:
    """Makes sure, before anything is trained, that config.weights are on this machine and can be read.

    Raises InputError: what to download, where to put it, or what is wrong with the file.
    """
    if config.weights == "imagenet":
        imagenet_file()
    elif config.weights != "none":
        normalisation(config)
        _check_standardise(config)
        _read(_weights_file(config.weights))


def imagenet_file() -> Path:
    """torchvision's VGG16 (IMAGENET1K_V1, 528 MB), downloaded once a machine."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_URL.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Its temporary name is random and its last step a rename: two runs may do this at once.
        torch.hub.download_url_to_file(IMAGENET_URL, str(path), IMAGENET_HASH, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"weights = imagenet need {IMAGENET_URL}, which can't be downloaded ({error}): "
            f"fetch it on a machine with network and put it at {path}, or set weights = none"
        ) from error
    return path


def load_weights(model: FCN8s, config: Config) -> frozenset[str]:
    """Copies config.weights into the model; returns the names of the parameters that it got.

    The decoder is left where the file has another number of classes, and fc6 and fc7 where VGG16's meet
    another fc_width; every other layer must fit. Raises InputError where they can't be had or don't fit.
    """
    if config.weights == "none":
        return frozenset()
    path = imagenet_file() if config.weights == "imagenet" else _weights_file(config.weights)
    found = _read(path)
    may_differ: tuple[str, ...] = _DECODER
    if "classifier.0.weight" in found:
        found = _as_convolutions(found, path)
        if model.fc6.out_channels != found["fc6.weight"].shape[0]:
            may_differ += ("fc6.", "fc7.")
    given = set()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in found and found[name].shape == tensor.shape:
                tensor.copy_(found[name])
                given.add(name)
            elif not name.startswith(may_differ):
                shape = tuple(found[name].shape) if name in found else "nothing"
                raise InputError(
                    f"weights: {path}: {name} must have the shape {tuple(tensor.shape)}, got {shape}: "
                    "set width and fc_width to those of the weights"
                )
    # A layer is given whole or not at all.
    return frozenset(name for name in given if {f"{name.rsplit('.', 1)[0]}.{part}" for part in _PARTS} <= given)


def _as_convolutions(vgg16: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """VGG16's fully connected layers see 7x7 and 1x1 pixels: as convolutions they slide over any image."""
    found = {name: tensor for name, tensor in vgg16.items() if name.startswith("features.")}
    try:
        for linear, convolution in _CLASSIFIER.items():
            size = 7 if convolution == "fc6" else 1
            weight = vgg16[f"{linear}.weight"]
            found[f"{convolution}.weight"] = weight.view(weight.shape[0], -1, size, size)
            found[f"{convolution}.bias"] = vgg16[f"{linear}.bias"]
    except (KeyError, RuntimeError) as error:
        raise InputError(f"weights: {path} is no VGG16 of torchvision's layout ({error})") from error
    return found


def _weights_file(weights: str) -> Path:
    path = Path(weights).expanduser()
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise InputError(
            f"weights: {path} is no file; give imagenet, none, a directory of an export or a checkpoint, "
            "a .safetensors file or a .pth file"
        )
    if path.suffix not in {".safetensors", ".pth"}:
        raise InputError(f"weights: {path} must end in .safetensors or .pth, got {path.suffix or 'no suffix'!r}")
    return path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, UnpicklingError, SafetensorError) as error:
        raise InputError(
            f"weights: {path} can't be read ({str(error).splitlines()[0]}): fetch or export it again"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise InputError(f"weights: {path} must hold tensors by name, got {type(found).__name__}")
    return found


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise InputError(f"weights: {path} can't be read ({error}): fetch or export it again") from error
