"""A workload that trains nothing: its score follows from its setting and its epoch, so a test knows every number.

A whole one by the contract in tuner/spec/workload.py, with many ways to fail. It doesn't import torch; torch_replay.py
is the same for studies whose slots are to be those of a torch trainer.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

NO_DATA_HERE = "REPLAY_NO_DATA_HERE"
"""Set in the environment of a node, its data are missing."""


class Config(BaseModel):
    """Every setting of a replayed run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=3, ge=0)
    x: float = Field(default=0.5, ge=0, le=10)
    """The score that endless epochs would reach."""
    batch_size: int = Field(default=4, ge=1, le=64)
    optimizer: Literal["adam", "sgd"] = "adam"
    part: float = Field(default=1.0, gt=0, le=1)
    """Written into the log: what share of its data the epoch saw."""
    bonus: float = 0.0
    """Added to every score that is measured with it."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    dip_epoch: int | None = None
    """The epoch whose score is far below the one before."""
    step_seconds: float = Field(default=0.0, ge=0)
    """What an epoch takes."""
    collective: bool = False
    """Whether the ranks meet in an all_reduce in each epoch."""
    fail: Literal[
        "none", "raise", "nan", "missing", "exit_once", "exit", "sys_exit", "nan_side", "segfault", "hang", "hang_once"
    ] = "none"
    fail_epoch: int = 2
    fail_rank: int | None = None
    """The rank that fails; None: all."""
    fail_below: float = 10.0
    """Only runs with x below this fail."""
    log: Path | None = None
    """File that gets one line an epoch trained: x, epoch, rank, process id."""
    drift: float = 0.0
    """How much better an exported model scores than it did in training."""
    together: int = 1
    """How many runs wait for each other before their first epoch, by files beside the log."""
    cost: float | None = None
    """Reports a third metric, cost: x times this."""
    missing_data: bool = False
    data: Path | None = None
    """A file that is the data: its text is their fingerprint."""
    checkpoint_bytes: int = 1000
    snapshots: bool = False
    """Whether it hands over snapshots, which the tuner writes as it likes, in place of directories."""
    write_seconds: float = 0.0
    """What writing a snapshot takes."""
    gpu_share: float | None = None
    """What it pretends to take of a GPU's memory."""


@dataclass(frozen=True)
class Prepared:
    """What prepare found out."""

    summary: str = "nothing to read"
    metrics: tuple[str, ...] = ("score", "loss")
    data: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One file of an export."""

    file: str
    parity: float


@dataclass(frozen=True)
class Exported:
    """What export wrote and what it scored."""

    formats: dict[str, Format]
    metrics: dict[str, float]
    test_metrics: dict[str, float] = field(default_factory=dict)


def score(config: Config, epoch: int) -> float:
    """The truth that tests compare with: rises to x, but for one dip."""
    dip = 0.4 * config.x if epoch == config.dip_epoch else 0.0
    return config.x * (1 - 0.5**epoch) - dip + config.bonus


def prepare(config: Config) -> Prepared:
    if config.missing_data or NO_DATA_HERE in os.environ:
        raise ValueError("fixed.missing_data: frames are needed, got none; take missing_data out")
    metrics = Prepared.metrics if config.cost is None else (*Prepared.metrics, "cost")
    return Prepared(metrics=metrics, data={"fingerprint": config.data.read_text()} if config.data else {})


def train(config: Config, *, report: Any, resume_from: Path | None = None, device: Any = None) -> None:
    if config.gpu_share is not None:
        _pretend_gpu(config.gpu_share)
    prepare(config)
    group = _group()
    rank = group.get_rank() if group else 0
    _meet(config)
    state = json.loads((resume_from / "resume" / "state.json").read_text()) if resume_from else {"epoch": 0}
    for epoch in range(state["epoch"] + 1, config.epochs + 1):
        time.sleep(config.step_seconds)
        if config.fail_rank in (None, rank) and config.x < config.fail_below:
            _fail(config, epoch)
        if config.collective and group:
            group.all_reduce(sys.modules["torch"].ones(1))
        if config.log:
            with config.log.open("a") as log:
                log.write(f"{config.x!r} {epoch} {rank} {os.getpid()} {config.part:g}\n")
        measures = {"epoch": float(epoch), "score": score(config, epoch), "loss": 1 - score(config, epoch)}
        if config.cost is not None:
            measures["cost"] = config.cost * config.x
        if epoch == config.fail_epoch and config.fail == "nan":
            measures["score"] = math.nan
        if epoch == config.fail_epoch and config.fail == "nan_side":
            measures["loss"] = math.nan
        if epoch == config.fail_epoch and config.fail == "missing":
            del measures["score"]
        if rank > 0:
            report(measures, None)
        elif config.snapshots:
            report(measures, Snapshot(config, epoch))
        else:
            directory = write_checkpoint(config, epoch)
            try:
                report(measures, directory)
            finally:
                shutil.rmtree(directory, ignore_errors=True)


def _group() -> Any:
    """torch.distributed in a rank of several, else None; like the rest of this file it brings no torch along."""
    if "torch" not in sys.modules:
        return None
    import torch.distributed

    return torch.distributed if torch.distributed.is_initialized() else None


def _meet(config: Config) -> None:
    """Wait until as many runs have come as are to be there at once."""
    if config.together > 1:
        assert config.log is not None
        there = config.log.with_name("together")
        there.mkdir(exist_ok=True)
        (there / repr(config.x)).touch()
        while len(list(there.iterdir())) < config.together:
            time.sleep(0.05)


def _pretend_gpu(share: float) -> None:
    """What torch would say in a process that has taken this share of a GPU's 80 GB."""
    import torch

    total = 80e9
    said = {
        "is_initialized": True,
        "mem_get_info": (0, total),
        "max_memory_reserved": share * total - 600e6,
        "empty_cache": None,
    }
    for name, value in said.items():
        setattr(torch.cuda, name, lambda value=value: value)


