"""TOML: a study written as the file that would run it again, and values of `--set` written and parsed."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from tuner.spec.study import StudySpec, tables

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def study_toml(spec: StudySpec) -> str:
    """A study as a study file with every key, also those at their defaults, which may differ in another version.

    It is of a study that has begun: what it took from other studies is among its first trials, so that it doesn't need
    them.
    """
    whole = {name: value for name, value in tables(spec).items() if value is not None}
    for name in ("id", "taken"):
        whole.pop(name, None)
    whole["search"]["from_studies"] = []
    if not any(limit is not None for limit in whole["budget"]["stop_when"].values()):
        del whole["budget"]["stop_when"]
    of_tables = {name: value for name, value in whole.items() if isinstance(value, dict)}
    lines = [f"{key(name)} = {toml(value)}" for name, value in whole.items() if name not in of_tables and value != []]
    for name, table in of_tables.items():
        if table:
            lines += ["", f"[{key(name)}]", *(f"{key(k)} = {toml(v)}" for k, v in table.items() if v is not None)]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """A value in TOML, on one line. None in a table is left out, since TOML has no null.

    Raises TypeError for a type that TOML doesn't have.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else str(float(value))
    if isinstance(value, str | os.PathLike):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        inner = {k: v for k, v in value.items() if v is not None and not (k == "when" and v == {})}
        return "{" + ", ".join(f"{key(str(k))} = {toml(v)}" for k, v in inner.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(inner) for inner in value) + "]"
    raise TypeError(f"a number, a text, true, false, a list or a table is needed, got {value!r}")


def override(path: str, value: Any) -> str:
    """What `--set` takes to give the key at this path, "table.key", a value. Raises TypeError as `toml`."""
    return f"{path}={toml(value)}"


def parse_value(text: str) -> Any:
    """The value after the "=" of a `--set`: parsed as TOML, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml(name)
