"""StudySpec: a study file, checked whole before anything starts."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from tuner.errors import StudyError
from tuner.spec import workload as workloads
from tuner.spec.space import Dimension, Scalar, ordered

_DIMENSION: TypeAdapter[Dimension] = TypeAdapter(Dimension)
_TAKEN = ("artifacts", "mlflow.db")
_ADD_IT = "; add it to [fixed]"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Objective(_Table):
    """The one measure that sampler, scheduler, retention, tracking and best all read."""

    metric: str = Field(min_length=1)
    direction: Literal["maximize", "minimize"] = "maximize"

    def better(self, value: float, than: float | None) -> bool:
        if than is None:
            return True
        return value > than if self.direction == "maximize" else value < than


class Search(_Table):
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = Field(default=0, ge=0, lt=2**31)


class Scheduler(_Table):
    name: Literal["asha", "none"] = "asha"
    grace_epochs: int = Field(default=3, ge=1)
    reduction_factor: float = Field(default=3.0, gt=1)


class Budget(_Table):
    trials: int = Field(ge=1)
    time_seconds: float | None = Field(default=None, gt=0)


class Resources(_Table):
    """What one trial takes, and how many trials run at a time."""

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


class Checkpoints(_Table):
    keep: int = Field(default=3, ge=1)


class Failures(_Table):
    max_retries: int = Field(default=3, ge=0)
    no_report_seconds: float | None = Field(default=None, gt=0)
    storage_wait_seconds: float = Field(default=3600, gt=0)
    stop_after: int = Field(default=5, ge=1)


class StudySpec(_Table):
    """Everything that a study file says. Every key is in search_spaces/README.md."""

    id: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    """Drawn when the study is first run, never in a study file: another study of its name is not this one."""
    name: str
    workload: str = "fcn"
    objective: Objective
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    budget: Budget
    resources: Resources = Resources()
    checkpoints: Checkpoints = Checkpoints()
    failures: Failures = Failures()
    fixed: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Dimension] = Field(min_length=1)
    first_trials: tuple[dict[str, Scalar], ...] = ()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "letters, digits, '.', '_' and '-' are allowed, first a letter or digit, at most 100; "
                f"got {name!r}; give another name"
            )
        if name in _TAKEN:
            raise ValueError(f"the storage keeps something else under {name!r}; give another name")
        return name

    @model_validator(mode="after")
    def _parts_agree(self) -> StudySpec:
        problems = [
            f"space.{name}: a setting is either fixed or sampled, got both; drop it from [fixed]"
            for name in self.space
            if name in self.fixed
        ]
        problems += self._condition_problems()
        problems += self._first_trial_problems()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _condition_problems(self) -> Iterable[str]:
        for name, dimension in self.space.items():
            for parent, allowed in dimension.when.items():
                if parent not in self.space:
                    yield (
                        f"space.{name}.when: a condition names another sampled setting, got {parent!r}"
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
            yield f"space: {error}; take one out"

    def _first_trial_problems(self) -> Iterable[str]:
        for number, params in enumerate(self.first_trials, start=1):
            place = f"first_trials[{number}]"
            for name, value in params.items():
                if name not in self.space:
                    yield f"{place}.{name}: only settings of [space] can be given{nearest(name, self.space)}"
                elif not self.space[name].contains(value):
                    yield (
                        f"{place}.{name}: the value must lie in the space ({self.space[name]}), "
                        f"got {value!r}; widen the space or drop the trial"
                    )

    @property
    def mode(self) -> Literal["max", "min"]:
        """Ray Tune's word for the direction."""
        return "max" if self.objective.direction == "maximize" else "min"


def read_study(path: Path, overrides: Iterable[str] = (), name: str | None = None) -> StudySpec:
    """Read and check a study file.

    overrides: "table.key=value" strings that replace what the file says; a value is read as TOML, else as text.
    Raises StudyError with one line for each mistake, all at once.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path}: a study file is needed, got no such file; see search_spaces/ for examples") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: must be TOML: {error}; correct that line") from None
    except OSError as error:
        raise StudyError(f"{path}: must be a file that can be read: {error.strerror}") from None
    for override in overrides:
        _apply(override, raw)
    if "id" in raw:
        raise StudyError(f"{path}: id: no such key; remove it")
    raw["name"] = name or raw.get("name", path.stem)
    return check_study(raw, place=str(path))


def override_study(spec: StudySpec, overrides: Iterable[str]) -> StudySpec:
    """The same study with "table.key=value" changes, checked again."""
    raw = spec.model_dump(mode="json")
    for override in overrides:
        _apply(override, raw)
    return check_study(raw, place=spec.name)


def check_study(raw: dict[str, Any], place: str) -> StudySpec:
    """Validate what a study file says, the workload's settings included. Raises StudyError with every mistake."""
    problems: list[str] = []
    spec: StudySpec | None = None
    try:
        spec = StudySpec.model_validate(raw)
    except ValidationError as error:
        problems += [line for detail in error.errors() for line in _study_lines(detail)]
    problems += _config_problems(raw, spec)
    if problems or spec is None:
        raise StudyError("\n".join(f"{place}: {line}" for line in dict.fromkeys(problems)))
    return spec


