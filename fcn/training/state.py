"""The state that a run carries from one epoch to the next, and how a checkpoint stores and restores it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch.optim import Optimizer

from fcn.config import Config
from fcn.errors import InputError
from fcn.memory import initial_micro_batch
from fcn.model import checkpoint
from fcn.model.fcn8s import Architecture, FCN8s, build_model, model_on_meta
from fcn.model.precision import set_precision
from fcn.training.optimizer import build_optimizer, bytes_to_allocate, optimizer_state, restore_optimizer


@dataclass
class RunState:
    """Holds no random state: order, augmentation and dropout follow from (seed, epoch, position)."""

    model: FCN8s
    optimizer: Optimizer
    epoch: int  # finished epochs
    micro_batch: int  # images at once
    best_score: float  # of validation so far
    epochs_without_better: int

    @classmethod
    def start(cls, config: Config, classes: tuple[str, ...], device: torch.device) -> Self:
        """A new run. Raises InputError if the initial weights can't be loaded or don't fit the network."""
        model = _on_device(build_model(config, len(classes)), config, device)
        return cls(
            model=model,
            optimizer=build_optimizer(model, config),
            epoch=0,
            micro_batch=initial_micro_batch(config, device),
            best_score=float("-inf"),
            epochs_without_better=0,
        )

    @classmethod
    def resume(cls, config: Config, classes: tuple[str, ...], device: torch.device, directory: Path) -> Self:
        """The run of a checkpoint. The config may differ from the checkpoint's, except in network and optimizer.

        Raises InputError if these differ, or if the checkpoint lacks what resuming needs.
        """
        loaded = checkpoint.load(directory)
        _check_same_network(loaded, config, classes)
        model = checkpoint.build(replace(loaded, config=config))
        model.freeze(config.freeze)
        model = _on_device(model, config, device).train()
        saved = checkpoint.load_trainer_state(directory, device)
        if saved["rule"] != config.optimizer:
            raise InputError(
                f"resume: {directory} was trained with optimizer = {saved['rule']}, got {config.optimizer}: "
                "keep it, or start a new run with weights set to this directory"
            )
        optimizer = build_optimizer(model, config)
        restore_optimizer(optimizer, model, saved["optimizer"])
        # A score at another size isn't comparable, and more frames may bring a better one: patience begins again.
        same_task = (loaded.config.image_size, loaded.config.train_fraction) == (
            config.image_size,
            config.train_fraction,
        )
        return cls(
            model=model,
            optimizer=optimizer,
            epoch=loaded.epoch,
            micro_batch=min(saved["micro_batch"], initial_micro_batch(config, device)),
            best_score=saved["best_score"] if same_task else float("-inf"),
            epochs_without_better=saved["epochs_without_better"] if same_task else 0,
        )

    def trainer_state(self, config: Config) -> dict[str, Any]:
        return {
            "rule": config.optimizer,
            "optimizer": optimizer_state(self.optimizer, self.model),
            "micro_batch": self.micro_batch,
            "best_score": self.best_score,
            "epochs_without_better": self.epochs_without_better,
        }

    def record_score(self, score: float) -> None:
        if score > self.best_score:
            self.best_score, self.epochs_without_better = score, 0
        else:
            self.epochs_without_better += 1


def _on_device(model: FCN8s, config: Config, device: torch.device) -> FCN8s:
    set_precision(model, config, device)
    # Faster on GPUs' tensor cores, slower on CPUs.
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    moved: FCN8s = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    return moved


def _check_same_network(loaded: checkpoint.Checkpoint, config: Config, classes: tuple[str, ...]) -> None:
    trained = asdict(Architecture.of(loaded.config, len(loaded.classes))) | {"classes": loaded.classes}
    wanted = asdict(Architecture.of(config, len(classes))) | {"classes": classes}
    for name, value in trained.items():
        if wanted[name] != value:
            raise InputError(
                f"resume: {loaded.directory} has {name} = {value}, got {wanted[name]}: keep it, or start a new run"
            )


def checkpoint_bytes(config: Config, classes: int) -> tuple[int, int]:
    """Bytes of the weights in a run's checkpoint, and of the optimizer's state, which only resuming needs."""
    model = model_on_meta(config, classes)
    model.freeze(config.freeze)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return weights, bytes_to_allocate(build_optimizer(model, config))
