"""python -m fcn.settings: every setting of a run as a page of Markdown; docs/settings.md is what it prints."""

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from fcn.config import Config

_HEAD = """\
# Settings of FCN-8s

Every field of `fcn.Config`: what goes into `[fixed]` or `[space]` of a study file, and into
`python -m fcn.train --set KEY=VALUE`. The defaults are the source recipe. This page is printed by
`python -m fcn.settings`.

| setting | default | allowed | meaning |
|---|---|---|---|
"""
_SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def page() -> str:
    """The whole page, ending in a newline."""
    return _HEAD + "".join(_row(name, field) for name, field in Config.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    default = "none" if field.default is None else repr(field.default).replace("'", '"')
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | `{default}` | {_allowed(name, field)} | {meaning} |\n"


def _allowed(name: str, field: FieldInfo) -> str:
    """Choices or bounds, as pydantic has them."""
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


if __name__ == "__main__":
    print(page(), end="")
