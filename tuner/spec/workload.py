"""The contract with the trainer that is tuned, and loading a trainer by its package name.

A workload is a Python package with four names (docs/workloads.md shows a complete small one):

    Config                                          pydantic model of every hyperparameter
    prepare(config) -> Prepared                     checks and prepares what all trials share; raises ValueError
    train(config, *, report, resume_from, device)   trains; calls report(metrics, checkpoint) after each epoch
    export(checkpoint_dir, output_dir) -> Exported  files for use elsewhere, checked, with the score they reach

`report` takes metrics, with "epoch" among them (NaN metrics are dropped, but the objective must be finite), and a
checkpoint of the epoch: a directory, which it may move away; a Snapshot, which is written beside training and only when
it is needed; or None if the epoch can't be exported or resumed. It may raise SystemExit to stop the trial; `train` must
not catch it. In a trial of several ranks every rank calls it, and rank 0 passes the checkpoint. In a checkpoint,
`resume/` has the files that only resuming needs, `images/*.png` are the images to show, and `export` needs the rest.

`device` is a torch.device, or None for a package that doesn't import torch, whose slots don't import it either.
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
    """A copy of a run at the end of an epoch, which can be written at any time, in any thread."""

    def write(self, directory: Path) -> None:
        """Create this directory with a complete checkpoint; without resume/ if the copy was made with resume=False."""

    def write_images(self, directory: Path) -> None:
        """Write only the images, *.png, into an existing directory."""


class Snapshot(Protocol):
    """A run at the end of an epoch, valid until `report` returns."""

    def copy(self, *, resume: bool) -> SnapshotCopy:
        """Copy everything that training is about to change. resume: with the state that only resuming needs."""


class Report(Protocol):
    """Called by every rank after each epoch. It is a barrier, and may raise SystemExit to stop the trial."""

    def __call__(self, metrics: dict[str, float], checkpoint: Path | Snapshot | None, /) -> None: ...


class Prepared(Protocol):
    """The result of `prepare`."""

    @property
    def summary(self) -> str:
        """One line for the user."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names that `train` will report."""

    # Optional: `warnings`, a tuple of sentences for the user; `data`, strings by name that identify the data (its
    # split, for example), which MLflow shows, and whose "fingerprint" must be the same on every node; and
    # `checkpoint_bytes`, two numbers, of a checkpoint's weights and of what only resuming needs, for the forecast.


class Format(Protocol):
    """One file of an export."""

    @property
    def file(self) -> str:
        """Its path inside the output directory."""

    @property
    def parity(self) -> float:
        """Largest difference between its outputs and the checkpoint's."""


class Exported(Protocol):
    """The files that `export` wrote, and their scores."""

    @property
    def formats(self) -> Mapping[str, Format]: ...
    @property
    def metrics(self) -> Mapping[str, float]:
        """Scored again on the validation split, under the names that `train` reports."""

    @property
    def test_metrics(self) -> Mapping[str, float]:
        """Scored once on the test split; empty where there is none."""

    # Optional: `usage`, a command to try the export with; {output} stands for its folder.


class Workload(Protocol):
    """A package that can be tuned."""

    Config: type[BaseModel]

    def prepare(self, config: Any) -> Prepared: ...
    def train(self, config: Any, *, report: Report, resume_from: Path | None, device: Any) -> None: ...
    def export(self, checkpoint_dir: Path, output_dir: Path) -> Exported: ...


def fingerprint(prepared: Prepared) -> str | None:
    """What tells its data from all others; None if the workload doesn't say."""
    data: Mapping[str, str] | None = getattr(prepared, "data", None)
    return (data or {}).get("fingerprint")


def load(package: str) -> Workload:
    """Import a workload. Raises StudyError if there is none of that name or it lacks a part of the contract."""
    not_found = StudyError(
        f"workload: a Python package that can be imported is needed, got {package!r}; "
        "start the command in the folder that holds it, or install it"
    )
    if not all(part.isidentifier() for part in package.split(".")):
        raise not_found
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        # A module that the workload itself imports and that is missing is the workload's own error.
        if error.name is None or not (package == error.name or package.startswith(error.name + ".")):
            raise
        raise not_found from None
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
