"""What a trial is told, and how it tells: all of a trial that is known outside the process that trains it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What the study's runner says to a report, when it is in the journal."""

    ask_tune: bool
    """Whether Ray Tune decides if the trial goes on."""
    keep: bool
    """Whether the trial, if it ended now, would be among those whose weights stay."""


Post = Callable[[dict[str, Any]], Answer]
"""Hands a report to the runner."""
Tell = Callable[[dict[str, Any]], None]
"""Hands a report that has been posted, or the trial's end, to Tune; raises SystemExit to end the trial."""


@dataclass(frozen=True)
class Assignment:
    """One trial to run."""

    trial: int
    params: dict[str, Any]
    suggested_at: float
    """Seconds since 1970 when the sampler chose the setting: start-up is counted from here."""
    gpus: float = 0.0
    """What a worker has of GPUs; less than 1 is a share of one."""
    box: Any = None
    """The ReportBox (tuner/reports.py) that takes its reports."""
