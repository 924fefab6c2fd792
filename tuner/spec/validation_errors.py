"""Pydantic's errors as messages for the user: the place in the study file, the rule, the value and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

ADD_TO_FIXED = "; add it to [fixed]"


def config_problems(config_type: type[BaseModel], fixed: dict[str, Any], sampled: dict[str, Any]) -> list[str]:
    """One sentence for each config field that the workload's Config refuses; empty if it takes these values."""
    try:
        config_type(**{**fixed, **sampled})
    except ValidationError as error:
        lines = []
        for detail in error.errors():
            where = ".".join(str(part) for part in detail["loc"])
            table = "space" if detail["loc"] and detail["loc"][0] in sampled else "fixed"
            if detail["type"] == "missing":
                lines.append(f"fixed.{where}: {config_type.__name__} needs it{ADD_TO_FIXED}")
                continue
            got = "" if not detail["loc"] or detail["type"] == "value_error" else f", got {detail['input']!r}"
            lines.append(f"{table}{'.' if where else ''}{where}: {_message(detail)}{got}")
        return lines
    return []


def study_problems(detail: Any, spec_type: type[BaseModel]) -> list[str]:
    """One sentence for each mistake in one of pydantic's error records on a study file. spec_type: StudySpec."""
    loc = [part for part in detail["loc"] if part not in ("float", "int", "choice") or len(detail["loc"]) < 3]
    where = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
    if detail["type"] == "extra_forbidden":
        return [f"{where}: no such key" + nearest(str(loc[-1]), _keys_at(loc[:-1], detail["loc"], spec_type))]
    if detail["type"] == "missing":
        return [f"{where}: this key is needed; add it (search_spaces/README.md lists the keys)"]
    if detail["type"].startswith("union_tag"):
        return [f'{where}.type: "float", "int" or "choice" is needed, got {_tag(detail["input"])}; give one of these']
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


def _keys_at(loc: list[Any], full: tuple[Any, ...], spec_type: type[BaseModel]) -> Iterable[str]:
    """The keys that a table of the study file may have."""
    if not loc:
        return spec_type.model_fields
    if loc[0] == "space":
        return {"type", "low", "high", "log", "step", "choices", "when"} if len(full) > 2 else set()
    model: Any = spec_type
    for name in loc:
        if isinstance(name, int):
            continue
        table = model.model_fields.get(str(name))
        model = table.annotation if table else None
        if get_origin(model) is tuple:
            model = get_args(model)[0]
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return ()
    return cast(Iterable[str], model.model_fields)


def nearest(key: str, known: Iterable[str]) -> str:
    """The suggested fix for an unknown name: the closest known name, or to remove it."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; remove it"
