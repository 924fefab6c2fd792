"""torch's part of isolation.py: its process-wide options and hooks, and the GPU's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.modules import module as torch_module

_GLOBAL_HOOKS = [name for name in vars(torch_module) if name.startswith("_global_") and "hook" in name]
# GPU memory of a process that torch doesn't count: the CUDA context and libraries.
_CONTEXT_BYTES = 600e6


def state() -> Iterator[Callable[[], Any]]:
    """For each process-wide option of torch, and for its global hooks, a call that restores the present value."""
    yield from _global_options()
    yield _hooks()


def begin(seed: int, gpus: float) -> None:
    """Seed torch, and limit the trial to its share of the GPU's memory."""
    torch.manual_seed(seed)
    if gpus and torch.cuda.is_available():
        _limit_memory(gpus)


def end() -> None:
    """Release free memory: the C library's, which keeps it while a trial runs (driver/cluster.py), and the GPU's."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def gpu_share() -> float | None:
    """The present trial's peak share of its GPU's memory, 0 to 1; None if it uses no GPU."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    _, total = torch.cuda.mem_get_info()
    return min(1.0, (torch.cuda.max_memory_reserved() + _CONTEXT_BYTES) / total)


def _limit_memory(gpus: float) -> None:
    """A trial that exceeds its share runs out of memory itself, not another trial on the same GPU."""
    _, total = torch.cuda.mem_get_info()
    share = 1.0 if gpus >= 1 else max(0.01, gpus - _CONTEXT_BYTES / total)
    torch.cuda.set_per_process_memory_fraction(share)
    torch.cuda.reset_peak_memory_stats()


def is_device_failure(error: BaseException) -> bool:
    """Whether torch ran out of GPU memory, or a device failed."""
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
        # Setting it imports torch's compiler, which takes two seconds.
        if present != before:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    return restore


def _hooks() -> Callable[[], Any]:
    """Restores the hooks on all modules, which torch keeps in module-level dictionaries."""
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
