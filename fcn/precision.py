"""Which numbers a run computes in: bfloat16 where the hardware has it, or float32."""

from typing import Literal

import torch

from fcn.config import Config


def precision_of(config: Config, device: torch.device) -> Literal["bfloat16", "float32"]:
    """What config.precision means on this device. Weights, optimiser and measures are float32 in any case."""
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if _computes_bfloat16(device) else "float32"


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Switches the forward pass to the run's precision, whatever it was outside.

    Weights are cast once for all that happens inside.
    """
    enabled = precision_of(config, device) == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Emulated elsewhere, and then slower than float32.
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
