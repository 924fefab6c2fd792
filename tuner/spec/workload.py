"""The contract with the trainer that is tuned, and loading a trainer by its package name.

A workload is a Python package with four names (docs/workloads.md shows a complete small one):

    Config                                          pydantic model of every hyperparameter
    prepare(config) -> Prepared                     checks and prepares what all trials share; raises ValueError
    train(config, *, report, resume_from, device)   trains; calls report(metrics, checkpoint) after each epoch
    export(checkpoint_dir, output_dir) -> Exported  files for use elsewhere, checked, with the score they reach

`report` takes plain numbers, "epoch" among them (a metric that is NaN is left out, the objective must be finite), and
what a checkpoint of the epoch can be had from: a directory that was written, which it may move away; a Snapshot, of
which it writes no more than is needed, beside training; or None, an epoch that can't be exported or resumed. It
may raise SystemExit to end the trial, which `train` lets through. In a trial of several ranks every rank calls it, rank
0 with the checkpoint. In a checkpoint, `resume/` holds what only resuming needs and `images/*.png` the images to
show; the rest is what `export` needs.

`device` is a torch.device, or None for a package that doesn't import torch: its slots then don't either.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import BaseModel

from tuner.errors import StudyError

_NAMES = ("Config", "prepare", "train", "export")


class SnapshotCopy(Protocol):
    """A run as it was at the end of an epoch, to be written at any time, in any thread."""

    def write(self, directory: Path) -> None:
        """A whole checkpoint in a directory that this makes; without resume/ if the copy was made without."""

    def write_images(self, directory: Path) -> None:
        """Only the images, *.png, into a directory that exists."""


class Snapshot(Protocol):
    """A run at the end of an epoch, good until `report` returns."""

    def copy(self, *, resume: bool) -> SnapshotCopy:
        """What training is about to change, copied; resume: with what only resuming needs."""


class Report(Protocol):
    """Called by every rank after each epoch; a barrier; may raise SystemExit to end the trial."""

    def __call__(self, metrics: dict[str, float], checkpoint: Path | Snapshot | None, /) -> None: ...


class Prepared(Protocol):
    """What `prepare` found out."""

    @property
    def summary(self) -> str:
        """One line that a person reads."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names that `train` will report."""

    # `warnings`, a tuple of sentences for a person, may be there too; and `data`, strings by name that tell these data
    # from others, such as split and fingerprint: MLflow shows them.


class Format(Protocol):
    """One file of an export."""

    @property
    def file(self) -> str:
        """Its path inside the output directory."""

    @property
    def parity(self) -> float:
        """Largest difference between its outputs and the checkpoint's."""


class Exported(Protocol):
    """What `export` wrote and what it scored."""

    @property
    def formats(self) -> Mapping[str, Format]: ...
    @property
    def metrics(self) -> Mapping[str, float]:
        """Scored again on the validation split, under the names that `train` reports."""

    @property
    def test_metrics(self) -> Mapping[str, float]:
        """Scored once on the test split; empty where there is none."""

    # If it likes, usage: a command to try the export with, with {output} for its folder.


class Workload(Protocol):
    """A package that can be tuned."""

    Config: type[BaseModel]

    def prepare(self, config: Any) -> Prepared: ...
    def train(self, config: Any, *, report: Report, resume_from: Path | None, device: Any) -> None: ...
    def export(self, checkpoint_dir: Path, output_dir: Path) -> Exported: ...


def load(package: str) -> Workload:
    """Import a workload. Raises StudyError if there is none of that name or it lacks a part of the contract."""
    none = StudyError(
        f"workload: a Python package that can be imported is needed, got {package!r}; "
        "start the command in the folder that holds it, or install it"
    )
    if not all(part.isidentifier() for part in package.split(".")):
        raise none
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        # One that the workload itself imports and that isn't there is the workload's own mistake.
        if error.name is None or not (package == error.name or package.startswith(error.name + ".")):
            raise
        raise none from None
    missing = [name for name in _NAMES if not hasattr(module, name)]
    if missing:
        raise StudyError(
            f"workload: {package} must define {', '.join(_NAMES)}, but lacks {', '.join(missing)}; "
            "docs/workloads.md shows a complete one"
        )
    return cast(Workload, module)


@functools.cache
def uses_torch(package: str) -> bool:
    """Whether importing the workload imports torch, in this process. Raises what `load` raises."""
    load(package)
    return "torch" in sys.modules
