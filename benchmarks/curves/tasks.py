"""Public learning curves as tasks: LCBench's surrogate (34 tasks, 52 epochs) and Taskset's tables (51 steps).

LCBench: Zimmer, Lindauer, Hutter, Auto-PyTorch Tabular, TPAMI 2021, as YAHPO Gym's surrogate (Pfisterer et al. 2022),
an ONNX model: validation accuracy, to maximize.
Taskset: Metz et al. 2020, as prepared for DyHPO (Wistuba et al. 2022), tables of 1,000 settings: validation loss, to
minimize. Any setting has the curve of the nearest in the table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Params = dict[str, Any]

_LCBENCH_EPOCHS = 52
_LCBENCH_SPACE: dict[str, dict[str, Any]] = {  # in the order of the surrogate's inputs
    "batch_size": {"type": "int", "low": 16, "high": 512, "log": True},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "momentum": {"type": "float", "low": 0.1, "high": 0.99},
    "weight_decay": {"type": "float", "low": 1e-5, "high": 1e-1},
    "num_layers": {"type": "int", "low": 1, "high": 5},
    "max_units": {"type": "int", "low": 64, "high": 1024, "log": True},
    "max_dropout": {"type": "float", "low": 0.0, "high": 1.0},
}
_SECONDS, _VAL_ACCURACY = 0, 1  # among the surrogate's outputs
_RANDOM_SETTINGS = 2000  # whose median is 1 of the normalised regret
_CLIMBS, _CLIMBERS, _STEPS = 8, 20, 300


class Task(Protocol):
    """One data set's learning curves, over a search space."""

    name: str
    space: dict[str, dict[str, Any]]
    """As a study file has it."""
    direction: Literal["maximize", "minimize"]
    epochs: int
    chosen_on: bool
    """Whether the search's own numbers were settled on it."""
    others: Sequence[Task]
    """Those of the same kind, the next ones first."""

    def curve(self, params: Params) -> Array:
        """The objective's value after each epoch (epochs,); a trial fails at the first that isn't finite."""

    @property
    def best_and_median(self) -> tuple[float, float]:
        """The best known value, and the median of the best values of random settings trained to the end."""


class LCBench:
    """A data set of LCBench."""

    space, epochs = _LCBENCH_SPACE, _LCBENCH_EPOCHS
    direction: Literal["maximize", "minimize"] = "maximize"

    def __init__(self, session: Any, name: str, code: int, chosen_on: bool):
        """session: of the surrogate. code: the data set's among its inputs."""
        self.name, self.chosen_on = f"lcbench/{name}", chosen_on
        self.others: Sequence[Task] = ()
        self._session, self._code = session, code

    def curve(self, params: Params) -> Array:
        found: Array = self._values([params], np.arange(1, self.epochs + 1))[0]
        return found

    def seconds(self, params: Sequence[Params]) -> Array:
        """(N,): how long N settings train to the end."""
        return self._values(params, np.array([self.epochs]), _SECONDS)[:, 0]

    def _values(self, params: Sequence[Params], epochs: NDArray[np.int_], output: int = _VAL_ACCURACY) -> Array:
        """(N, E): of N settings after each of E epochs."""
        settings = np.array([[each[name] for name in self.space] for each in params], dtype=np.float32)
        at = np.tile(epochs.astype(np.float32), len(params))[:, None]
        rows = np.concatenate([at, np.repeat(settings, len(epochs), axis=0)], axis=1)
        codes = np.full((len(rows), 1), self._code, dtype=np.int32)
        found = self._session.run(None, {"x_cat": codes, "x_cont": rows})[0][:, output]
        return np.asarray(found.reshape(len(params), len(epochs)), dtype=np.float64)

    @cached_property
    def best_and_median(self) -> tuple[float, float]:
        """By random settings, and climbing from the best of them: nobody has published the surrogate's optimum."""
        rng, few = np.random.default_rng(0), np.array([13, 26, 39, 52])
        places = rng.random((_RANDOM_SETTINGS, len(self.space)))
        values = self._values(settings_at(self.space, places), few).max(axis=1)
        median = float(np.median(values))
        for climb in range(_CLIMBS):
            leading = places[np.argsort(-values)[:_CLIMBERS]]
            tried = leading[rng.integers(len(leading), size=_STEPS)]
            moved = rng.random(tried.shape) < 0.5
            tried = np.clip(tried + moved * rng.normal(0, 0.2 * 0.7**climb, tried.shape), 0, 1)
            places = np.concatenate([places, tried])
            values = np.concatenate([values, self._values(settings_at(self.space, tried), few).max(axis=1)])
        leading = places[np.argsort(-values)[:_CLIMBERS]]
        return float(self._values(settings_at(self.space, leading), np.arange(1, self.epochs + 1)).max()), median


