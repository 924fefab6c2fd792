"""fcn, with the CPU seconds that an epoch took in every report: other processes' load changes them little."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import fcn

Config, prepare, export = fcn.Config, fcn.prepare, fcn.export
CPU_SECONDS = "time/cpu_seconds"


def train(config: fcn.Config, *, report: Any, resume_from: Path | None = None, device: Any = None) -> None:
    before = time.process_time()

    def clocked(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        nonlocal before
        report({**metrics, CPU_SECONDS: time.process_time() - before}, snapshot)
        # What the tuner does with a report is not training.
        before = time.process_time()

    fcn.train(config, report=clocked, resume_from=resume_from, device=device)
