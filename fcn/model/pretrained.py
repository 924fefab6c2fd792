"""A network's initial weights, from ImageNet, an earlier run or a file, and the normalisation that they expect.

`python -m fcn train --set weights=PATH` takes
- an export or a checkpoint directory (weights.safetensors beside export.json or config.json),
- a .safetensors file from such a directory,
- a .pth or .safetensors file of a VGG16 with the parameter names of torchvision or timm. If its images were not
  normalised as torchvision does it, weights_normalisation says how.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fcn.errors import InputError
from fcn.model.weight_files import (
    IMAGENET_URL,
    check_imagenet_file,
    imagenet_file,
    read_tensors,
    some_names,
    weights_file,
)

if TYPE_CHECKING:
    from fcn.config import Config
    from fcn.model.fcn8s import FCN8s

_PARTS = ("weight", "bias")
_DECODER = ("score_", "up_")
_FC = ("fc6", "fc7")
# VGG16's convolutions, by their index in features.
_BODY = tuple(f"features.{index}" for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
# VGG16's fully connected layers, as torchvision, its first versions and timm name them.
_CLASSIFIERS = (
    ("classifier.0", "classifier.3"),
    ("classifier.1", "classifier.4"),
    ("pre_logits.fc1", "pre_logits.fc2"),
)
_FIRST = "features.0.weight"


@dataclass(frozen=True)
class Normalisation:
    """(pixel - mean) / std in each channel, red, green, blue; pixels are 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
