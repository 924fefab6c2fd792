"""Syne Tune's searches in the benchmark on learning curves: the process that runs them, and what is said without it."""

from __future__ import annotations

import json
import os
import statistics
import sys
import venv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from benchmarks.curves import __main__ as benchmark
from benchmarks.curves.simulation import Ending, Method, simulate
from benchmarks.curves.syne_tune_searches import SEARCHES, interpreters, syne_tune
from benchmarks.curves.tasks import Array, Params, Task
from tuner.search.schedulers.rungs import Verdict


class Bowl:
    """Curves that all rise alike, to a value that is the better the nearer the two are to 0.3 and 30."""

    name, epochs, chosen_on, best_and_median = "bowl", 9, False, (0.0, 1.0)
    direction: Literal["maximize", "minimize"]
    others: Sequence[Task] = ()
    space: dict[str, dict[str, Any]] = {  # noqa: RUF012
        "x": {"type": "float", "low": 0.0, "high": 1.0},
        "n": {"type": "int", "low": 1, "high": 1000, "log": True},
    }

    def __init__(self, direction: Literal["maximize", "minimize"]):
        self.direction = direction

    def curve(self, params: Params) -> Array:
        assert isinstance(params["n"], int)
        falling = self.distance(params) + 1 / np.arange(1, self.epochs + 1)
        return -falling if self.direction == "maximize" else falling

    def distance(self, params: Params) -> float:
        return float(abs(params["x"] - 0.3) + abs(np.log10(params["n"] / 30)) / 3)


class Seen:
    """A search, and what became of its trials."""

    def __init__(self, search: Method):
        self._search = search
        self.params: dict[int, Params] = {}
        self.ends: dict[int, int] = {}
        """The epoch after which each trial ended."""
        self._epochs: dict[int, int] = {}

    def next(self) -> tuple[int, Params]:
        trial, params = self._search.next()
        self.params[trial] = params
        return trial, params

    def report(self, trial: int, epoch: int, value: float) -> Verdict:
        self._epochs[trial] = epoch
        return self._search.report(trial, epoch, value)

    def end(self, trial: int, state: Ending) -> None:
        self.ends[trial] = self._epochs[trial]
        self._search.end(trial, state)


@cache
def _with_syne_tune() -> dict[str, str]:
    return interpreters(os.environ.get("SYNE_TUNE_PYTHON", sys.executable).split())


_FAST = "syne-tune-bohb"


@pytest.fixture(params=[pytest.param(name, marks=() if name == _FAST else pytest.mark.slow) for name in SEARCHES])
def search(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name not in _with_syne_tune():
        why = "SYNE_TUNE_PYTHON names no interpreter that has Syne Tune's"
        pytest.skip(f"{why} {SEARCHES[name].name}: docs/search_benchmarks.md says how to install it")
    return name


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_each_of_syne_tunes_searches_trains_the_better_trials_longer(
    search: str, direction: Literal["maximize", "minimize"]
) -> None:
    task = Bowl(direction)
    with syne_tune(task, 0, _with_syne_tune()[search], SEARCHES[search]) as found:
        seen = Seen(found)
        run = simulate(task, seen, 2, 72, found.cpu_seconds)
    distances = [task.distance(seen.params[trial]) for trial in seen.ends]
    long = [distance for distance, epochs in zip(distances, seen.ends.values(), strict=True) if epochs == task.epochs]
    assert 0 < len(long) < len(distances)
    assert statistics.fmean(long) < statistics.fmean(distances)
    assert run.seconds > 0


def test_a_search_of_syne_tunes_proposes_the_same_for_the_same_seed(search: str) -> None:
    task = Bowl("maximize")
    runs = []
    for _ in range(2):
        with syne_tune(task, 3, _with_syne_tune()[search], SEARCHES[search]) as found:
            seen = Seen(found)
            simulate(task, seen, 2, 36)
        runs.append(seen.params)
    assert runs[0] == runs[1]


def test_an_interpreter_without_syne_tune_says_so_when_it_is_asked_for_a_search(tmp_path: Path) -> None:
    python = _bare_interpreter(tmp_path)
    assert interpreters([python]) == {}
    with (
        pytest.raises(RuntimeError, match=r"ended while it was asked .*BOHB.*\n(.*\n)*.*No module named"),
        syne_tune(Bowl("maximize"), 0, python, SEARCHES["syne-tune-bohb"]),
    ):
        pass


def test_a_search_that_no_interpreter_has_is_reported_as_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taskset").mkdir()
    table = [
        {"hp": {"learning_rate": rate}, "valid": {"loss": [1.0, loss]}} for rate, loss in ((1e-4, 0.5), (1e-2, 0.25))
    ]
    for name in ("a", "b"):
        (tmp_path / "taskset" / f"{name}.json").write_text(json.dumps(table))
    figures = tmp_path / "figures.json"
    words = ["--data", tmp_path, "--methods", "random", "syne-tune-mobster", "--seeds", 1, "--trainings", 2]
    words += ["--workers", 1, "--syne-tune-python", _bare_interpreter(tmp_path), "--json", figures]
    monkeypatch.setattr(sys, "argv", ["curves", *map(str, words)])
    benchmark.main()
    rows = {row["name"]: row["value"] for row in json.loads(figures.read_text())["rows"]}
    assert rows["1 held-out tasks: random: regret"] is not None
    missing = "syne-tune-mobster: regret: not measured, none of --syne-tune-python has Syne Tune's MOBSTER"
    assert [name for name in rows if "syne" in name] == [missing]
    assert rows[missing] is None


def _bare_interpreter(folder: Path) -> str:
    venv.create(folder / "bare", symlinks=True)
    return str(folder / "bare" / "bin" / "python")
