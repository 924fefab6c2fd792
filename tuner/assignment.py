"""What a trial is told, and how it tells: all of a trial that is known outside the process that trains it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Tell = Callable[[dict[str, Any]], None]
"""Hands a report on and returns when it is in the journal; raises SystemExit to end the trial."""


@dataclass(frozen=True)
class Assignment:
    """One trial to run."""

    trial: int
    params: dict[str, Any]
    suggested_at: float
    """Seconds since 1970 when the sampler chose the setting: start-up is counted from here."""
    gpus: float = 0.0
    """What a worker has of GPUs; less than 1 is a share of one."""
