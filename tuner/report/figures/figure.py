"""A figure of a report: a plotly figure, with a caption for people who can't see it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's palette: colour-blind people can tell them apart, on a light and a dark page.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#8a94a3"
LEGEND_BELOW = {"orientation": "h", "y": -0.2, "x": 0, "traceorder": "normal"}

# plotly interprets these tags in any text. Other text that looks like a tag comes from a name or value.
_TAG = re.compile(r"<(?!/?(?:br|extra|b)>)")


@dataclass(frozen=True)
class Figure:
    """A plotly figure with its title and caption."""

    id: str
    title: str
    caption: str
    """One or more sentences of plain text."""
    plot: Any
    """A plotly.graph_objects.Figure. The page sets the colours of its background, grid and text (page.js)."""
    least_width: int = 0
    """In pixels; on a narrower screen the figure scrolls sideways, not the page."""
    half: bool = False
    """Whether it is shown beside another one, if there is room."""

    def to_json(self) -> dict[str, Any]:
        """The figure for plotly.js, with names and values escaped so that none is read as markup."""
        found: dict[str, Any] = _literal(json.loads(self.plot.to_json()))
        for key in ("template", "title", "width", "height"):
            found["layout"].pop(key, None)
        return found


def _literal(part: Any) -> Any:
    if isinstance(part, str):
        return _TAG.sub("&lt;", part.replace("&", "&amp;"))
    if isinstance(part, list):
        return [_literal(inner) for inner in part]
    if isinstance(part, dict):
        return {key: _literal(value) for key, value in part.items()}
    return part


def time_unit(seconds: float) -> tuple[float, str]:
    """A unit that keeps numbers small: its length in seconds, and its name."""
    if seconds < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def duration(seconds: float) -> str:
    unit, name = time_unit(seconds)
    return f"{seconds / unit:.{1 if seconds / unit < 10 else 0}f} {name}"


def epochs(count: int) -> str:
    return f"{count:,} epoch{'' if count == 1 else 's'}"
