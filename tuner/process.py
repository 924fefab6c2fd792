"""The process of a slot: every trial finds it alike, whatever the trial before did to it."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules import module as torch_module

_GLOBAL_HOOKS = [name for name in vars(torch_module) if name.startswith("_global_") and "hook" in name]


# What a process takes of a GPU's memory beside what torch allocates: its CUDA context and its libraries.
_CONTEXT_BYTES = 600e6


@contextlib.contextmanager
def as_found(seed: int, gpus: float = 0.0) -> Iterator[None]:
    """A block that starts from this seed and leaves no trace: random numbers, environment, current folder, torch's
    settings and global hooks are put back, and what nobody holds any more is freed.

    A workload that seeds itself is not touched by it; one that forgets to still gives the same trial again.
    gpus: a share of a GPU, if less than 1, is also all that the block may take of its memory.
    """
    put_back = [*_torch_settings(), _environment(), _hooks()]
    folder = Path.cwd()
    random_state = random.getstate()
    if gc.get_freeze_count() == 0:
        gc.freeze()
        # Libraries count what is left of theirs when Python ends, and complain.
        atexit.register(gc.unfreeze)
    _seed(seed)
    if gpus and torch.cuda.is_available():
        _limit_memory(gpus)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.chdir(folder)
        random.setstate(random_state)
        for restore in put_back:
            restore()
        _free()
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


def is_spoilt_by(error: BaseException | None) -> bool:
    """Whether an exception, or what caused it, leaves the process in doubt: memory ran out, or the device failed."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
            return True
        if isinstance(error, RuntimeError) and ("CUDA error" in str(error) or "can't allocate memory" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _free() -> None:
    """Free what a trial left in circles. The next trial waits for it, so what stays is looked at only once."""
    gc.collect()
    # Imported modules are half a million objects; a collection that passes over them takes a hundredth of the time.
    gc.freeze()


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)


def _torch_settings() -> Iterator[Callable[[], Any]]:
    """For each of torch's global settings, a call that puts its present value back."""
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


def _environment() -> Callable[[], Any]:
    before = dict(os.environ)

    def restore() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        # Only what differs: Ray itself reads the environment while trials run.
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})

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
