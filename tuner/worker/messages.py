"""What a trial and the study's runner say to each other, in whatever processes they are.

A trial is given an Assignment. It sends a Message, one at a time, and waits for the Decision on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal


@dataclass(frozen=True)
class Assignment:
    """One trial to run."""

    trial: int
    params: dict[str, Any]
    suggested_at: float
    """Seconds since 1970 when the sampler proposed it: start-up is counted from here."""
    gpus: float = 0.0
    """What a worker has of GPUs; less than 1 is a share of one."""
    queue: Any = None
    """The ReportQueue (tuner/worker/report_queue.py) that takes its messages."""


@dataclass(frozen=True)
class Begun:
    """A worker group has begun the trial, for whose machines it may have waited long."""


@dataclass(frozen=True)
class Report:
    """An epoch has ended."""

    epoch: int
    metrics: dict[str, float]
    images: tuple[str, ...] = ()
    """Paths of images that have come into the storage since the message before, under the trial's folder."""
    startup_seconds: float | None = None
    gpu_share: float | None = None
    """The most that the trial has taken of its GPU's memory, 0 to 1."""
    resumed: bool = False
    """Whether it is the report of the checkpoint that the trial resumes from, which may be known already."""
    best: tuple[int, float] | None = None
    """Of a resumed trial: its best epoch so far, and the objective's value there."""


@dataclass(frozen=True)
class End:
    """The trial has ended, for whatever reason."""

    state: Literal["finished", "stopped", "failed"]
    reason: str | None = None
    images: tuple[str, ...] = ()
    tainted: bool = False
    """Whether its process must not run another trial (tuner/worker/isolation.py)."""


@dataclass(frozen=True)
class Interruption:
    """This attempt is over and the trial is not: it is to be run again, and its hyperparameters are not to blame."""

    reason: str
    storage: bool = False
    """Whether a storage or a disk refused something, which may last; else what the trial ran on is gone."""


@dataclass(frozen=True)
class StorageWait:
    """The trial waits for the storage, and asks whether it still shall. sentence: what is refused; None: it is over."""

    sentence: str | None


Message = Begun | Report | End | Interruption | StorageWait


class Action(Enum):
    CONTINUE = "continue"
    STOP = "stop"


@dataclass(frozen=True)
class Decision:
    """The runner's answer to a message, given when the message is in the study's events."""

    action: Action
    reason: str | None = None
    """Why the trial stops."""
    keep: bool = False
    """Whether the trial, if it ended now, would be among those whose weights stay."""


Send = Callable[[Message], Decision]
"""Sends a message and waits for the decision on it."""
