"""The messages between a trial and the driver, which are in different processes.

The driver gives a trial an Assignment. The trial sends one Message at a time, and waits for the Decision on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal


@dataclass(frozen=True)
class Assignment:
    """One trial to run."""

    trial: int
    params: dict[str, Any]
    suggested_at: float
    """When the sampler proposed it, in seconds since 1970; `startup_seconds` counts from here."""
    gpus: float = 0.0
    """GPUs of each worker; less than 1 is a share of one GPU."""
    queue: Any = None
    """The ReportQueue (tuner/worker/report_queue.py) that takes its messages."""


@dataclass(frozen=True)
class Begun:
    """The trial's processes are there, after they may have waited long for their nodes. It is sent again after WAIT."""

    nodes: tuple[str, ...]
    """The id of each rank's node, as Ray has it."""


@dataclass(frozen=True)
class Report:
    """An epoch has ended."""

    epoch: int
    metrics: dict[str, float]
    images: tuple[str, ...] = ()
    """Images written to the storage since the previous message: paths relative to the trial's folder."""
    startup_seconds: float | None = None
    gpu_share: float | None = None
    """The trial's peak share of its GPU's memory, 0 to 1."""
    resumable: bool = False
    """Whether the trial could be paused after this epoch: the workload has handed over a checkpoint of it."""
    resumed: bool = False
    """Whether the trial resumes from this epoch's checkpoint; the driver may have recorded this report already."""
    best: tuple[int, tuple[float, ...]] | None = None
    """A resumed trial's best epoch so far, and the values of all objectives at that epoch."""
    device: str | None = None
    """What rank 0 trains on, as a person knows it."""
    system: dict[str, float] = field(default_factory=dict)
    """What rank 0's process and its host took, by name; empty in most reports of short epochs."""


@dataclass(frozen=True)
class End:
    """The trial has ended."""

    state: Literal["finished", "stopped", "failed"]
    reason: str | None = None
    images: tuple[str, ...] = ()
    tainted: bool = False
    """Whether its process must not run another trial (tuner/worker/isolation.py)."""


@dataclass(frozen=True)
class Paused:
    """The trial has written a checkpoint, and gives up its slot as it was told to: by its scheduler, or to move."""

    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class FidelityChanged:
    """The trial has written a checkpoint, and goes on from it with the next values of scheduler.fidelity.

    Ranks send it before they read the checkpoint, which rank 0 has written: the decision comes when all have sent it.
    """

    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interruption:
    """The attempt has ended but not the trial, which must run again: its hyperparameters didn't cause this."""

    reason: str
    storage: bool = False
    """True if the storage or a disk failed, which may last; False if the trial's processes died."""
    at_start: bool = False
    """Whether its worker group died before all ranks were there: the place failed, not the trial."""


@dataclass(frozen=True)
class StorageWait:
    """The trial waits for the storage; the Decision is whether to keep waiting. sentence: the error; None: resolved."""

    sentence: str | None


Message = Begun | Report | End | Paused | FidelityChanged | Interruption | StorageWait


class Action(Enum):
    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"
    """Write a checkpoint and leave the slot. Only a Report that is `resumable` is answered so."""
    WAIT = "wait"
    """The node isn't checked yet: ask again. Only Begun is answered so."""


@dataclass(frozen=True)
class Decision:
    """The driver's answer to a message, given after the message is in the event log."""

    action: Action
    reason: str | None = None
    """Why the trial stops."""
    keep: bool = False
    """Whether the trial, if it ended now, would be among the best, whose weights are kept."""


Send = Callable[[Message], Decision]
"""Sends a message and waits for the decision on it."""
