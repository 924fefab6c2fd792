"""The tables of a study file, each checked by itself; study.py checks what they say of each other."""

from __future__ import annotations

import bisect
import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Table(BaseModel):
    """A table of a study file: no other keys than its own, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Objective(Table):
    """A metric by which the sampler, the scheduler, retention, tracking and `best` compare trials."""

    metric: str = Field(min_length=1)
    direction: Literal["maximize", "minimize"] = "maximize"

    def better(self, value: float, than: float | None) -> bool:
        """Whether value is better than `than`. Any value is better than None; an equal one is not better."""
        if than is None:
            return True
        return value > than if self.direction == "maximize" else value < than

    def signed(self, value: float) -> float:
        """The value, turned so that greater is better."""
        return value if self.direction == "maximize" else -value

    def __str__(self) -> str:
        return f"{self.direction} {self.metric}"


class Constraint(Table):
    """A limit of a metric: an epoch whose report doesn't keep it doesn't count as a trial's best."""

    metric: str = Field(min_length=1)
    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Constraint:
        if (self.at_most is None) == (self.at_least is None):
            got = "neither" if self.at_most is None else "both"
            raise ValueError(f"one of at_most and at_least is needed, got {got}; give one, or two constraints")
        return self

    @property
    def limit(self) -> float:
        return self.at_most if self.at_most is not None else self.at_least or 0.0

    def __str__(self) -> str:
        return f"{'at least' if self.at_most is None else 'at most'} {self.limit:g}"

    def keeps(self, value: float) -> bool:
        return value >= self.limit if self.at_most is None else value <= self.limit


class Search(Table):
    sampler: Literal["gp_curves", "tpe", "gp", "cmaes", "nsga2", "random", "qmc", "grid"] = "gp_curves"
    seed: int = Field(default=0, ge=0, lt=2**31)
    from_studies: tuple[str, ...] = ()
    """Studies of the same storage: the hyperparameters of their best trials are this one's first trials."""


class Scheduler(Table):
    name: Literal["asha", "promotion", "hyperband", "median", "none"] = "asha"
    grace_epochs: int = Field(default=3, ge=1)
    reduction_factor: float = Field(default=3.0, gt=1)
    max_paused: int = Field(default=8, ge=1)
    """Of promotion: trials that may wait paused, each with a checkpoint in the storage."""
    brackets: int = Field(default=3, ge=1, le=10)
    """Of hyperband: how many times later, by the reduction factor, its latest trials are first judged, and one."""
    control_trials: int = Field(default=0, ge=0)
    """Trials that early stopping leaves alone, so that they show what it does (search/schedulers/control_trials.py)."""
    fidelity: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Config fields that change at rungs: of each its value up to the first rung, to the second, …, and to the end."""

    @property
    def changes(self) -> tuple[int, ...]:
        """The epochs after which the fields of `fidelity` take their next value; each is the first one at a rung."""
        count = max(map(len, self.fidelity.values()), default=1) - 1
        return tuple(math.ceil(self.grace_epochs * self.reduction_factor**rung) for rung in range(count))

    def stretch(self, epoch: int) -> int:
        """How many times the fields of `fidelity` have changed before this epoch is trained."""
        return bisect.bisect_left(self.changes, epoch) if self.fidelity else 0

    def fidelity_at(self, epoch: int) -> dict[str, Any]:
        """The fields of `fidelity` with the values that this epoch is trained with."""
        return {name: values[self.stretch(epoch)] for name, values in self.fidelity.items()}


class StopWhen(Table):
    """Limits of which the first that is reached ends the study, over all of its runs. None: no such limit."""

    value: float | None = None
    no_improvement_trials: int | None = Field(default=None, ge=1)
    device_hours: float | None = Field(default=None, gt=0)
    cost: float | None = Field(default=None, gt=0)
    price_per_device_hour: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> StopWhen:
        if (self.cost is None) != (self.price_per_device_hour is None):
            given, missing = (
                ("price_per_device_hour", "cost") if self.cost is None else ("cost", "price_per_device_hour")
            )
            raise ValueError(
                f"cost and price_per_device_hour need each other, got {given} = {getattr(self, given):g} alone; "
                f"add {missing} or remove {given}"
            )
        return self


class Budget(Table):
    trials: int = Field(ge=1)
    time_seconds: float | None = Field(default=None, gt=0)
    stop_when: StopWhen = StopWhen()


class Resources(Table):
    """The CPUs and GPUs of one trial, and how many trials run at a time."""

    workers: int = Field(default=1, ge=1)
    cpus_per_worker: float = Field(default=1, gt=0)
    gpus_per_worker: float | Literal["auto"] = Field(default="auto")
    max_concurrent_trials: int | Literal["auto"] = Field(default="auto")

    @field_validator("gpus_per_worker")
    @classmethod
    def _gpus_are_whole_or_shared(cls, gpus: float | str) -> float | str:
        if isinstance(gpus, float | int) and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise ValueError(f"a share of one GPU or a whole number of them is needed, got {gpus:g}; use 0.5, 1, 2, …")
        return gpus

    @field_validator("max_concurrent_trials")
    @classmethod
    def _at_least_one_trial(cls, trials: int | str) -> int | str:
        if isinstance(trials, int) and trials < 1:
            raise ValueError(f'at least one trial must run, got {trials}; use 1 or more, or "auto"')
        return trials

    def devices(self, gpus: float) -> float:
        """How many devices a trial holds whose workers have so many GPUs each: GPUs, or CPUs if it has no GPU."""
        return self.workers * (gpus or self.cpus_per_worker)


class Checkpoints(Table):
    keep: int = Field(default=3, ge=1)


class Failures(Table):
    max_retries: int = Field(default=3, ge=0)
    no_report_seconds: float | None = Field(default=None, gt=0)
    storage_wait_seconds: float = Field(default=3600, gt=0)
    stop_after: int = Field(default=5, ge=1)
