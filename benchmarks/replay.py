"""A workload that replays learning curves: all a study does but training.

A curve rises to a value that depends on the hyperparameters, with the dips and noise of road IoU. Nothing is written.
An epoch takes no time unless `epoch_seconds` says so.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(1e-3, gt=0)
    batch_size: Literal[1, 2, 4, 8, 16] = 4
    dropout: float = Field(0.5, ge=0, lt=1)
    l2: float = Field(1e-3, ge=0)
    epochs: int = Field(27, ge=1)
    epoch_seconds: float = Field(0.0, ge=0)


@dataclass(frozen=True)
class Prepared:
    summary: str = "learning curves that are known"
    metrics: tuple[str, ...] = ("epoch", "val/iou_road", "val/loss", "train/loss", "train/learning_rate")


def prepare(config: Config) -> Prepared:
    del config
    return Prepared()


def curve(config: Config) -> list[float]:
    """IoU after each epoch; the same hyperparameters always give the same values."""
    distance = abs(math.log10(config.learning_rate / 2e-4 / math.sqrt(config.batch_size)))
    worth = 0.93 * math.exp(-0.25 * distance**2) - 0.05 * (config.dropout - 0.3) ** 2 - 2 * config.l2
    rng = np.random.default_rng(abs(hash((config.learning_rate, config.dropout, config.l2))))
    noise = rng.normal(0, 0.01, config.epochs) - 0.1 * (rng.random(config.epochs) < 0.05)
    return [max(0.0, worth * (1 - math.exp(-epoch / 4)) + noise[epoch - 1]) for epoch in range(1, config.epochs + 1)]


def train(config: Config, *, report: Any, resume_from: Path | None = None, device: Any = None) -> None:
    del resume_from, device
    for epoch, iou in enumerate(curve(config), start=1):
        time.sleep(config.epoch_seconds)
        measures = {"val/iou_road": iou, "val/loss": 1 - iou, "train/loss": 1 - iou}
        report({"epoch": float(epoch), "train/learning_rate": config.learning_rate, **measures}, None)


def export(checkpoint_dir: Path, output_dir: Path) -> NoReturn:
    raise NotImplementedError(f"there is no model to export from {checkpoint_dir} to {output_dir}")
