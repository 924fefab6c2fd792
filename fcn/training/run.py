"""Training: one run from its config to its last epoch, on one device or on all ranks of torch.distributed.

`python -m fcn train` (cli/train.py) and a tuner both call prepare() and train().
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fcn.config import Config
from fcn.data.cache import Cache, open_cache
from fcn.data.remote.local_copy import fetch
from fcn.device import default_device, with_index
from fcn.distributed import broadcast_from, fail_together, rank, world_size
from fcn.errors import TrainingError
from fcn.evaluation.scoring import evaluate, metric_names
from fcn.model.cost import gflops
from fcn.model.fcn8s import check_weights
from fcn.model.precision import autocast, log_new_warnings, precision_of, shown_warnings
from fcn.model.pretrained import fetch_weights, missing_layer_warnings
from fcn.training.epoch import BatchLosses, EpochTrainer
from fcn.training.snapshot import Snapshot
from fcn.training.state import RunState, checkpoint_bytes

# Called on every rank after each epoch, with the epoch's metrics by name and, on rank 0 only, the snapshot that its
# checkpoint can be written from. It may raise SystemExit to end the run.
Report = Callable[[dict[str, float], Snapshot | None], None]

_EPOCH_METRICS = ("epoch", "train/loss", "train/learning_rate", "train/micro_batch", "model/gflops")
# checkpoint_seconds: how long the previous epoch's report() took, most of it for writing the checkpoint.
# epoch_seconds: wall-clock time since the previous epoch's metrics, or since train() was called.
_TIMES = ("images_per_second", "data_seconds", "compute_seconds", "checkpoint_seconds", "epoch_seconds")


@dataclass(frozen=True)
class Prepared:
    summary: str  # one line: frames, size, classes, split
    metrics: tuple[str, ...]  # names of the metrics that train() will report
    warnings: tuple[str, ...] = ()  # sentences for a person: on the data, the weights, this machine's precision
    data: Mapping[str, str] = field(default_factory=dict)  # identifies the pixels and the split: fingerprint, counts
    checkpoint_bytes: tuple[int, int] | None = None  # of its weights, and of what only resuming needs


def prepare(
    config: Config, progress: Callable[[int, int], None] | None = None, *, device: torch.device | None = None
) -> Prepared:
    """Reads every frame and fetches the weights, so that mistakes in them are found before training starts.

    If data_dir is a URL, fetches what is there now; train() then takes what is here.

    progress: called with (frames done, frames in all) while frames are decoded. device: the one that train() will get.
    On a CPU with bfloat16, the network's layers are tested in it, and runs that follow find the result. Raises
    InputError.
    """
    fetch_weights(config)
    fetch(config)
    cache = open_cache(config, progress)
    dataset = cache.dataset
    warnings = dataset.warnings + missing_layer_warnings(config, check_weights(config, len(dataset.classes)))
    precision = precision_of(config, device or default_device())
    height, width = config.image_size
    splits = ", ".join(f"{len(frames)} {name}" for name, frames in dataset.splits.items())
    if not dataset.splits["val"]:
        splits = splits.replace("0 val", "0 val (val_fraction = 0)")
    if config.train_fraction < 1:
        splits = splits.replace(" train", f" train (train_fraction = {config.train_fraction:g})", 1)
    summary = (
        f"{dataset.name}: {len(dataset.frames)} frames at {height}x{width}, {splits}; "
        f"{len(dataset.classes)} classes: {', '.join(dataset.classes)}"
    )
    metrics = [*_EPOCH_METRICS, *(f"time/{name}" for name in _TIMES)]
    if dataset.splits["val"]:
        metrics += [*(f"val/{name}" for name in metric_names(dataset)), "time/evaluation_seconds"]
    if config.compile:
        metrics.append("time/compile_seconds")
    data = {"summary": summary, "fingerprint": cache.path.name, "split": splits, **dataset.split_facts()}
    size = checkpoint_bytes(config, len(dataset.classes))
    return Prepared(summary, tuple(metrics), warnings + shown_warnings(precision), data, size)


def train(
    config: Config,
    *,
    report: Report,
    resume_from: Path | None = None,
    device: torch.device | None = None,
    batch_losses: BatchLosses | None = None,
) -> None:
    """Trains until config.epochs, or config.early_stop_epochs epochs without a better val/mean_iou, or report ends it.

    resume_from: a checkpoint with resume/; the resumed run ends with the same weights as one without a break.
    batch_losses: called before report, with the epoch and the loss of each of its batches.
    Changes no random state and no option of torch in the process.
    Raises InputError before the first step; after it TrainingError, if the loss isn't finite or memory runs out.
    """
    epoch_started = time.perf_counter()
    device = with_index(device or default_device())
    with fail_together():
        cache = open_cache(config)
        classes = cache.dataset.classes
        log_new_warnings(precision_of(config, device))
        if resume_from is None:
            state = RunState.start(config, classes, device)
        else:
            state = RunState.resume(config, classes, device, resume_from)
        trainer = EpochTrainer(state, cache, config, device, batch_losses)
    broadcast_from(0, *state.model.parameters())
    report_seconds, cost = 0.0, {"model/gflops": gflops(state.model, *config.image_size)}
    with torch.enable_grad():
        while state.epoch < config.epochs:
            metrics = trainer.run() | cost
            masks: dict[int, Tensor] = {}
            if cache.dataset.splits["val"]:
                scores, masks = _validate(state, cache, config, device)
                metrics |= scores
            started = time.perf_counter()
            metrics |= {"time/checkpoint_seconds": report_seconds, "time/epoch_seconds": started - epoch_started}
            epoch_started = started
            with fail_together():
                report(metrics, Snapshot(state, metrics, masks, cache, config, device) if rank() == 0 else None)
            report_seconds = time.perf_counter() - started
            if config.early_stop_epochs and state.epochs_without_better >= config.early_stop_epochs:
                break


def _validate(
    state: RunState, cache: Cache, config: Config, device: torch.device
) -> tuple[dict[str, float], dict[int, Tensor]]:
    """Metrics of the validation split, and the classes predicted for the frames that are shown, by their index."""
    started = time.perf_counter()
    frames, shown = cache.dataset.splits["val"], shown_positions(cache, config)
    masks: dict[int, Tensor] = {}

    def seen(position: int, predicted_HW: Tensor) -> None:
        if position in shown:
            masks[frames[position]] = predicted_HW.to(torch.uint8)

    state.model.eval()
    try:
        with autocast(config, device):
            metrics = evaluate(
                state.model, cache, "val", config, device, "val/", micro_batch=state.micro_batch, seen=seen
            )
    except TrainingError as error:
        raise TrainingError(f"epoch {state.epoch}: {error}") from None
    finally:
        state.model.train()
    # Early stopping compares with the best score so far, not the last: road IoU can dip for an epoch and recover.
    state.record_score(metrics.get("val/mean_iou", -math.inf))
    return metrics | {"time/evaluation_seconds": time.perf_counter() - started}, masks


def shown_positions(cache: Cache, config: Config) -> set[int]:
    """Positions in the validation split whose predictions go into each checkpoint: spread evenly, all on rank 0."""
    count = len(cache.dataset.splits["val"])
    masks = min(config.masks, count)
    middles = [(2 * place + 1) * count // (2 * masks) for place in range(masks)]
    return {middle - middle % config.batch_size % world_size() for middle in middles}
