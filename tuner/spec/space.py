"""The search space: the hyperparameters of a study file, each with its range, as Optuna distributions.

Optuna is imported where it is used: a trial's process, which doesn't propose, would start later for it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

Scalar = bool | int | float | str


class _Dimension(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    when: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    """Sampled only in trials where each named choice has one of these values."""


class _Range(_Dimension):
    """The base of float and int ranges."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> _Range:
        if not self.low < self.high:
            raise ValueError(f"low < high must hold, got low={self.low}, high={self.high}; swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range needs low > 0, got low={self.low}; raise low or remove log")
        if self.log and self.step is not None:
            raise ValueError(f"a log range takes no step, got step={self.step}; remove one of the two")
        if self.step is not None and not self._on_grid(self.high):
            last = self.low + self.step * int((self.high - self.low) / self.step)
            raise ValueError(
                f"high must be low plus whole steps, got low={self.low}, high={self.high}, step={self.step}; "
                f"use high={last:g}"
            )
        return self

    @property
    def endpoints(self) -> tuple[Scalar, ...]:
        return (self.low, self.high)

    def contains(self, value: Scalar) -> bool:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and self.low <= value <= self.high
            and self._on_grid(value)
        )

    def _on_grid(self, value: float) -> bool:
        """Optuna's rule, to the same precision."""
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def __str__(self) -> str:
        kind = ", log" if self.log else f", step {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{kind}"


class Float(_Range):
    """A real number from low to high, both included."""

    type: Literal["float"]

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)


class Int(_Range):
    """A whole number from low to high, both included."""

    type: Literal["int"]
    low: int
    high: int
    step: int | None = Field(default=None, gt=0)

    def contains(self, value: Scalar) -> bool:
        return super().contains(value) and value == int(value)

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step or 1)

    def suggest(self, trial: optuna.Trial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step or 1)


class Choice(_Dimension):
    """One of a list of values, with no order between them."""

    type: Literal["choice"]
    choices: tuple[Scalar, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        seen = [(type(choice), choice) for choice in self.choices]
        if len(set(seen)) != len(seen):
            raise ValueError(f"choices must differ, got {list(self.choices)}; remove the duplicate")
        return self

    @property
    def endpoints(self) -> tuple[Scalar, ...]:
        return self.choices

    def contains(self, value: Scalar) -> bool:
        return value in self.choices

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        return cast(Scalar, trial.suggest_categorical(name, self.choices))

    def __str__(self) -> str:
        return " | ".join(str(choice) for choice in self.choices)


Dimension = Annotated[Float | Int | Choice, Field(discriminator="type")]


def ordered(space: dict[str, Dimension]) -> list[str]:
    """Names of the hyperparameters: each parent of a condition before its children, else in the file's order.

    Raises ValueError if the conditions form a cycle.
    """
    names: list[str] = []
    remaining = list(space)
    while remaining:
        ready = [name for name in remaining if all(parent in names for parent in space[name].when)]
        if not ready:
            raise ValueError(f"conditions must not form a cycle, got {', '.join(remaining)}")
        names += ready
        remaining = [name for name in remaining if name not in ready]
    return names


def is_active(dimension: Dimension, params: dict[str, Any]) -> bool:
    """Whether a hyperparameter is sampled in a trial that has these values of its parents."""
    return all(parent in params and params[parent] in allowed for parent, allowed in dimension.when.items())


def distributions(space: dict[str, Dimension]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each hyperparameter."""
    return {name: dimension.distribution() for name, dimension in space.items()}


def sample(space: dict[str, Dimension], trial: optuna.Trial) -> dict[str, Scalar]:
    """Ask Optuna for every active hyperparameter of one trial, parents first."""
    params: dict[str, Scalar] = {}
    for name in ordered(space):
        if is_active(space[name], params):
            params[name] = space[name].suggest(trial, name)
    return params
