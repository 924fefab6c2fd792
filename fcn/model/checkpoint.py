"""A checkpoint directory: a network after an epoch, what using it needs, and separately what resuming needs.

    weights.safetensors   every tensor of the network, float32
    config.json           format_version, config, epoch, metrics, scored_on, classes, normalisation, sequences
    images/NAME.png       overlays of a few validation frames, the same in every epoch
    resume/trainer.pt     the optimizer's state and counters; only resuming needs it, so it may be deleted

It is written completely or not at all, even if the power fails (fcn/files.py).
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fcn import files
from fcn.config import Config
from fcn.errors import InputError, TrainingError
from fcn.model.fcn8s import FCN8s, model_on_meta
from fcn.model.precision import precision_of
from fcn.model.pretrained import Normalisation, described_normalisation

FORMAT_VERSION = 1
_WEIGHTS = "weights.safetensors"
_DESCRIPTION = "config.json"
_TRAINER = Path("resume/trainer.pt")


@dataclass(frozen=True)
class Checkpoint:
    """The contents of config.json. The weights are read when they are first used."""

    directory: Path
    config: Config
    epoch: int
    metrics: dict[str, float]
    classes: tuple[str, ...]  # in channel order
    normalisation: Normalisation
    sequences: dict[str, tuple[str, ...]]  # names, by split
    # Device and precision in which the metrics were computed: see scored_on()
    scored_on: dict[str, str]

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        path = self.directory / _WEIGHTS
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} can't be read ({error}): choose another checkpoint") from error


def save(
    directory: Path,
    *,
    weights: Mapping[str, Tensor],
    config: Config,
    device: torch.device,
    epoch: int,
    metrics: Mapping[str, float],
    classes: tuple[str, ...],
    normalisation: Normalisation,
    sequences: Mapping[str, tuple[str, ...]],
    trainer_state: dict[str, Any] | None,
    images: Mapping[str, Image.Image],
) -> None:
    """Writes a new directory. Raises TrainingError with path and bytes needed if the disk is full.

    weights: the network's state_dict. device: the one that the metrics were computed on.
    trainer_state: tensors, numbers, strings and containers of these; None: resume/ is not written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    description = {
        "format_version": FORMAT_VERSION,
        "config": config.model_dump(mode="json"),
        "epoch": epoch,
        "metrics": dict(metrics),
        "scored_on": scored_on(config, device),
        "classes": list(classes),
        "normalisation": asdict(normalisation),
        "sequences": {split: list(names) for split, names in sequences.items()},
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.atomic_write(directory, durable=True) as partial:
            partial.mkdir()
            save_file(weights, partial / _WEIGHTS)
            (partial / _DESCRIPTION).write_text(json.dumps(description, indent=1, allow_nan=False) + "\n", "utf-8")
            (partial / "images").mkdir()
            for name, image in images.items():
                image.save(partial / "images" / f"{name}.png")
            if trainer_state is not None:
                (partial / _TRAINER).parent.mkdir()
                torch.save(trainer_state, partial / _TRAINER)
    except OSError as error:
        if error.errno not in files.DISK_FULL:
            raise
        need = bytes_of(weights) + bytes_of(trainer_state)
        raise TrainingError(
            f"{directory}: the disk is full; a checkpoint of epoch {epoch} needs {need:,} bytes, "
            f"{shutil.disk_usage(directory.parent).free:,} are free: make room or choose another place"
        ) from error


def scored_on(config: Config, device: torch.device) -> dict[str, str]:
    """How a run's metrics are computed: "device" (cpu, cuda), "precision" (bfloat16, float32), "float32_layers".

    "float32_layers" are the VGG16 layers of a bfloat16 run that compute in float32. A checkpoint without this entry was
    written by a version of fcn that computed scores and upsampling in bfloat16 too.
    """
    precision = precision_of(config, device)
    layers = " ".join(precision.float32_layers)
    return {"device": device.type, "precision": precision.name, "float32_layers": layers}


def bytes_of(state: Any) -> int:
    """The bytes of all tensors in nested containers."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(bytes_of(value) for value in state.values())
    return sum(bytes_of(value) for value in state) if isinstance(state, list | tuple) else 0


def load(directory: Path) -> Checkpoint:
    """Raises InputError if the directory is no checkpoint, is damaged, or is of another format version."""
    path = directory / _DESCRIPTION
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{path}: format_version must be {FORMAT_VERSION}, got {found['format_version']!r}: "
                "read it with the version of fcn that wrote it"
            )
        return Checkpoint(
            directory=directory,
            config=Config.model_validate(found["config"]),
            epoch=int(found["epoch"]),
            metrics={name: float(value) for name, value in found["metrics"].items()},
            classes=tuple(found["classes"]),
            normalisation=described_normalisation(path, found),
            sequences={split: tuple(names) for split, names in found["sequences"].items()},
            scored_on={name: str(value) for name, value in found["scored_on"].items()},
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} is no checkpoint: it has no {_DESCRIPTION}; give a directory that a run wrote"
        ) from error
    except (InputError, ValidationError):
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}): choose another checkpoint") from error


def build(checkpoint: Checkpoint, device: torch.device | None = None) -> FCN8s:
    """The network with the checkpoint's weights, in evaluation mode."""
    model = model_on_meta(checkpoint.config, len(checkpoint.classes))
    try:
        model.load_state_dict(checkpoint.weights, assign=True)
    except RuntimeError as error:
        raise InputError(f"{checkpoint.directory}: the weights don't fit the config ({error})") from error
    return model.to(device or torch.device("cpu")).eval()


def load_trainer_state(directory: Path, device: torch.device) -> dict[str, Any]:
    """The trainer_state that save() wrote. Raises InputError if it was deleted or can't be read."""
    path = directory / _TRAINER
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} can't be resumed: it has no {_TRAINER}, like the checkpoints of ended runs; "
            "start a new run with weights set to this directory"
        ) from error
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise InputError(f"{path} can't be read ({error}): resume from another checkpoint") from error
    return state


def replace(source: Path, target: Path) -> None:
    """Renames a saved directory to `target`, which it replaces. Both are on one file system.

    If a kill or a power cut interrupts this, recover() brings the old directory back.
    """
    old = target.with_name(f"{target.name}.old")
    recover(target)
    if target.exists():
        files.rename(target, old)
    files.rename(source, target)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Repairs `target` after an interrupted replace(): it is the old or the new directory, or there was none."""
    old = target.with_name(f"{target.name}.old")
    if not old.exists():
        return
    if target.exists():
        shutil.rmtree(old)
    else:
        files.rename(old, target)
