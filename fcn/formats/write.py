"""Writes a checkpoint as files that other programs can run: weights, pt2 and ONNX, each loaded again and compared.

    python -m fcn export CHECKPOINT --output DIR

    weights.safetensors, model.pt2, model.onnx   the network; the normalisation is inside pt2 and ONNX
    export.json                                  classes, image size, preprocessing, config, scores, parity
    README.md, samples/*.png                     the model card and sample predictions

The directory is written completely or not at all. Tensor names: N images, C classes, H W pixels.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from fcn.config import Config
from fcn.data.cache import Cache, open_cache
from fcn.data.dataset import VOID
from fcn.data.overlays import side_by_side
from fcn.data.remote.local_copy import url_of
from fcn.device import default_device, with_index
from fcn.errors import ExportError
from fcn.files import check_free, fresh_directory
from fcn.formats.model_card import model_card
from fcn.formats.read import (
    DESCRIPTION,
    FILES,
    FORMAT_VERSION,
    Export,
    FormatName,
    open_network,
    read_export,
)
from fcn.formats.verify import (
    SCORE_TOLERANCE,
    check_score_repeats,
    check_scores_match,
    logits_parity,
    reference_logits,
    score,
    with_normalisation_of,
)
from fcn.model import checkpoint as checkpoints
from fcn.model.checkpoint import Checkpoint
from fcn.model.fcn8s import Architecture
from fcn.model.preprocessing import FromPixels

SAMPLES = 3
# A protobuf file can't exceed 2 GiB; larger weights go into a file beside the graph.
ONNX_BYTES_INSIDE = 1 << 30
OTHER_BYTES = 10_000_000  # at most for the files other than weights: graphs, sample images, README.md


@dataclass(frozen=True)
class Format:
    """file: name in the export. parity: the largest difference from the checkpoint's logits, divided by their range."""

    file: str
    parity: float


@dataclass(frozen=True)
class Exported:
    """The result of export().

    formats: by name. metrics: of the exported weights on the validation split, "val/...". test_metrics: on the test
    split, "test/...". Both are empty if the run has no such split.
    """

    formats: dict[str, Format]
    metrics: dict[str, float]
    test_metrics: dict[str, float]
    # A command to try the export with; {output} stands for its directory.
    usage: ClassVar[str] = "python -m fcn predict {output} IMAGES... --output masks"


def export(checkpoint_dir: Path, output_dir: Path, *, device: torch.device | None = None) -> Exported:
    """Writes a checkpoint's network into output_dir in three formats, and checks that each computes the same.

    device: where the splits are scored; None: a GPU if there is one. Logits are always compared on the CPU.
    Raises InputError if output_dir isn't new or empty or can't be written, the disk is full, or the checkpoint or the
    data can't be read; ExportError if a format's logits or scores differ from the checkpoint's (fcn/formats/verify.py).
    """
    device = with_index(device or default_device())
    check_free(output_dir)
    checkpoint = checkpoints.load(checkpoint_dir)
    cache = open_cache(checkpoint.config)
    bytes_needed = len(FILES) * checkpoints.bytes_of(checkpoint.weights) + OTHER_BYTES
    with fresh_directory(output_dir, bytes_needed=bytes_needed) as partial:
        return _write(checkpoint, cache, partial, device)


def _write(checkpoint: Checkpoint, cache: Cache, directory: Path, device: torch.device) -> Exported:
    shutil.copyfile(checkpoint.directory / FILES["safetensors"], directory / FILES["safetensors"])
    description = _description(checkpoint, cache)
    _describe(directory, description)
    config = with_normalisation_of(checkpoint.directory, checkpoint.config)
    opened = read_export(directory)
    frames = _sample_frames(cache)
    pixels_NHWC = np.ascontiguousarray(cache.images[frames])
    reference = reference_logits(checkpoint, pixels_NHWC)

    formats: dict[str, Format] = {}
    scores: dict[str, dict[str, float]] = {}
    for name, file in FILES.items():
        if name == "pt2":  # after the weights have been checked, since tracing is slow
            _write_graphs(checkpoint, directory)
        # In a function of its own, so that one format's weights are freed before the next are loaded.
        parity, scores[name] = _verify(opened, name, pixels_NHWC, reference, cache, config, device)
        formats[name] = Format(file, parity)
        check_scores_match(f"{name}, scored again in float32", scores[name], checkpoint.metrics, SCORE_TOLERANCE)
        if name == "safetensors" and scores[name]:
            check_score_repeats(checkpoint, cache, config, device, scores[name])
    test: dict[str, float] = {}
    if cache.dataset.splits["test"]:  # last, so that a failed export doesn't use the test split
        network = open_network(opened, device=str(device))
        test = score(network, opened, cache, "test", config, device)

    description["formats"] = {name: asdict(formats[name]) | {"scores": scores[name]} for name in formats}
    description["test_metrics"] = test
    description["samples"] = _write_samples(cache, frames, reference, opened, directory / "samples")
    _describe(directory, description)
    (directory / "README.md").write_text(model_card(description), "utf-8")
    return Exported(formats, scores["safetensors"], test)


