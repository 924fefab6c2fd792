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


@contextlib.contextmanager
def isolated(seed: int, gpus: float = 0.0) -> Iterator[None]:
    """A block that starts from this seed and leaves no trace: random numbers, environment, current folder, torch's
    settings and global hooks (if there is torch) are put back, and what nobody holds any more is freed.

    A workload that seeds itself is not touched by it; one that forgets to still gives the same trial again.
    gpus: a share of a GPU, if less than 1, is also all that the block may take of its memory.
    """
    torch = _torch()
    restorers = [*(torch.state() if torch else ()), _environment()]
    folder = Path.cwd()
    random_state = random.getstate()
    if gc.get_freeze_count() == 0:
        gc.freeze()
        # Libraries count what is left of theirs when Python ends, and complain.
        atexit.register(gc.unfreeze)
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
    """The most that the present trial has taken of its GPU's memory, 0 to 1; None if it uses none."""
    torch = _torch()
    return torch.gpu_share() if torch else None


def is_tainted_by(error: BaseException | None) -> bool:
    """Whether an exception, or what caused it, leaves the process in doubt: memory ran out, or the device failed."""
    torch = _torch()
    while error is not None:
        if isinstance(error, MemoryError) or (torch and torch.is_device_failure(error)):
            return True
        if isinstance(error, RuntimeError) and ("CUDA error" in str(error) or "can't allocate memory" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _torch() -> Any:
    """tuner/worker/torch_isolation.py, or None in a process that has no torch: it isn't imported for nothing."""
    if "torch" not in sys.modules:
        return None
    from tuner.worker import torch_isolation

    return torch_isolation


def _collect_garbage() -> None:
    """Free what a trial left in circles. The next trial waits for it, so what stays is looked at only once."""
    gc.collect()
    # Imported modules are half a million objects; a collection that passes over them takes a hundredth of the time.
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
        # Only what differs: Ray itself reads the environment while trials run.
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})

    return restore
