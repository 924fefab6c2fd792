"""StudySpec: the contents of a study file as checked values. study_file.py reads a file into one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tuner.spec.fidelity import fidelity_problems, with_full_fidelity
from tuner.spec.grid import grid_problems
from tuner.spec.space import Choice, Dimension, Scalar, ordered
from tuner.spec.study_tables import (
    Budget,
    Checkpoints,
    Constraint,
    Failures,
    Objective,
    Resources,
    Scheduler,
    Search,
    Table,
)
from tuner.spec.taken import Taken
from tuner.spec.validation_errors import nearest

RESERVED_NAMES = ("artifacts", "mlflow.db")
_MOST_OBJECTIVES = 4
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class StudySpec(Table):
    """A study file. search_spaces/README.md explains every key."""

    id: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    """Random, drawn when the study first runs; never in a study file. It distinguishes two studies of the same name."""
    name: str
    workload: str = "fcn"
    objective: Objective
    """The only one, or the first of several: by this one a trial's best epoch is chosen."""
    objectives: tuple[Objective, ...] = ()
    """All of them. A study file gives one as `objective`, or several as `objectives`."""
    constraints: tuple[Constraint, ...] = ()
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    budget: Budget
    resources: Resources = Resources()
    checkpoints: Checkpoints = Checkpoints()
    failures: Failures = Failures()
    fixed: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Dimension] = Field(min_length=1)
    first_trials: tuple[dict[str, Scalar], ...] = ()
    taken: tuple[Taken, ...] = ()
    """What became the last of `first_trials` when the study first ran, for each of search.from_studies; never in a
    study file. Empty, too, in a study of an earlier version."""

    @model_validator(mode="before")
    @classmethod
    def _full_fidelity_is_fixed(cls, raw: Any) -> Any:
        """Whoever reads [fixed] sees the fields of scheduler.fidelity at their last values."""
        return with_full_fidelity(raw) if isinstance(raw, dict) else raw

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "letters, digits, '.', '_' and '-' are allowed, first a letter or digit, at most 100; "
                f"got {name!r}; give another name"
            )
        if name in RESERVED_NAMES:
            raise ValueError(f"the storage keeps something else under {name!r}; give another name")
        return name

    @model_validator(mode="before")
    @classmethod
    def _one_objective_or_several(cls, tables: Any) -> Any:
        """Derives the key that is missing from the other."""
        if not isinstance(tables, dict):
            return tables
        one, several = tables.get("objective"), tables.get("objectives")
        if one is None and isinstance(several, list | tuple) and several:
            return {**tables, "objective": several[0]}
        if one is not None and not several:
            return {**tables, "objectives": [one]}
        return tables

    @model_validator(mode="after")
    def _parts_agree(self) -> StudySpec:
        problems = list(self._objective_problems())
        problems += [
            f"space.{name}: a config field is either fixed or sampled, got both; remove it from [fixed]"
            for name in self.space
            if name in self.fixed
        ]
        problems += fidelity_problems(self.scheduler, self.fixed, self.space)
        problems += self._constraint_problems()
        problems += self._condition_problems()
        problems += self._first_trial_problems()
        problems += self._control_trial_problems()
        if self.search.sampler == "grid" and not problems:
            problems += grid_problems(self.space, self.budget.trials, len(self.first_trials))
        if self.search.sampler == "cmaes" and all(isinstance(d, Choice) or d.when for d in self.space.values()):
            problems.append(
                "space: cmaes needs a float or int hyperparameter without a condition, got "
                f'{", ".join(self.space)}; use sampler = "tpe"'
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _objective_problems(self) -> Iterable[str]:
        metrics = [objective.metric for objective in self.objectives]
        if self.objectives[0] != self.objective:
            yield (
                f"objective and objectives: the first of several is {self.objectives[0]}, got {self.objective}; "
                "give objective for one, or objectives for several"
            )
        for number, metric in enumerate(metrics, start=1):
            if metric in metrics[: number - 1]:
                yield f"objectives[{number}]: {metric} is an objective already; remove one of them"
        if len(metrics) == 1:
            return
        if len(metrics) > _MOST_OBJECTIVES:
            yield (
                f"objectives: at most {_MOST_OBJECTIVES} are possible, since of many hardly a trial is worse in all "
                f"than another, got {len(metrics)}; make some of them constraints"
            )
        if self.search.sampler == "cmaes":
            yield (
                "search.sampler: cmaes takes one objective, got "
                f'{len(metrics)}; use "gp_curves", "tpe", "gp" or "nsga2"'
            )
        if self.budget.stop_when.value is not None:
            yield (
                f"budget.stop_when.value: is the value of one objective, and there are {len(metrics)}; remove it, or "
                "use no_improvement_trials"
            )
        if self.scheduler.control_trials:
            yield (f"scheduler.control_trials: take one objective, got {len(metrics)}; set it to 0")
        if self.scheduler.fidelity:
            yield (f"scheduler.fidelity: takes one objective, got {len(metrics)}; remove it, or all objectives but one")

    def _constraint_problems(self) -> Iterable[str]:
        for number, one in enumerate(self.constraints, start=1):
            for other in self.constraints[: number - 1]:
                if other.metric == one.metric and (other.at_most is None) == (one.at_most is None):
                    yield f"constraints[{number}]: {one.metric} is limited once already, {other}; remove one of them"
                elif other.metric == one.metric:
                    low, high = (one, other) if one.at_most is None else (other, one)
                    if low.limit > high.limit:
                        yield f"constraints[{number}]: {one.metric} can't be {low} and {high}; correct one of them"

    def _condition_problems(self) -> Iterable[str]:
        for name, dimension in self.space.items():
            for parent, allowed in dimension.when.items():
                if parent not in self.space:
                    yield (
                        f"space.{name}.when: a condition must name another hyperparameter of [space], got {parent!r}"
                        + nearest(parent, self.space)
                    )
                    continue
                for value in allowed:
                    if not self.space[parent].contains(value):
                        yield (
                            f"space.{name}.when.{parent}: the value must be one that {parent} can take "
                            f"({self.space[parent]}), got {value!r}; correct it"
                        )
        try:
            ordered({name: d for name, d in self.space.items() if all(p in self.space for p in d.when)})
        except ValueError as error:
            yield f"space: {error}; remove one condition"

    def _first_trial_problems(self) -> Iterable[str]:
        for number, params in enumerate(self.first_trials, start=1):
            key = f"first_trials[{number}]"
            for name, value in params.items():
                if name not in self.space:
                    yield f"{key}.{name}: only hyperparameters of [space] can be given{nearest(name, self.space)}"
                elif not self.space[name].contains(value):
                    yield (
                        f"{key}.{name}: the value must lie in the space ({self.space[name]}), "
                        f"got {value!r}; widen the space or remove the trial"
                    )

    def _control_trial_problems(self) -> Iterable[str]:
        wanted, most = self.scheduler.control_trials, self.budget.trials - len(self.first_trials)
        if not wanted:
            return
        if self.scheduler.name == "none":
            yield (
                "scheduler.control_trials: they show what early stopping would have stopped, and scheduler.name = "
                f'"none" stops no trial; got {wanted}: set it to 0, or name a scheduler'
            )
        elif wanted > most:
            yield (
                f"scheduler.control_trials: at most {max(0, most)}, the budget's trials without the first trials, of "
                f"which none is a control trial; got {wanted}: set it lower, or budget.trials higher"
            )

    def needed_metrics(self) -> list[tuple[str, str]]:
        """(place in the study file, metric) of each metric that the objectives and the constraints name."""
        several = len(self.objectives) > 1
        named = [
            (f"objectives[{number}].metric" if several else "objective.metric", objective.metric)
            for number, objective in enumerate(self.objectives, start=1)
        ]
        limits = enumerate(self.constraints, start=1)
        return [*named, *((f"constraints[{number}].metric", constraint.metric) for number, constraint in limits)]

    def values_of(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """The values of all objectives in a report of these metrics. Raises KeyError if it lacks one."""
        return tuple(metrics[objective.metric] for objective in self.objectives)

    def signed(self, values: Iterable[float]) -> tuple[float, ...]:
        """The values of all objectives, each turned so that greater is better."""
        return tuple(objective.signed(value) for objective, value in zip(self.objectives, values, strict=True))

    @property
    def goal(self) -> str:
        """What the study is to do, in words: "maximize val/mean_iou and minimize time/epoch_seconds"."""
        return " and ".join(map(str, self.objectives))

    def outranks(self, value: float, epoch: int, than: float | None, than_epoch: int | None) -> bool:
        """Whether a trial's best is rather `value` at `epoch` than `than` at `than_epoch`.

        Values of different fidelities aren't comparable: that of the later one counts. Any value is better than None.
        """
        ahead = self.scheduler.stretch(epoch) - self.scheduler.stretch(than_epoch or epoch)
        return self.objective.better(value, than) if ahead == 0 or than is None else ahead > 0

    def broken_by(self, metrics: Mapping[str, float]) -> Constraint | None:
        """The first constraint that a report of these metrics doesn't keep. One whose metric it lacks is kept."""
        return next(
            (each for each in self.constraints if each.metric in metrics and not each.keeps(metrics[each.metric])), None
        )

    def taken_from(self) -> dict[str, str]:
        """Of a study that has begun: in words, by earlier study, which of its trials became first trials."""
        known = {each.study: str(each) for each in self.taken}
        return {name: known.get(name, "not recorded by this version of tuner") for name in self.search.from_studies}

    @property
    def mode(self) -> Literal["max", "min"]:
        """The direction in Ray Tune's terms."""
        return "max" if self.objective.direction == "maximize" else "min"


def tables(spec: StudySpec) -> dict[str, Any]:
    """The spec as a study file's tables, in JSON's types: with `objective` for one objective, or `objectives`."""
    found = spec.model_dump(mode="json")
    del found["objectives" if len(spec.objectives) == 1 else "objective"]
    return found


def to_json(spec: StudySpec) -> str:
    """The spec as JSON, for study.json: StudySpec.model_validate reads it back."""
    return json.dumps(tables(spec), indent=2)
