"""A checkpoint directory: a network after an epoch, what is needed to use it, and apart, what resuming needs.

    weights.safetensors   every tensor of the network, float32
    config.json           format_version, config, epoch, metrics, scored_on, classes, normalisation, sequences
    images/NAME.png       overlays of the fixed validation frames
    resume/trainer.pt     optimizer and counters; only resuming needs it, so it may be deleted

It is written whole or not at all, after a power cut too (fcn/files.py).
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
    """What config.json says; weights are read when they are asked for."""

    directory: Path
    config: Config
    epoch: int
    metrics: dict[str, float]
    classes: tuple[str, ...]  # in channel order
    normalisation: Normalisation
    sequences: dict[str, tuple[str, ...]]  # of each split
    # What the metrics were measured in: scored_on()
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
    """Writes a new directory. Raises TrainingError with path and bytes needed where the disk is full.

    weights: the network's state_dict. device: what metrics were measured on.
    trainer_state: tensors, numbers, strings and containers of these; None leaves resume/ out.
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
    """What a run's metrics are measured in: "device" (cpu, cuda), "precision" (bfloat16, float32).

    And "float32_layers": those of VGG16 that compute in float32 all the same. Checkpoints in whose time scores and
    upsampling were rounded too have no such entry.
    """
    precision = precision_of(config, device)
    layers = " ".join(precision.float32_layers)
    return {"device": device.type, "precision": precision.name, "float32_layers": layers}


def bytes_of(state: Any) -> int:
    """Of all tensors in nested containers."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(bytes_of(value) for value in state.values())
    return sum(bytes_of(value) for value in state) if isinstance(state, list | tuple) else 0


def load(directory: Path) -> Checkpoint:
    """Raises InputError where the directory is no checkpoint or one of another format."""
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
    """What save() got as trainer_state. Raises InputError where it was deleted or can't be read."""
    path = directory / _TRAINER
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} can't be resumed: {_TRAINER} is gone, as it is for ended runs; "
            "start a new run with weights set to this directory"
        ) from error
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise InputError(f"{path} can't be read ({error}): resume from another checkpoint") from error
    return state


def replace(source: Path, target: Path) -> None:
    """Puts a saved directory at target, on the same file system.

    A kill or a power cut in between leaves the old one where recover() finds it.
    """
    old = target.with_name(f"{target.name}.old")
    recover(target)
    if target.exists():
        files.rename(target, old)
    files.rename(source, target)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Ends what a killed replace() left: target is whole again, or was never there."""
    old = target.with_name(f"{target.name}.old")
    if not old.exists():
        return
    if target.exists():
        shutil.rmtree(old)
    else:
        files.rename(old, target)
