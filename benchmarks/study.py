"""A study of this project as a person runs it, and what its events say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT

Event = dict[str, Any]


def run_study(
    tables: dict[str, Any],
    storage: Path,
    watch: Callable[[int, list[Event]], bool] | None = None,
    address: str | None = None,
) -> list[Event]:
    """Run `python -m tuner run` on a study of these tables, and return its events.

    watch: called every fifth of a second with the process id of the study and the events that are new; True: enough,
    the study is stopped. address: of the Ray that it runs on; None: a Ray of its own.
    Raises RuntimeError with the end of what the study printed if it fails.
    """
    name = tables["name"]
    storage.mkdir(parents=True, exist_ok=True)
    file, output = storage / f"{name}.toml", storage / f"{name}.log"
    file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in tables.items()), encoding="utf-8")
    journal = _Journal(storage / name / "events.jsonl")
    stopped = False
    with output.open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tuner", "run", str(file), "--storage", str(storage)),
                *(("--address", address) if address else ()),
            ],
            cwd=ROOT,
            env=clean_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if watch is not None and not stopped and watch(process.pid, journal.read()):
                    stopped = True
                    process.terminate()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)
    if process.returncode and not stopped:
        raise RuntimeError(f"{name} ended with {process.returncode}:\n{output.read_text()[-3000:]}")
    return _Journal(journal.path).read()


def clean_environment() -> dict[str, str]:
    """This process's environment without what would change Ray's or MLflow's defaults."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_", "MLFLOW_"))}


class _Journal:
    """A study's events file, read bit by bit while it grows."""

    def __init__(self, path: Path):
        self.path, self._offset = path, 0

    def read(self) -> list[Event]:
        """The events that have come since the last time."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        return [json.loads(line) for line in data[:whole].splitlines()]


def gaps(events: list[Event]) -> tuple[float, list[float]]:
    """Seconds from the run's begin to its first trial's end, then between the ends of consecutive trials."""
    begin = next(event["time"] for event in events if event["event"] == "run")
    ends = [event["time"] for event in events if event["event"] == "end"]
    return ends[0] - begin, [after - before for before, after in pairwise(ends)]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return json.dumps(value if not isinstance(value, Path) else str(value))
