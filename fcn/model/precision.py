"""The precision of a run: bfloat16 where the hardware supports it and computes correctly in it, else float32."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from fcn.config import Config, cache_folder
from fcn.distributed import world_size
from fcn.model.fcn8s import FCN8s, model_on_meta
from fcn.model.numerics import Finding, cpu_name, findings, layers_of, rounded_by_autocast


@dataclass(frozen=True)
class Precision:
    """The precision of VGG16's layers. Scores, upsampling, weights, optimizer and metrics are always float32."""

    name: Literal["bfloat16", "float32"]
    float32_layers: tuple[str, ...] = ()  # of a bfloat16 run: layers that this machine computes wrongly in it
    warnings: tuple[str, ...] = ()  # sentences that name such layers and what is wrong


def precision_of(config: Config, device: torch.device) -> Precision:
    """The precision that config.precision means on this device, for the config's network and image size.

    On a CPU the layers are measured, unless an earlier run has done so (fcn/model/numerics.py). It takes a few seconds.
    """
    if device.type != "cpu" or not _in_bfloat16(config, device):
        return Precision("bfloat16" if _in_bfloat16(config, device) else "float32")
    if not _computes_bfloat16(device):
        # bfloat16 is emulated by simple, slow kernels here: measuring them would take longer than many a run.
        warning = (
            "precision = bfloat16: torch finds no such arithmetic in this CPU, which is many times faster in float32"
        )
        return Precision("bfloat16", (), (warning,))
    model = model_on_meta(config, classes=2)
    images = min(config.micro_batch or config.batch_size, -(-config.batch_size // world_size()))
    layers = rounded_by_autocast(model, layers_of(model, images, *config.image_size))
    known = findings(cache_folder(config), layers.values())
    faulty = {name: known[layer] for name, layer in layers.items() if known[layer].fault}
    exact = tuple(name for name, finding in faulty.items() if config.precision == "auto" or finding.unusable)
    return Precision("bfloat16", exact, tuple(_sentences(faulty, exact)))


def set_precision(model: FCN8s, config: Config, device: torch.device) -> None:
    """Sets the layers that this machine can't compute in bfloat16 to float32, for use under autocast()."""
    model.compute_in_float32(precision_of(config, device).float32_layers)


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """A context in which the network computes in the run's precision. Call set_precision() on the network first.

    Within it each weight is cast to bfloat16 only once.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=_in_bfloat16(config, device))


# Warnings that this process has shown or logged.
shown_before: set[str] = set()


def shown_warnings(precision: Precision) -> tuple[str, ...]:
    """The warnings, for a caller that shows them to a person: they won't be logged again."""
    shown_before.update(precision.warnings)
    return precision.warnings


def log_new_warnings(precision: Precision) -> None:
    """Logs the warnings that this process has not shown: a trial may run on another CPU than prepare() did."""
    for sentence in precision.warnings:
        if sentence not in shown_before:
            logging.getLogger(__name__).warning(sentence)
    shown_before.update(precision.warnings)


def _sentences(faulty: dict[str, Finding], exact: tuple[str, ...]) -> Iterator[str]:
    for fault in dict.fromkeys(finding.fault for finding in faulty.values()):
        for in_float32 in (True, False):
            names = [n for n, finding in faulty.items() if finding.fault == fault and (n in exact) == in_float32]
            if names and in_float32:
                yield f"{' and '.join(names)}: float32 on this CPU ({cpu_name()}), because {fault}"
            elif names:
                yield (
                    f"{' and '.join(names)}: bfloat16 on this CPU ({cpu_name()}), as precision says, although {fault}: "
                    "set precision = auto"
                )


def _in_bfloat16(config: Config, device: torch.device) -> bool:
    return config.precision == "bfloat16" or (config.precision == "auto" and _computes_bfloat16(device))


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
