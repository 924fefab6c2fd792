"""Syne Tune's searches, each in a process of an interpreter that has it: this project's own need not."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.curves.simulation import Ending
from benchmarks.curves.tasks import Params, Task
from tuner.search.schedulers.rungs import Verdict

_SCRIPT = Path(__file__).with_name("syne_tune_process.py")


@dataclass(frozen=True)
class Baseline:
    """One of Syne Tune's, with what differs from its defaults."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


SEARCHES = {
    "syne-tune-cqr": Baseline("ASHACQR"),
    "syne-tune-cqr-grace-3": Baseline("ASHACQR", {"grace_period": 3}),
    "syne-tune-bore": Baseline("ASHABORE"),
    "syne-tune-mobster": Baseline("MOBSTER"),
    "syne-tune-bohb": Baseline("BOHB"),
}


def interpreters(pythons: Sequence[str]) -> dict[str, str]:
    """By search, the first of these interpreters that has it; a search that none has is left out."""
    found: dict[str, str] = {}
    for python in pythons:
        # -I: the script's folder must not stand in for the interpreter's own modules.
        done = subprocess.run([python, "-I", str(_SCRIPT), "--baselines"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{python} couldn't be asked for Syne Tune's baselines:\n{done.stderr[-3000:]}")
        has = json.loads(done.stdout)
        found = {name: python for name, baseline in SEARCHES.items() if baseline.name in has} | found
    return found


class SyneTune:
    """A search of Syne Tune's on one task, over its process's input and output."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]):
        """errors: what the process writes to standard error."""
        self._process, self._errors = process, errors
        self._cpu_seconds = 0.0

    def begin(self, task: Task, seed: int, baseline: Baseline) -> None:
        self._ask(
            baseline=baseline.name,
            space=task.space,
            direction=task.direction,
            epochs=task.epochs,
            seed=seed,
            options=baseline.options,
        )

    def next(self) -> tuple[int, Params]:
        found = self._ask(call="next")
        return found["trial"], found["params"]

    def report(self, trial: int, epoch: int, value: float) -> Verdict:
        return Verdict[self._ask(call="report", trial=trial, epoch=epoch, value=value)["verdict"]]

    def end(self, trial: int, state: Ending) -> None:
        self._ask(call="end", trial=trial, state=state)

    def cpu_seconds(self) -> float:
        """Of this process and of the scheduler's together."""
        return time.process_time() + self._cpu_seconds

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it has ended: there is no answer either
            pass
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            why = self._errors.read()[-3000:]
            raise RuntimeError(f"Syne Tune's process ended while it was asked {json.dumps(request)}:\n{why}")
        found: dict[str, Any] = json.loads(line)
        self._cpu_seconds = found["cpu_seconds"]
        return found


@contextmanager
def syne_tune(task: Task, seed: int, python: str, baseline: Baseline) -> Iterator[SyneTune]:
    """The search, whose process ends with the block. python: an interpreter that has the baseline."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [python, "-I", str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        search = SyneTune(process, errors)
        search.begin(task, seed, baseline)
        yield search
