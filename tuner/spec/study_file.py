"""A study file: read as TOML, merged with --set overrides, and checked, also against the workload's Config."""

from __future__ import annotations

import contextlib
import copy
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from tuner.errors import StudyError
from tuner.spec import workload as workloads
from tuner.spec.fidelity import length_problem
from tuner.spec.space import Dimension, Scalar
from tuner.spec.study import StudySpec, tables
from tuner.spec.toml import parse_value
from tuner.spec.validation_errors import ADD_TO_FIXED, config_problems, nearest, study_problems

_DIMENSION: TypeAdapter[Dimension] = TypeAdapter(Dimension)


def read_study(path: Path, overrides: Iterable[str] = (), name: str | None = None) -> StudySpec:
    """Read and check a study file.

    overrides: "table.key=value" strings that replace values of the file; a value is parsed as TOML, else taken as text.
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
    return study_of_tables({"name": path.stem, **raw}, overrides, name, place=str(path))


def study_of_tables(
    tables: Mapping[str, Any], overrides: Iterable[str] = (), name: str | None = None, *, place: str
) -> StudySpec:
    """Check the tables of a study file; overrides and name replace their values. Raises StudyError as `read_study`."""
    raw = copy.deepcopy(dict(tables))
    for override in overrides:
        _apply(override, raw)
    for key in ("id", "taken"):  # a study gets them when it begins
        if key in raw:
            raise StudyError(f"{place}: {key}: no such key; remove it")
    if name is not None:
        raw["name"] = name
    return check_study(raw, place=place)


def override_study(spec: StudySpec, overrides: Iterable[str]) -> StudySpec:
    """The same study with "table.key=value" changes, checked again. Raises StudyError as `read_study`."""
    raw = tables(spec)
    for override in overrides:
        _apply(override, raw)
    return check_study(raw, place=spec.name)


def check_study(raw: dict[str, Any], place: str) -> StudySpec:
    """Validate the tables of a study file, with the workload's config fields. place: the start of each message.

    Raises StudyError with one line for each mistake.
    """
    problems: list[str] = []
    spec: StudySpec | None = None
    try:
        spec = StudySpec.model_validate(raw)
    except ValidationError as error:
        # Of `objective` and `objectives` one is derived from the other, whose mistakes it repeats.
        given = {key for key in ("objective", "objectives") if raw.get(key)}
        derived = {"objective", "objectives"} - given if given else set()
        details = [detail for detail in error.errors() if derived.isdisjoint(detail["loc"][:1])]
        problems += [line for detail in details for line in study_problems(detail, StudySpec)]
    problems += _workload_problems(raw, spec)
    if problems or spec is None:
        raise StudyError("\n".join(f"{place}: {line}" for line in dict.fromkeys(problems)))
    return spec


def first_config(spec: StudySpec) -> BaseModel:
    """One Config of the study: its fixed fields, and of each hyperparameter the first value of its range."""
    return first_configs(spec)[-1]


def first_configs(spec: StudySpec) -> list[BaseModel]:
    """As `first_config`, one for each value of the fields of scheduler.fidelity; the last is the full one."""
    first = {name: dimension.endpoints[0] for name, dimension in spec.space.items()}
    config_type = workloads.load(spec.workload).Config
    epochs = (1, *(change + 1 for change in spec.scheduler.changes))
    return [config_type(**{**spec.fixed, **spec.scheduler.fidelity_at(epoch), **first}) for epoch in epochs]


def _workload_problems(raw: dict[str, Any], spec: StudySpec | None) -> list[str]:
    """Mistakes that only the workload's Config can find: unknown fields, values out of bounds."""
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
        for table, keys in _keys_of_fields(raw)
        for key in keys
        if key not in fields
    ]
    known = {key: value for key, value in _table_of(raw, "fixed").items() if key in fields}
    # A field that is sampled isn't in [fixed], and isn't missing.
    problems += [line for line in config_problems(config_type, known, {}) if not line.endswith(ADD_TO_FIXED)]
    for name, dimension in _readable_dimensions(raw):
        if name in fields:
            for endpoint in dimension.endpoints:
                # Only this hyperparameter's mistakes: those of other fields are reported elsewhere, once.
                lines = config_problems(config_type, known, {name: endpoint})
                problems += [line for line in lines if line.startswith(f"space.{name}:")]
    if spec is not None and not problems:
        problems += _stretch_problems(spec, config_type)
    if spec is not None and not problems:
        for corner in _corners(spec):
            problems += config_problems(config_type, spec.fixed, corner)
    return problems


def _keys_of_fields(raw: dict[str, Any]) -> Iterable[tuple[str, Iterable[str]]]:
    """The tables that name config fields, each with the names."""
    yield from ((table, _table_of(raw, table)) for table in ("fixed", "space"))
    yield "scheduler.fidelity", _table_of(_table_of(raw, "scheduler"), "fidelity")


def _stretch_problems(spec: StudySpec, config_type: type[BaseModel]) -> Iterable[str]:
    """Mistakes in the values of scheduler.fidelity, which are checked in a whole Config of each stretch."""
    for place, epoch in enumerate((1, *(change + 1 for change in spec.scheduler.changes)), start=1):
        values = spec.scheduler.fidelity_at(epoch)
        for corner in _corners(spec):
            for line in config_problems(config_type, spec.fixed, {**corner, **values}):
                for name in values:
                    if line.startswith((f"space.{name}:", f"space.{name}.")):
                        line = f"scheduler.fidelity.{name}, value {place}{line[len(f'space.{name}') :]}"
                yield line
    epochs = spec.space["epochs"].endpoints if "epochs" in spec.space else [_epochs(spec, config_type)]
    shortest = min((each for each in epochs if isinstance(each, int)), default=None)
    if shortest is not None and (problem := length_problem(spec.scheduler, shortest)):
        yield problem


def _epochs(spec: StudySpec, config_type: type[BaseModel]) -> Any:
    """The value of the Config's field `epochs`; None if it has none."""
    default = config_type.model_fields["epochs"].default if "epochs" in config_type.model_fields else None
    return spec.fixed.get("epochs", default)


def _table_of(raw: dict[str, Any], name: str) -> dict[str, Any]:
    table = raw.get(name)
    return table if isinstance(table, dict) else {}


def _readable_dimensions(raw: dict[str, Any]) -> Iterable[tuple[str, Dimension]]:
    for name, entry in _table_of(raw, "space").items():
        with contextlib.suppress(ValidationError):
            yield name, _DIMENSION.validate_python(entry)


def _corners(spec: StudySpec) -> Iterable[dict[str, Scalar]]:
    """Sets of hyperparameters that together visit every endpoint of every dimension."""
    most = max(len(dimension.endpoints) for dimension in spec.space.values())
    for index in range(most):
        yield {name: d.endpoints[min(index, len(d.endpoints) - 1)] for name, d in spec.space.items()}


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
    table[keys[-1]] = parse_value(text.strip())