class Taskset:
    """A table of Taskset's."""

    direction: Literal["maximize", "minimize"] = "minimize"

    def __init__(self, file: Path, chosen_on: bool):
        table = json.loads(file.read_text(encoding="utf-8"))
        settings = [_reparametrised(entry["hp"]) for entry in table]
        self.name, self.chosen_on = f"taskset/{file.stem}", chosen_on
        self.others: Sequence[Task] = ()
        self.space = {name: _range([setting[name] for setting in settings]) for name in settings[0]}
        self._places = np.array([_place(self.space, setting) for setting in settings])
        self._curves = np.array([entry["valid"]["loss"] for entry in table], dtype=np.float64)
        self.epochs = self._curves.shape[1]

    def curve(self, params: Params) -> Array:
        distances = ((self._places - _place(self.space, params)) ** 2).sum(axis=1)
        found: Array = self._curves[distances.argmin()]
        return found

    @cached_property
    def best_and_median(self) -> tuple[float, float]:
        bests = np.where(np.isfinite(self._curves), self._curves, np.inf).min(axis=1)
        return float(bests.min()), float(np.median(bests))


def load(folder: Path) -> list[Task]:
    """All tasks that the folder holds: lcbench/ and taskset/*.json, either may be missing.

    Choices are made on every second one, from the first on, in the order of encoding.json and of the file names.
    """
    lcbench: list[Task] = []
    if (folder / "lcbench" / "model.onnx").exists():
        lcbench += _lcbench(folder / "lcbench")
    files = sorted((folder / "taskset").glob("*.json"))
    taskset: list[Task] = [Taskset(file, place % 2 == 0) for place, file in enumerate(files)]
    for kind in (lcbench, taskset):
        for place, task in enumerate(kind):
            task.others = kind[place + 1 :] + kind[:place]
    return lcbench + taskset


def _lcbench(folder: Path) -> list[LCBench]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    codes = json.loads((folder / "encoding.json").read_text(encoding="utf-8"))["OpenML_task_id"]
    parameters = json.loads((folder / "config_space.json").read_text(encoding="utf-8"))["hyperparameters"]
    known = next(entry["choices"] for entry in parameters if entry["name"] == "OpenML_task_id")
    names = [name for name in codes if name in known]
    return [LCBench(session, name, codes[name], place % 2 == 0) for place, name in enumerate(names)]


def regret(task: Task, value: float) -> float:
    """Of the best value that a search found: 0 is the best known, 1 the median random setting; at most 1."""
    best, median = task.best_and_median
    return min((best - value) / (best - median), 1.0)


def settings_at(space: dict[str, dict[str, Any]], places: Array) -> list[Params]:
    """The settings (N) at places (N, D) of the unit cube, D hyperparameters in the space's order."""
    found: list[Params] = [{} for _ in places]
    for (name, entry), column in zip(space.items(), places.T, strict=True):
        low, high = _ends(entry)
        values = low + column * (high - low)
        for params, value in zip(found, np.exp(values) if entry.get("log") else values, strict=True):
            params[name] = min(max(float(value), entry["low"]), entry["high"])
            if entry["type"] == "int":
                params[name] = round(params[name])
    return found


def _place(space: dict[str, dict[str, Any]], params: Params) -> Array:
    """(D,): where in the unit cube a setting lies."""
    found = np.empty(len(space))
    for column, (name, entry) in enumerate(space.items()):
        low, high = _ends(entry)
        value = np.log(params[name]) if entry.get("log") else params[name]
        found[column] = (value - low) / (high - low)
    return found


def _ends(entry: dict[str, Any]) -> tuple[float, float]:
    low, high = float(entry["low"]), float(entry["high"])
    return (float(np.log(low)), float(np.log(high))) if entry.get("log") else (low, high)


def _range(values: list[float]) -> dict[str, Any]:
    return {"type": "float", "low": min(values), "high": max(values), "log": True}


def _reparametrised(params: dict[str, float]) -> Params:
    """The momenta by their distance from 1, whose logarithm is what was sampled evenly."""
    return {
        (f"one_minus_{name}" if name.startswith("beta") else name): (
            max(1 - value, 1e-6) if name.startswith("beta") else value
        )
        for name, value in params.items()
    }
