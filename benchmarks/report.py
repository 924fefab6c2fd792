"""What every benchmark prints and writes: medians of repeated runs, goals, hardware, versions and commit."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
_LIBRARIES = ("torch", "numpy", "pillow", "ray", "optuna", "mlflow", "syne-tune")
# Student's t for 95 % of 2, 3, … samples; beyond ten the normal value is close enough.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Row:
    """One figure. value None: it couldn't be measured, and the name says why."""

    name: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Goal:
    """What a figure is to reach. met None: it wasn't measured, or this hardware is not the goal's."""

    name: str
    value: float | None
    goal: str
    met: bool | None


class Report:
    """Rows and goals of one benchmark, on the machine that this process runs on."""

    def __init__(self, title: str):
        self.title = title
        self.rows: list[Row] = []
        self.goals: list[Goal] = []
        self.hardware = hardware()
        self.versions = versions()

    def median(self, name: str, unit: str, samples: Sequence[float]) -> float:
        """A row of repeated runs: their median, the least and the greatest."""
        self.rows.append(Row(name, statistics.median(samples), unit, min(samples), max(samples)))
        return statistics.median(samples)

    def mean(self, name: str, unit: str, samples: Sequence[float]) -> float:
        """A row of independent runs: their mean and its 95 % confidence interval (Student's t)."""
        centre, reach = statistics.fmean(samples), interval(samples)
        self.rows.append(Row(name, centre, unit, centre - reach, centre + reach))
        return centre

    def figure(self, name: str, unit: str, value: float) -> None:
        """A row that was measured once."""
        self.rows.append(Row(name, value, unit))

    def missing(self, name: str, unit: str, why: str) -> None:
        """A row that couldn't be measured."""
        self.rows.append(Row(f"{name}: {why}", None, unit))

    def at_most(self, name: str, value: float | None, bound: float) -> None:
        self.goals.append(Goal(name, value, f"<= {bound:g}", None if value is None else value <= bound))

    def at_least(self, name: str, value: float | None, bound: float, *, applies: bool = True) -> None:
        """applies: whether this hardware is the goal's; the figure is shown in any case."""
        met = None if value is None or not applies else value >= bound
        self.goals.append(Goal(name, value, f">= {bound:g}", met))

    def as_json(self) -> dict[str, Any]:
        return {
            "hardware": self.hardware,
            "versions": self.versions,
            "rows": [asdict(row) for row in self.rows],
            "goals": [asdict(goal) for goal in self.goals],
        }

    def finish(self, path: Path | None) -> None:
        """Print the tables, and write the JSON where a path is given."""
        self.hardware["load_after"] = os.getloadavg()[0]
        console = Console(highlight=False)
        table = Table("", "value", "unit", "low", "high", title=self.title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.rows:
            table.add_row(row.name, _number(row.value), row.unit, _number(row.low), _number(row.high))
        console.print(table)
        if self.goals:
            goals = Table("goal", "value", "bound", "met")
            for goal in self.goals:
                met = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "–"}[goal.met]
                goals.add_row(goal.name, _number(goal.value), goal.goal, met)
            console.print(goals)
        for what in (self.hardware, self.versions):
            console.print("  ".join(f"{key} {value}" for key, value in what.items()), style="dim", soft_wrap=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--quick", action="store_true", help="small counts: whether it runs, not how fast")
    return parser


def interval(samples: Sequence[float]) -> float:
    """Half the width of the mean's 95 % confidence interval; infinite for a single sample."""
    if len(samples) < 2:
        return math.inf
    factor = _T95[len(samples) - 2] if len(samples) - 2 < len(_T95) else 1.96
    return factor * statistics.stdev(samples) / math.sqrt(len(samples))


def hardware() -> dict[str, Any]:
    """This machine, and how busy it is: load_before is the mean number of running processes of the last minute."""
    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "avx512_bf16": has_bfloat16(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": os.getloadavg()[0],
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def versions() -> dict[str, str]:
    """Of Python, the libraries that are here, and this project; and when it was measured."""
    found = {"date": time.strftime("%Y-%m-%d %H:%M"), "commit": _commit(), "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """With a + if the measured code differs from it; unknown outside a checkout."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno", "fcn", "tuner"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
