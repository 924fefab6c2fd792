"""A search space as a unit cube: hyperparameters to rows of numbers and back, for what measures distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tuner.search.gaussian_process import Array
from tuner.spec.space import Choice, Dimension, Scalar, is_active, ordered


class Encoding:
    """A range is one column, by its logarithm where it is sampled so; a choice is a column a value.

    What isn't sampled under a trial's conditions stands in the middle of its range: of two trials that differ in the
    condition, the condition's own columns tell.
    """

    def __init__(self, space: dict[str, Dimension]):
        self._space = {name: space[name] for name in ordered(space)}
        owners: list[int] = []
        self._columns: dict[str, slice] = {}
        for owner, (name, dimension) in enumerate(self._space.items()):
            width = len(dimension.choices) if isinstance(dimension, Choice) else 1
            self._columns[name] = slice(len(owners), len(owners) + width)
            owners += [owner] * width
        self.dimensions = list(self._space.values())
        self.owners = np.array(owners)
        """(D,): of each column, the place of its hyperparameter in the space."""

    def rows(self, params: Sequence[dict[str, Any]]) -> Array:
        """(N, D) of N trials' hyperparameters."""
        found = np.full((len(params), len(self.owners)), 0.5)
        for name, dimension in self._space.items():
            columns = self._columns[name]
            for row, given in zip(found, params, strict=True):
                row[columns] = _encode(dimension, given[name]) if name in given else _middle(dimension)
        return found

    def params(self, row: Array) -> dict[str, Scalar]:
        """The active hyperparameters of one row (D,)."""
        found: dict[str, Scalar] = {}
        for name, dimension in self._space.items():
            if is_active(dimension, found):
                found[name] = _decode(dimension, row[self._columns[name]])
        return found

    def random(self, rng: np.random.Generator) -> dict[str, Scalar]:
        return self.params(rng.random(len(self.owners)))

    def anywhere(self, rng: np.random.Generator, count: int) -> Array:
        """Rows (N, D) of settings drawn evenly."""
        return self._snapped(rng.random((count, len(self.owners))))

    def near(self, rng: np.random.Generator, rows: Array, count: int) -> Array:
        """Rows (N, D) of settings that differ from one of these rows (M, D), drawn evenly, in some hyperparameters."""
        near = rows[rng.integers(len(rows), size=count)].copy()
        hyperparameters = int(self.owners.max()) + 1
        moved = rng.random((count, hyperparameters)) < max(0.4, 1 / hyperparameters)
        moved[np.arange(count), rng.integers(hyperparameters, size=count)] = True
        reach = 10 ** rng.uniform(-2.0, -0.5, size=(count, 1))
        steps = reach * rng.standard_normal(near.shape)
        for dimension, columns in zip(self._space.values(), self._columns.values(), strict=True):
            if isinstance(dimension, Choice):
                steps[:, columns] = rng.random((count, columns.stop - columns.start)) - near[:, columns]
        return self._snapped(np.clip(near + steps * moved[:, self.owners], 0.0, 1.0))

    def _snapped(self, rows: Array) -> Array:
        """(N, D): each row moved to that of the hyperparameters that it stands for."""
        found, active = rows.copy(), {}
        for name, dimension in self._space.items():
            columns = self._columns[name]
            found[:, columns] = _snap(dimension, rows[:, columns])
            active[name] = np.ones(len(rows), dtype=bool)
            for parent, allowed in dimension.when.items():
                values = np.array([_encode(self._space[parent], value) for value in allowed]).reshape(len(allowed), -1)
                same = np.isclose(found[:, None, self._columns[parent]], values).all(axis=2).any(axis=1)
                active[name] &= active[parent] & same
            found[~active[name], columns] = _middle(dimension)
        return found


_APART = math.sqrt(0.5)  # so that two values of a choice lie one apart


def _encode(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Choice):
        return [_APART if choice == value and type(choice) is type(value) else 0.0 for choice in dimension.choices]
    low, high, value = float(dimension.low), float(dimension.high), float(value)
    if dimension.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _snap(dimension: Dimension, columns: Array) -> Array:
    """(N, width) as _encode gives it for the values that _decode finds there."""
    if isinstance(dimension, Choice):
        chosen: Array = _APART * np.eye(columns.shape[1])[columns.argmax(axis=1)]
        return chosen
    step = dimension.step or (1.0 if dimension.type == "int" else 0.0)
    if not step:
        return columns
    low, high = float(dimension.low), float(dimension.high)
    if dimension.log:
        ends = math.log(low), math.log(high)
        values = np.exp(ends[0] + columns * (ends[1] - ends[0]))
        values = np.clip(low + step * np.round((values - low) / step), low, high)
        found: Array = (np.log(values) - ends[0]) / (ends[1] - ends[0])
        return found
    evenly: Array = np.clip(np.round(columns * (high - low) / step) * step / (high - low), 0.0, 1.0)
    return evenly


def _middle(dimension: Dimension) -> Any:
    return [0.0] * len(dimension.choices) if isinstance(dimension, Choice) else 0.5


def _decode(dimension: Dimension, columns: Array) -> Scalar:
    if isinstance(dimension, Choice):
        return dimension.choices[int(np.argmax(columns))]
    low, high, place = float(dimension.low), float(dimension.high), float(columns[0])
    if dimension.log:
        value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    else:
        value = low + place * (high - low)
    if dimension.type == "int":
        step = dimension.step or 1
        return int(min(max(low + step * round((value - low) / step), low), high))
    if dimension.step is not None:
        value = low + dimension.step * round((value - low) / dimension.step)
    return min(max(value, low), high)
