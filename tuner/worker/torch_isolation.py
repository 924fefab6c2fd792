"""torch's part of isolation.py: what it keeps for a whole process, and a GPU's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.modules import module as torch_module

_GLOBAL_HOOKS = [name for name in vars(torch_module) if name.startswith("_global_") and "hook" in name]
# What a process takes of a GPU's memory beside what torch allocates: its CUDA context and its libraries.
_CONTEXT_BYTES = 600e6


def state() -> Iterator[Callable[[], Any]]:
    """For each thing that torch keeps for the whole process, a call that puts its present value back."""
    yield from _global_options()
    yield _hooks()


def begin(seed: int, gpus: float) -> None:
    """What a trial begins with: its seed, and no more of a GPU's memory than its share."""
    torch.manual_seed(seed)
    if gpus and torch.cuda.is_available():
        _limit_memory(gpus)


def end() -> None:
    """Give back what is free: the C library keeps it while a trial runs (driver/cluster.py), and torch a GPU's."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def gpu_share() -> float | None:
    """The most that the present trial has taken of its GPU's memory, 0 to 1; None if it uses none."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    _, total = torch.cuda.mem_get_info()
    return min(1.0, (torch.cuda.max_memory_reserved() + _CONTEXT_BYTES) / total)


def _limit_memory(gpus: float) -> None:
    """Whoever runs over its share runs out of memory itself, not its neighbour on the GPU."""
    _, total = torch.cuda.mem_get_info()
    share = 1.0 if gpus >= 1 else max(0.01, gpus - _CONTEXT_BYTES / total)
    torch.cuda.set_per_process_memory_fraction(share)
    torch.cuda.reset_peak_memory_stats()


def is_device_failure(error: BaseException) -> bool:
    """Whether this is torch's way to say that memory ran out or that a device failed."""
    return isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError)


def _global_options() -> Iterator[Callable[[], Any]]:
    cudnn = torch.backends.cudnn
    for place, name in [
        (cudnn, "enabled"),
        (cudnn, "benchmark"),
        (cudnn, "deterministic"),
        (cudnn, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_tf32"),
    ]:
        yield _setter(place, name, getattr(place, name))
    yield _call(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    yield _call(torch.set_default_dtype, torch.get_default_dtype())
    yield _call(torch.set_num_threads, torch.get_num_threads())
    yield _call(torch.set_grad_enabled, torch.is_grad_enabled())
    yield _call(torch.autograd.set_detect_anomaly, torch.is_anomaly_enabled())
    yield _determinism()
    for device in ("cpu", "cuda"):
        yield _call(torch.set_autocast_enabled, device, torch.is_autocast_enabled(device))
        yield _call(torch.set_autocast_dtype, device, torch.get_autocast_dtype(device))


def _determinism() -> Callable[[], Any]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    def restore() -> None:
        present = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        # Setting it imports torch's compiler, two seconds.
        if present != before:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    return restore


def _hooks() -> Callable[[], Any]:
    """Hooks on all modules, which torch keeps in dictionaries of its own."""
    before = {name: dict(hooks) for name in _GLOBAL_HOOKS if isinstance(hooks := getattr(torch_module, name), dict)}

    def restore() -> None:
        for name, hooks in before.items():
            present = getattr(torch_module, name)
            present.clear()
            present.update(hooks)

    return restore


def _setter(place: Any, name: str, value: Any) -> Callable[[], Any]:
    return lambda: setattr(place, name, value)


def _call(function: Callable[..., Any], *values: Any) -> Callable[[], Any]:
    return lambda: function(*values)
