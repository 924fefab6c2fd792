"""The optimizer of a run and its learning rate."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fcn.config import Config
from fcn.errors import InputError
from fcn.model.fcn8s import FCN8s


def build_optimizer(model: FCN8s, config: Config) -> Optimizer:
    """The optimizer of config.optimizer, with weight decay config.l2 on the kernels that config.l2_on names.

    Biases and all other kernels don't decay. Adam and SGD add l2 * w, the gradient of l2 * sum(w^2) / 2, to the
    gradient; AdamW instead subtracts learning_rate * l2 * w from the weights.
    """
    decoder = {id(layer.weight) for layer in model.decoder()}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_kernel = name.endswith(".weight")
        wanted = config.l2_on == "all" or id(parameter) in decoder
        (decayed if is_kernel and wanted else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.l2}, {"params": free, "weight_decay": 0.0}]
    # Fused: one pass over the memory, six times as fast on a CPU.
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=True)
    rule = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return rule(groups, lr=config.learning_rate, betas=(config.momentum, 0.999), fused=True)


def bytes_to_allocate(optimizer: Optimizer) -> int:
    """Bytes that the optimizer's state will take from its first step on; 0 if it has been allocated."""
    if optimizer.state:
        return 0
    tensors = 1 if isinstance(optimizer, torch.optim.SGD) else 2
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    return tensors * sum(p.numel() * p.element_size() for p in parameters)


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """The learning rate at a step, counted from 0 over the whole run: linear warm-up, then config.schedule."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * done)) / 2
    if config.schedule == "polynomial":
        # DeepLab's 'poly' policy.
        return config.learning_rate * math.pow(1 - done, 0.9)
    return config.learning_rate


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def optimizer_state(optimizer: Optimizer, model: FCN8s) -> dict[str, dict[str, Any]]:
    """The optimizer's state by parameter name, so that a run may resume with another config."""
    return {name: dict(optimizer.state[p]) for name, p in model.named_parameters() if p in optimizer.state}


def restore_optimizer(optimizer: Optimizer, model: FCN8s, state: dict[str, dict[str, Any]]) -> None:
    """Puts the result of optimizer_state() back. Raises InputError if a shape doesn't fit the network."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or name not in state:
            continue
        for part, value in state[name].items():
            if isinstance(value, Tensor) and value.dim() > 0 and value.shape != parameter.shape:
                raise InputError(
                    f"resume: {part} of {name} must have the shape {tuple(parameter.shape)}, "
                    f"got {tuple(value.shape)}: resume with the config of the checkpoint"
                )
        optimizer.state[parameter] = dict(state[name])
