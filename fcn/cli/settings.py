"""python -m fcn settings: prints every config field of a run as a page of Markdown, which is docs/settings.md."""

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from fcn.config import Config
from fcn.presets import PRESETS

_HEAD = """\
# Config fields of FCN-8s

Every field of `fcn.Config`: what goes into `[fixed]` or `[space]` of a study file, and into
`python -m fcn train --set KEY=VALUE`. The defaults are this program's own; the two recipes that were
published for KITTI Road are [presets](#presets). This page is printed by `python -m fcn settings`.

| field | default | allowed | meaning |
|---|---|---|---|
"""
_PRESETS = """
## Presets

`preset = "batch5"` or `preset = "batch15"` sets the fields of its column below. A field that you set yourself
keeps your value, wherever you set it; a field that the preset doesn't name keeps its default. A checkpoint
records the preset and every value that was used.
[training.md](training.md#the-two-published-recipes) says what is known of the recipes.

"""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


@app.command()
def settings() -> None:
    """Print every config field of a run as a page of Markdown."""
    print(page(), end="")


def page() -> str:
    """The whole page, ending in a newline."""
    return _HEAD + "".join(_row(name, field) for name, field in Config.model_fields.items()) + _PRESETS + _presets()


def _row(name: str, field: FieldInfo) -> str:
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | `{_written(field.default)}` | {_allowed(name, field)} | {meaning} |\n"


def _written(value: object) -> str:
    return "none" if value is None else repr(value).replace("'", '"')


def _presets() -> str:
    """A row for each field that a preset names, with a dash for a preset that doesn't name it."""
    rows = [["field", "default", *PRESETS], ["---"] * (2 + len(PRESETS))]
    for name, field in Config.model_fields.items():
        if any(name in values for values in PRESETS.values()):
            values = [f"`{_written(values[name])}`" if name in values else "–" for values in PRESETS.values()]
            rows.append([f"`{name}`", f"`{_written(field.default)}`", *values])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _allowed(name: str, field: FieldInfo) -> str:
    """The choices or bounds of a field, from its pydantic definition."""
    schema = Config.model_json_schema()["properties"][name]
    kinds = schema.get("anyOf", [schema])
    choices = [f'`"{choice}"`' for kind in kinds for choice in kind.get("enum", [])]
    if choices:
        return " ".join(choices)
    bounds = [
        f"{sign} {bound:g}"
        for rule in field.metadata
        for kind, sign in _SIGNS.items()
        if isinstance(rule, kind) and isinstance(bound := getattr(rule, kind.__name__.lower()), int | float)
    ]
    types = [str(kind["type"]).replace("integer", "whole number") for kind in kinds if kind.get("type") != "null"]
    return ", ".join([*types, *bounds])
