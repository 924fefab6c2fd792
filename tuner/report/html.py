"""Renders a report's templates: everything is escaped, secrets are replaced, and plotly.js is in the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tuner import __version__
from tuner.report.figures.figure import Figure
from tuner.storage.address import without_secrets_in

_PAGE = files("tuner.report") / "page"


def render(template: str, figures: Sequence[Figure], parts: Sequence[tuple[str, str]], **context: Any) -> str:
    """A whole page. parts: id and name of each section, for the links at the top. context: the template's variables."""
    environment = Environment(
        loader=PackageLoader("tuner.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
    )
    data = json.dumps({figure.id: figure.to_json() for figure in figures}, ensure_ascii=False)
    return environment.get_template(template).render(
        style=Markup((_PAGE / "page.css").read_text(encoding="utf-8")),
        script=Markup((_PAGE / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(plotly.offline.get_plotlyjs()),
        # Inside a script element only a closing tag is markup, so "<" is the only character to escape.
        figures_json=Markup(without_secrets_in(data).replace("<", "\\u003c")),
        parts=parts,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        **context,
    )


def _shown(value: Any) -> Any:
    return value if isinstance(value, Markup) else without_secrets_in(str(value))