# "features" and "caffe_bgr" were trained on pixels of 0..255 minus a mean. The mean can't be moved into the first
# layer's bias, because convolutions pad with zeros after it is subtracted.
_NAMED = {
    "imagenet": IMAGENET,
    # torchvision's IMAGENET1K_FEATURES
    "features": Normalisation((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
    # the original VGG16, from Caffe, whose first convolution takes blue, green, red
    "caffe_bgr": Normalisation((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}


def normalisation(config: Config) -> Normalisation:
    """The normalisation that config.weights were trained with; PLAIN if the network standardises each image itself.

    Raises InputError if the file is missing, or if both it and config.weights_normalisation say how.
    """
    if config.standardise == "image":
        return PLAIN
    if config.weights == "imagenet":
        return IMAGENET
    if config.weights == "none":
        return PLAIN
    described = _description(weights_file(config.weights))
    if described is None:
        # load_weights() rejects a file for which "auto" can't know it.
        return _NAMED.get(config.weights_normalisation, IMAGENET)
    if config.weights_normalisation != "auto":
        raise InputError(
            f"weights_normalisation: {described[0]} says how the images were normalised, "
            f"got {config.weights_normalisation} besides: leave it at auto"
        )
    return described_normalisation(*described)


def described_normalisation(path: Path, description: dict[str, Any]) -> Normalisation:
    """The normalisation in the contents of an export.json or a config.json. Raises InputError if there is none."""
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
    """The export.json or config.json beside a file of weights, and its contents; None if there is neither."""
    if weights.suffix == ".pth":  # runs write no .pth, so a file beside it is not about it
        return None
    for name in ("export.json", "config.json"):
        path = weights.parent / name
        if path.is_file():
            return path, _json(path)
    return None


def _config_fields(weights: Path) -> tuple[Path, dict[str, Any]] | None:
    """The export.json or config.json beside a file of weights, and the config fields that it gives of the network."""
    described = _description(weights)
    if described is None:
        return None
    path, found = described
    # An export has the network's fields under "network", a checkpoint under "config".
    return path, {**found.get("config", {}), **found.get("network", {})}


def _check_standardise(config: Config) -> None:
    """Raises InputError if an earlier run trained the weights with another standardise than the config's."""
    described = _config_fields(weights_file(config.weights))
    if described is None:
        return
    path, fields = described
    was = fields.get("standardise", config.standardise)
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
    """Checks that config.weights are on this machine, complete, and of a known network; downloads ImageNet's.

    Raises InputError that says what to download, where to put it, or what is wrong with the file.
    """
    if config.weights == "none":
        return
    if config.weights == "imagenet":
        check_imagenet_file()
    else:
        normalisation(config)
        _check_standardise(config)
    _first_weights(config)


def load_weights(model: FCN8s, config: Config) -> frozenset[str]:
    """Copies config.weights into the model. Returns the names of the parameters that were copied.

    The decoder is not copied if the file has another number of classes; fc6 and fc7 are not if the file is a VGG16
    without them or with another fc_width. Every other layer must fit. Raises InputError if the weights can't be loaded
    or don't fit.
    """
    if config.weights == "none":
        return frozenset()
    path, found, is_vgg16 = _first_weights(config)
    may_differ: tuple[str, ...] = _DECODER
    if is_vgg16 and ("fc6.weight" not in found or model.fc6.out_channels != found["fc6.weight"].shape[0]):
        may_differ += _FC
    given = set()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in found and found[name].shape == tensor.shape:
                _check_finite(name, found[name], path)
                tensor.copy_(found[name])
                given.add(name)
            elif not name.startswith(may_differ):
                raise InputError(_other_shape(path, name, tensor, found))
    # A layer counts only if both its weight and its bias were copied.
    return frozenset(name for name in given if {f"{name.rsplit('.', 1)[0]}.{part}" for part in _PARTS} <= given)


def missing_layer_warnings(config: Config, given: frozenset[str]) -> tuple[str, ...]:
    """Sentences for a person on layers that config.weights could be expected to give and don't."""
    if config.weights == "none" or "fc6.weight" in given:
        return ()
    return (
        f"weights: {config.weights} have no fc6 and fc7 of fc_width = {config.fc_width}: "
        "these two start from random numbers",
    )


def _first_weights(config: Config) -> tuple[Path, dict[str, Tensor], bool]:
    """The file, its tensors by their names in FCN8s, and whether it is a plain VGG16. Raises InputError."""
    path = imagenet_file() if config.weights == "imagenet" else weights_file(config.weights)
    read = read_tensors(path)
    found = _without_prefix(read)
    is_vgg16 = "fc6.weight" not in found
    if is_vgg16:
        found = _as_convolutions(found, path)
    needed = [*_BODY, *(_FC if any(name.startswith(_FC) for name in found) else ())]
    missing = [name for layer in needed for part in _PARTS if (name := f"{layer}.{part}") not in found]
    if missing:
        raise InputError(
            f"weights: {path} is neither a VGG16 nor a network of this program: it must have {some_names(missing)}, "
            f"got {some_names(read, 6)}: give {IMAGENET_URL}, an export or a checkpoint"
        )
    _check_says_normalisation(config, path, is_vgg16 and "fc6.weight" in found)
    if config.weights_normalisation == "caffe_bgr":
        # The network gets red, green, blue.
        found[_FIRST] = found[_FIRST].flip(1)
    return path, found, is_vgg16


def _without_prefix(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without a wrapper's prefix in their names, such as DataParallel's "module." or "model."."""
    prefix = next((name.removesuffix(_FIRST) for name in found if name.endswith(f".{_FIRST}")), "")
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def _as_convolutions(vgg16: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """VGG16's tensors with its fully connected layers as convolutions of 7x7 and 1x1, which fit any image size."""
    found = {name: tensor for name, tensor in vgg16.items() if name.startswith("features.")}
    classifier = next((layers for layers in _CLASSIFIERS if f"{layers[0]}.weight" in vgg16), None)
    if classifier is None:
        return found
    try:
        for layer, convolution, size in zip(classifier, _FC, (7, 1), strict=True):
            weight = vgg16[f"{layer}.weight"]
            found[f"{convolution}.weight"] = weight.reshape(weight.shape[0], -1, size, size)
            found[f"{convolution}.bias"] = vgg16[f"{layer}.bias"]
    except (KeyError, RuntimeError) as error:
        raise InputError(f"weights: {path} is no VGG16 of torchvision's layout ({error})") from error
    if found["fc6.weight"][0].isnan().all():  # how torchvision marks that IMAGENET1K_FEATURES has no such layers
        return {name: tensor for name, tensor in found.items() if not name.startswith(_FC)}
    return found


def _check_says_normalisation(config: Config, path: Path, whole_vgg16: bool) -> None:
    """Raises InputError if nothing says how the weights' images were normalised."""
    if whole_vgg16 or config.weights_normalisation != "auto" or _description(path) is not None:
        return
    of_a_run = "" if path.suffix == ".pth" else ", or keep the export.json or config.json of its run beside it"
    raise InputError(
        f"weights: {path} doesn't say how its images were normalised: set weights_normalisation = features "
        f"(torchvision's IMAGENET1K_FEATURES), caffe_bgr (the original VGG16) or imagenet{of_a_run}"
    )


def _check_finite(name: str, tensor: Tensor, path: Path) -> None:
    # Minimum and maximum are NaN if any number is, and unlike isfinite() of all numbers take no memory.
    if not tensor.is_floating_point() or not all(extreme.isfinite() for extreme in tensor.aminmax()):
        raise InputError(
            f"weights: {path}: {name} must hold finite floating-point numbers, got {tensor.dtype} with others: "
            "fetch or export it again"
        )


def _other_shape(path: Path, name: str, wanted: Tensor, found: dict[str, Tensor]) -> str:
    got = tuple(found[name].shape) if name in found else "nothing"
    place = f"weights: {path}: {name} must have the shape {tuple(wanted.shape)}, got {got}"
    first = found[_FIRST].shape
    if first[1:] != (3, 3, 3):
        return f"{place}: it is of another network; give a VGG16, an export or a checkpoint"
    widths = {"width": round(first[0] / 64, 6)}
    if "fc6.weight" in found:
        widths["fc_width"] = found["fc6.weight"].shape[0]
    if described := _config_fields(path):  # exact, where the channels were rounded
        widths |= {key: described[1][key] for key in widths if key in described[1]}
    return f"{place}: set {' and '.join(f'{key} = {value}' for key, value in widths.items())}, those of the weights"