def _fail(config: Config, epoch: int) -> None:
    if epoch != config.fail_epoch:
        return
    if config.fail == "raise":
        raise ValueError(f"x is too small: {config.x:.3f}")
    if config.fail == "sys_exit":
        raise SystemExit(1)
    if config.fail == "exit":
        os._exit(1)
    if config.fail == "segfault":
        ctypes.string_at(0)
    if config.fail == "hang" or (config.fail == "hang_once" and _first_time(config)):
        threading.Event().wait()
    if config.fail == "exit_once" and _first_time(config):
        os._exit(1)


def _first_time(config: Config) -> bool:
    assert config.log is not None
    marker = config.log.with_name(f"failed-{config.x!r}")
    if marker.exists():
        return False
    marker.touch()
    return True


@dataclass(frozen=True)
class SnapshotCopy:
    """A run as it was at the end of an epoch."""

    config: Config
    epoch: int
    resume: bool

    def write(self, directory: Path) -> None:
        time.sleep(self.config.write_seconds)
        directory.mkdir()
        write_checkpoint(self.config, self.epoch, directory)
        if not self.resume:
            shutil.rmtree(directory / "resume")

    def write_images(self, directory: Path) -> None:
        Image.new("RGB", (8, 8), (self.epoch % 256, 0, 0)).save(directory / "frame_a.png")


@dataclass(frozen=True)
class Snapshot:
    """A run at the end of an epoch."""

    config: Config
    epoch: int

    def copy(self, *, resume: bool) -> SnapshotCopy:
        return SnapshotCopy(self.config, self.epoch, resume)


def write_checkpoint(config: Config, epoch: int, directory: Path | None = None) -> Path:
    """What a checkpoint directory holds by the contract: resume/, images/, and what export needs."""
    directory = directory or Path(tempfile.mkdtemp(prefix="replay-"))
    (directory / "resume").mkdir()
    (directory / "resume" / "state.json").write_text(json.dumps({"epoch": epoch}))
    (directory / "images").mkdir()
    Image.new("RGB", (8, 8), (epoch % 256, 0, 0)).save(directory / "images" / "frame_a.png")
    (directory / "config.json").write_text(config.model_dump_json())
    (directory / "weights.bin").write_bytes(b"w" * config.checkpoint_bytes)
    (directory / "epoch.txt").write_text(str(epoch))
    return directory


def export(checkpoint_dir: Path, output_dir: Path) -> Exported:
    config = Config.model_validate_json((checkpoint_dir / "config.json").read_text())
    epoch = int((checkpoint_dir / "epoch.txt").read_text())
    output_dir.mkdir(exist_ok=True)
    shutil.copyfile(checkpoint_dir / "weights.bin", output_dir / "weights.bin")
    return Exported({"weights": Format("weights.bin", 0.0)}, {"score": score(config, epoch) + config.drift})
