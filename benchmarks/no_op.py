"""A workload that trains nothing and reports three times: what is left of a trial is what its surroundings cost.

`python -m benchmarks.no_op LEARNING_RATE` is the same as a process of its own, which prints its reports.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch  # as every trainer does: its import is most of a new process
from pydantic import BaseModel, ConfigDict

REPORTS = 3


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Prepared:
    summary: str = "nothing to train"
    metrics: tuple[str, ...] = ("epoch", "score")


def prepare(config: Config) -> Prepared:
    del config
    return Prepared()


def train(config: Config, *, report: Any, resume_from: Path | None = None, device: Any = None) -> None:
    del resume_from, device
    for epoch in range(1, REPORTS + 1):
        report({"epoch": float(epoch), "score": epoch * config.learning_rate}, None)


def export(checkpoint_dir: Path, output_dir: Path) -> NoReturn:
    raise NotImplementedError(f"there is no model to export from {checkpoint_dir} to {output_dir}")


if __name__ == "__main__":
    torch.manual_seed(0)
    train(Config(learning_rate=float(sys.argv[1])), report=lambda metrics, _: print(metrics["score"], flush=True))
