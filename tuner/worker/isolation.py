"""Isolation of trials that share a process: each starts from the same state, whatever the trial before it changed."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def isolated(seed: int, gpus: float = 0.0) -> Iterator[None]:
    """A block that starts from this seed and changes nothing outside itself.

    At its end the random state, environment, current folder, and torch's global options and hooks (if torch is
    imported) are restored, and garbage is collected.
    seed: makes a trial reproducible even if the workload doesn't seed its own random numbers.
    gpus: the number of GPUs. Less than 1 is a share of one, and limits the block to that share of its memory.
    """
    torch = _torch()
    restorers = [*(torch.state() if torch else ()), _environment()]
    folder = Path.cwd()
    random_state = random.getstate()
    _freeze_imported()
    _seed(seed)
    if torch:
        torch.begin(seed, gpus)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.chdir(folder)
        random.setstate(random_state)
        for restore in restorers:
            restore()
        _collect_garbage()
        if torch:
            torch.end()


def gpu_share() -> float | None:
    """The present trial's peak share of its GPU's memory, 0 to 1; None if it uses no GPU."""
    torch = _torch()
    return torch.gpu_share() if torch else None


def is_tainted_by(error: BaseException | None) -> bool:
    """Whether a process is tainted after an exception: it, or a cause of it, is out of memory or a failed device."""
    torch = _torch()
    while error is not None:
        if isinstance(error, MemoryError) or (torch and torch.is_device_failure(error)):
            return True
        if isinstance(error, RuntimeError) and ("CUDA error" in str(error) or "can't allocate memory" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _torch() -> Any:
    """tuner/worker/torch_isolation.py, or None in a process that has no torch: importing it takes seconds."""
    if "torch" not in sys.modules:
        return None
    from tuner.worker import torch_isolation

    return torch_isolation


@functools.cache
def _freeze_imported() -> None:
    """Once a process. Asking the collector whether something is frozen would visit each object: 30 ms a trial."""
    gc.freeze()
    # Some libraries check for leaks when Python exits, and would report frozen objects.
    atexit.register(gc.unfreeze)


def _collect_garbage() -> None:
    """Collect reference cycles. The next trial waits for this, so survivors are frozen: each is visited only once."""
    gc.collect()
    # Imported modules are half a million objects. A collection that skips them takes a hundredth of the time.
    gc.freeze()


def _seed(seed: int) -> None:
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)


def _environment() -> Callable[[], Any]:
    before = dict(os.environ)

    def restore() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        # Only the differences: Ray reads the environment in other threads at the same time.
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})

    return restore
