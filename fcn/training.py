"""Training: one run from its settings to its last epoch, on one device or on all ranks of torch.distributed.

`python -m fcn.train` is train.py; a tuner calls prepare() and train() here.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import torch
from PIL import Image

from fcn import checkpoint
from fcn.batches import Batches
from fcn.cache import Cache, open_cache
from fcn.config import Config
from fcn.epoch import EpochTrainer
from fcn.errors import TrainingError
from fcn.masks import side_by_side
from fcn.model import FCN8s, check_weights
from fcn.precision import autocast
from fcn.ranks import rank
from fcn.scoring import evaluate, measure_names, predicted_classes
from fcn.state import RunState
from fcn.weights import fetch_weights, normalisation

# Measures of an epoch by name, and on rank 0 the checkpoint of that epoch. Called by every rank.
# It may move the checkpoint away, and may raise SystemExit to end the run.
Report = Callable[[dict[str, float], Path | None], None]

_EPOCH_MEASURES = ("epoch", "train/loss", "train/learning_rate", "train/micro_batch")
_TIMES = ("images_per_second", "data_seconds", "compute_seconds", "evaluation_seconds", "checkpoint_seconds")


@dataclass(frozen=True)
class Prepared:
    summary: str  # one line: frames, size, classes, split
    metrics: tuple[str, ...]  # what train will report
    warnings: tuple[str, ...] = ()  # what a person should know of the data


def prepare(config: Config, progress: Callable[[int, int], None] | None = None) -> Prepared:
    """Everything that can go wrong before training goes wrong here: reads every file, fetches the weights.

    progress: called with (frames done, frames in all) while pixels are decoded. Raises InputError.
    """
    fetch_weights(config)
    dataset = open_cache(config, progress).dataset
    check_weights(config, len(dataset.classes))
    height, width = config.image_size
    splits = ", ".join(f"{len(frames)} {name}" for name, frames in dataset.splits.items())
    summary = (
        f"{dataset.name}: {len(dataset.frames)} frames at {height}x{width}, {splits}; "
        f"{len(dataset.classes)} classes: {', '.join(dataset.classes)}"
    )
    measures = [f"val/{name}" for name in measure_names(dataset)]
    times = [f"time/{name}" for name in _TIMES]
    return Prepared(summary, (*_EPOCH_MEASURES, *measures, *times), dataset.warnings)


def train(
    config: Config,
    *,
    report: Report,
    resume_from: Path | None = None,
    device: torch.device | None = None,
    scratch_dir: Path | None = None,
) -> None:
    """Trains to config.epochs, or until early_stop_epochs bring no better val/mean_iou, or report ends it.

    resume_from: a checkpoint with resume/; the run ends with the weights of an unbroken one.
    scratch_dir: where checkpoints are written before report gets them; None: a temporary folder.
    Leaves nothing behind in the process: no random state, no setting of torch.
    Raises InputError before the first step; then TrainingError: loss not finite, out of memory, disk full.
    """
    device = device or default_device()
    cache = open_cache(config)
    classes = cache.dataset.classes
    if resume_from is None:
        state = RunState.start(config, classes, device)
    else:
        state = RunState.resume(config, classes, device, resume_from)
    trainer = EpochTrainer(state, cache, config, device)
    with _scratch(scratch_dir) as scratch, torch.enable_grad():
        while state.epoch < config.epochs:
            metrics = trainer.run()
            metrics |= _validate(state, cache, config, device)
            started = time.perf_counter()
            directory = _save(state, metrics, cache, config, device, scratch) if rank() == 0 else None
            metrics["time/checkpoint_seconds"] = time.perf_counter() - started
            report(metrics, directory)
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)
            if config.early_stop_epochs and state.epochs_without_better >= config.early_stop_epochs:
                break


def default_device() -> torch.device:
    """This process's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _validate(state: RunState, cache: Cache, config: Config, device: torch.device) -> dict[str, float]:
    started = time.perf_counter()
    state.model.eval()
    try:
        with autocast(config, device):
            metrics = evaluate(state.model, cache, "val", config, device, "val/", micro_batch=state.micro_batch)
    except TrainingError as error:
        raise TrainingError(f"epoch {state.epoch}: {error}; try a lower learning_rate") from None
    finally:
        state.model.train()
    # Best so far, not last: road IoU dips for an epoch and recovers.
    state.note_score(metrics.get("val/mean_iou", -math.inf))
    return metrics | {"time/evaluation_seconds": time.perf_counter() - started}


def _save(
    state: RunState,
    metrics: dict[str, float],
    cache: Cache,
    config: Config,
    device: torch.device,
    scratch: Path,
) -> Path:
    dataset = cache.dataset
    directory = scratch / f"epoch-{state.epoch:06d}"
    checkpoint.save(
        directory,
        model=state.model,
        config=config,
        epoch=state.epoch,
        metrics=metrics,
        classes=dataset.classes,
        normalisation=normalisation(config),
        sequences={
            split: tuple(dict.fromkeys(dataset.frames[index].sequence for index in frames))
            for split, frames in dataset.splits.items()
        },
        trainer_state=state.trainer_state(config),
        images=_overlays(state.model, cache, config, device),
    )
    return directory


@torch.no_grad()
def _overlays(model: FCN8s, cache: Cache, config: Config, device: torch.device) -> dict[str, Image.Image]:
    """Pictures of the same validation frames in every epoch, spread evenly over the split."""
    frames = cache.dataset.splits["val"]
    count = min(config.masks, len(frames))
    chosen = [frames[(2 * place + 1) * len(frames) // (2 * count)] for place in range(count)]
    batches = Batches(cache, chosen, config, device)
    model.eval()
    with autocast(config, device):
        masks = [
            mask
            for images_NCHW, _ in batches.epoch(0, train=False)
            for mask in predicted_classes(model(images_NCHW)).cpu().numpy()
        ]
    model.train()
    return {
        cache.dataset.frames[index].name.replace("/", "_"): side_by_side(
            cache.images[index], mask, cache.labels[index], cache.dataset.classes
        )
        for index, mask in zip(chosen, masks, strict=True)
    }


@contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    """A folder of this run alone; what is left in it goes with it."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=".fcn-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
