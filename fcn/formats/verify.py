"""Checks that an exported format computes what its checkpoint computes: by its logits and its validation score.

Tensor names: N images, C classes, H W pixels.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn.config import Config
from fcn.data.cache import Cache
from fcn.errors import ExportError
from fcn.evaluation.scoring import evaluate
from fcn.formats.read import FILES, Export, FormatName, Network
from fcn.model import checkpoint as checkpoints
from fcn.model.checkpoint import Checkpoint
from fcn.model.precision import autocast, set_precision
from fcn.model.preprocessing import to_pixels

# Relative to the logits' range: more than another library's convolutions differ by, far less than changes a mask.
LOGITS_TOLERANCE = 1e-3
# Scored again in the run's precision, scores repeat; those of a bfloat16 run differ a little in float32.
SAME_PRECISION_TOLERANCE, SCORE_TOLERANCE = 1e-3, 0.01
SCORES = ("val/mean_iou", "val/pixel_accuracy", "val/max_f1")  # and the IoU of the one class
# About ten frames of 160x576: memory stays small whatever the batch size of the run.
PIXELS_AT_ONCE = 1_000_000


def reference_logits(checkpoint: Checkpoint, pixels_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The checkpoint's logits for these frames, computed in float32 on the CPU."""
    network = checkpoints.build(checkpoint)
    mean, std = (
        np.array(values, np.float32) for values in (checkpoint.normalisation.mean, checkpoint.normalisation.std)
    )
    with torch.inference_mode():
        logits = [
            network(torch.from_numpy((image.astype(np.float32) / 255 - mean) / std).permute(2, 0, 1)[None])
            for image in pixels_NHWC
        ]
    reference: npt.NDArray[np.float32] = torch.cat(logits).numpy()
    return reference


def logits_parity(
    name: FormatName, network: Network, pixels_NHWC: npt.NDArray[np.uint8], reference: npt.NDArray[np.float32]
) -> float:
    """Largest difference from the reference logits, divided by their range.

    The network gets all frames but the last in one batch, and the last in another, so that two batch sizes are tested.
    Raises ExportError if the difference is larger than LOGITS_TOLERANCE.
    """
    logits = np.concatenate([network(pixels_NHWC[:-1]), network(pixels_NHWC[-1:])])
    span = float(reference.max() - reference.min()) or 1.0
    parity = float(np.abs(logits - reference).max()) / span
    if not parity <= LOGITS_TOLERANCE:  # also when it is nan
        raise ExportError(
            f"{FILES[name]}: its logits must be the checkpoint's to {LOGITS_TOLERANCE:g} of their range, got "
            f"{parity:.3g}; nothing was exported: report it with the versions of torch, onnx and onnxruntime"
        )
    return parity


def score(
    network: Network, export: Export, cache: Cache, split: str, config: Config, device: torch.device
) -> dict[str, float]:
    """Metrics of an opened format on a split, in float32, with training's names: "SPLIT/mean_iou" and so on.

    config: as returned by with_normalisation_of().
    """
    height, width = export.image_size

    def predict(images_NCHW: Tensor) -> Tensor:
        pixels_NHWC = to_pixels(images_NCHW, export.mean, export.std)
        return torch.from_numpy(network(pixels_NHWC.cpu().numpy())).to(device)

    at_once = max(1, PIXELS_AT_ONCE // (height * width))
    return evaluate(predict, cache, split, config, device, f"{split}/", micro_batch=at_once)


def with_normalisation_of(directory: Path, config: Config) -> Config:
    """The config to score the weights in `directory` with, a checkpoint or an export: it takes their normalisation.

    The run's own config may name a file that its weights started from, which may be gone.
    """
    return config.model_copy(update={"weights": str(directory), "weights_normalisation": "auto"})


def check_score_repeats(
    checkpoint: Checkpoint,
    cache: Cache,
    config: Config,
    device: torch.device,
    float32_score: Mapping[str, float],
) -> None:
    """Scores the checkpoint on the validation split as the run did, and compares with the logged score.

    float32_score: what score() gave for the exported weights. Raises ExportError if the scores differ, which means that
    the checkpoint or the data set has changed.
    """
    scored_on = checkpoint.scored_on
    found = float32_score
    if scored_on["device"] != device.type:
        return  # another kind of device rounds differently; SCORE_TOLERANCE has been checked
    if scored_on["precision"] != "float32":
        if scored_on != checkpoints.scored_on(config, device):
            return  # so does a machine that computes other layers in bfloat16
        network = checkpoints.build(checkpoint, device)
        set_precision(network, config, device)
        with torch.inference_mode(), autocast(config, device):
            found = evaluate(network, cache, "val", config, device, "val/", micro_batch=config.micro_batch)
    check_scores_match(
        f"the checkpoint, scored again in {scored_on['precision']}",
        found,
        checkpoint.metrics,
        SAME_PRECISION_TOLERANCE,
    )


def check_scores_match(what: str, found: Mapping[str, float], logged: Mapping[str, float], tolerance: float) -> None:
    """Raises ExportError that names the first score which differs from the logged one by more than `tolerance`."""
    names = [name for name in logged if name in SCORES or name.startswith("val/iou_")]
    # With many classes the IoU of one may depend on a handful of pixels: then only the means are compared.
    names = [name for name in names if name in SCORES or "val/max_f1" in logged]
    for name in names:
        if name not in found or not math.isclose(found[name], logged[name], rel_tol=0, abs_tol=tolerance):
            raise ExportError(
                f"{what}: {name} must be the logged {logged[name]:.4f} to {tolerance:g}, "
                f"got {found.get(name, math.nan):.4f}; nothing was exported: is the data what it was?"
            )