def first_config(spec: StudySpec) -> BaseModel:
    """A Config in the middle of nowhere special: the fixed settings with the first endpoint of each sampled one."""
    first = {name: dimension.endpoints[0] for name, dimension in spec.space.items()}
    return workloads.load(spec.workload).Config(**{**spec.fixed, **first})


def _config_problems(raw: dict[str, Any], spec: StudySpec | None) -> list[str]:
    """Mistakes that only the workload's Config can see: unknown settings, values out of bounds."""
    package = raw.get("workload", "fcn")
    if not isinstance(package, str):
        return []
    try:
        config_type = workloads.load(package).Config
    except StudyError as error:
        return [str(error)]
    fields = config_type.model_fields
    problems = [
        f"{table}.{key}: {package}.Config has no such field" + nearest(key, fields)
        for table in ("fixed", "space")
        for key in _table_of(raw, table)
        if key not in fields
    ]
    known = {key: value for key, value in _table_of(raw, "fixed").items() if key in fields}
    # What only sampling gives isn't missing yet.
    problems += [line for line in _config_lines(config_type, known, {}) if not line.endswith(_ADD_IT)]
    for name, dimension in _readable_dimensions(raw):
        if name in fields:
            for endpoint in dimension.endpoints:
                # Only what is wrong with this one setting; what is wrong with the others is said once.
                lines = _config_lines(config_type, known, {name: endpoint})
                problems += [line for line in lines if line.startswith(f"space.{name}:")]
    if spec is not None and not problems:
        for corner in _corners(spec):
            problems += _config_lines(config_type, spec.fixed, corner)
    return problems


def _table_of(raw: dict[str, Any], name: str) -> dict[str, Any]:
    table = raw.get(name)
    return table if isinstance(table, dict) else {}


def _readable_dimensions(raw: dict[str, Any]) -> Iterable[tuple[str, Dimension]]:
    for name, entry in _table_of(raw, "space").items():
        with contextlib.suppress(ValidationError):
            yield name, _DIMENSION.validate_python(entry)


def _corners(spec: StudySpec) -> Iterable[dict[str, Scalar]]:
    """Settings that between them visit every endpoint of every dimension."""
    most = max(len(dimension.endpoints) for dimension in spec.space.values())
    for index in range(most):
        yield {name: d.endpoints[min(index, len(d.endpoints) - 1)] for name, d in spec.space.items()}


def _config_lines(config_type: type[BaseModel], fixed: dict[str, Any], sampled: dict[str, Any]) -> list[str]:
    try:
        config_type(**{**fixed, **sampled})
    except ValidationError as error:
        lines = []
        for detail in error.errors():
            where = ".".join(str(part) for part in detail["loc"])
            table = "space" if detail["loc"] and detail["loc"][0] in sampled else "fixed"
            if detail["type"] == "missing":
                lines.append(f"fixed.{where}: {config_type.__name__} needs it{_ADD_IT}")
                continue
            got = "" if not detail["loc"] or detail["type"] == "value_error" else f", got {detail['input']!r}"
            lines.append(f"{table}{'.' if where else ''}{where}: {_message(detail)}{got}")
        return lines
    return []


def _study_lines(detail: Any) -> list[str]:
    """One line for each mistake in one of pydantic's error records."""
    loc = [part for part in detail["loc"] if part not in ("float", "int", "choice") or len(detail["loc"]) < 3]
    where = ".".join(str(part) for part in loc)
    if detail["type"] == "extra_forbidden":
        return [f"{where}: no such key" + nearest(str(loc[-1]), _keys_at(loc[:-1], detail["loc"]))]
    if detail["type"] == "missing":
        return [f"{where}: this key is needed; add it (search_spaces/README.md lists the keys)"]
    if detail["type"].startswith("union_tag"):
        return [f'{where}.type: "float", "int" or "choice" is needed, got {_tag(detail["input"])}; say which it is']
    message = _message(detail)
    if not loc:
        return message.split("\n")
    if detail["type"] == "value_error":
        return [f"{where}: {message}"]
    return [f"{where}: {message}, got {detail['input']!r}"]


def _message(detail: Any) -> str:
    text: str = detail["msg"].removeprefix("Value error, ")
    return text[0].lower() + text[1:] if text.startswith("Input ") else text


def _tag(value: Any) -> str:
    return repr(value["type"]) if isinstance(value, dict) and "type" in value else "none"


def _keys_at(loc: list[Any], full: tuple[Any, ...]) -> Iterable[str]:
    """The keys that a table of the study file may have."""
    if not loc:
        return StudySpec.model_fields
    if loc[0] == "space":
        return {"type", "low", "high", "log", "step", "choices", "when"} if len(full) > 2 else set()
    table = StudySpec.model_fields.get(str(loc[0]))
    model = table.annotation if table else None
    return model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else ()


def nearest(key: str, known: Iterable[str]) -> str:
    """What to do about a name that isn't known."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; remove it"


def _apply(override: str, raw: dict[str, Any]) -> None:
    """Set one "table.key=value" in place."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise StudyError(f"--set: table.key=value is needed, got {override!r}; for example --set budget.trials=20")
    table = raw
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise StudyError(f"--set {override}: {key} is a value, not a table; name a key of a table")
        table = inner
    table[keys[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def to_json(spec: StudySpec) -> str:
    return json.dumps(spec.model_dump(mode="json"), indent=2)