def _verify(
    opened: Export,
    name: FormatName,
    pixels_NHWC: npt.NDArray[np.uint8],
    reference: npt.NDArray[np.float32],
    cache: Cache,
    config: Config,
    device: torch.device,
) -> tuple[float, dict[str, float]]:
    """Parity and validation score of a format, loaded from disk. Raises ExportError.

    The score is empty if the run has no validation split: then only the logits are compared.
    """
    network = open_network(opened, name)
    parity = logits_parity(name, network, pixels_NHWC, reference)
    if not cache.dataset.splits["val"]:
        return parity, {}
    if device.type != "cpu":
        network = open_network(opened, name, str(device))
    return parity, score(network, opened, cache, "val", config, device)


def _write_graphs(checkpoint: Checkpoint, directory: Path) -> None:
    """Writes model.pt2 and model.onnx: uint8 images_NHWC -> float32 logits_NCHW, for any N and the run's H and W."""
    network = checkpoints.build(checkpoint).requires_grad_(False)
    model = FromPixels(network, checkpoint.normalisation.mean, checkpoint.normalisation.std).eval()
    # Two images, since torch.export would treat a batch size of one as a constant.
    example = torch.zeros((2, *checkpoint.config.image_size, 3), dtype=torch.uint8)
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=(batch,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it holds this machine's paths
    torch.export.save(program, directory / FILES["pt2"])
    onnx = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=(batch,),
    )
    if onnx is None:
        raise ExportError("torch.onnx.export returned nothing: install the version of onnxscript that fits this torch")
    for graph_node in onnx.model.graph:
        graph_node.metadata_props.clear()
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    # External data goes to model.onnx.data, a relative path: the directory can be moved.
    onnx.save(directory / FILES["onnx"], external_data=size > ONNX_BYTES_INSIDE)


def _sample_frames(cache: Cache) -> list[int]:
    """SAMPLES validation frames, or training frames if there are none, spread evenly; repeated if there are too few."""
    frames = cache.dataset.splits["val"] or cache.dataset.splits["train"]
    return [frames[round(place)] for place in np.linspace(0, len(frames) - 1, SAMPLES)]


def _write_samples(
    cache: Cache, frames: list[int], logits_NCHW: npt.NDArray[np.float32], opened: Export, directory: Path
) -> list[str]:
    directory.mkdir()
    names: dict[str, None] = {}
    for frame, logits_CHW in zip(frames, logits_NCHW, strict=True):
        name = re.sub(r"[^\w.-]", "_", cache.dataset.frames[frame].name) + ".png"
        mask = logits_CHW.argmax(axis=0)
        image = side_by_side(np.asarray(cache.images[frame]), mask, np.asarray(cache.labels[frame]), opened.classes)
        image.save(directory / name)
        names[f"samples/{name}"] = None
    return list(names)


def _description(checkpoint: Checkpoint, cache: Cache) -> dict[str, Any]:
    config = checkpoint.config
    height, width = config.image_size
    return {
        "format_version": FORMAT_VERSION,
        "model": "FCN-8s on VGG16",
        "classes": list(checkpoint.classes),
        "labels": {str(index): name for index, name in enumerate(checkpoint.classes)} | {str(VOID): "void"},
        "image_size": [height, width],
        "normalisation": asdict(checkpoint.normalisation),
        "network": asdict(Architecture.of(config, len(checkpoint.classes))),
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["batch", height, width, 3],
            "meaning": "RGB pixels resized to image_size: bilinear, antialiased (Pillow's BILINEAR). "
            "model.pt2 and model.onnx normalise inside; the bare weights need (pixel / 255 - mean) / std.",
        },
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": ["batch", len(checkpoint.classes), height, width],
            "meaning": "argmax over axis 1 is the class of each pixel, softmax over it the probabilities.",
        },
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
        "sequences": {split: list(names) for split, names in checkpoint.sequences.items()},
        "frames": {split: len(indices) for split, indices in cache.dataset.splits.items()},
        "data_url": url_of(config),
        # Without this machine's paths, which mean nothing elsewhere, and without an address that whoever trains with
        # this config would fetch from unasked.
        "config": config.model_dump(mode="json") | {"data_dir": None, "cache_dir": None},
    }


def _describe(directory: Path, description: Mapping[str, Any]) -> None:
    text = json.dumps(description, indent=1, allow_nan=False)
    (directory / DESCRIPTION).write_text(text + "\n", "utf-8")
