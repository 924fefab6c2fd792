"""A figure of a report: a plotly figure, and what it shows in words for those who can't see it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's, which colour-blind people tell apart, on light and dark paper.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#8a94a3"
LEGEND_BELOW = {"orientation": "h", "y": -0.2, "x": 0, "traceorder": "normal"}

# plotly takes these for markup wherever a text stands; what else looks like markup is from a name or value.
_TAG = re.compile(r"<(?!/?(?:br|extra|b)>)")


@dataclass(frozen=True)
class Figure:
    """A plotly figure with what stands around it."""

    id: str
    title: str
    caption: str
    """A sentence or more, in plain text."""
    plot: Any
    """plotly.graph_objects.Figure; paper, grid and text get their colours from the page (page.js)."""
    least_width: int = 0
    """In pixels; a narrower screen scrolls the figure, and not the page."""
    half: bool = False
    """Whether two of them stand side by side where there is room."""

    def to_json(self) -> dict[str, Any]:
        """As plotly.js takes it, with names and values shown letter by letter."""
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
    """In what to count so that numbers stay small: seconds a unit, and its name."""
    if seconds < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def duration(seconds: float) -> str:
    unit, name = time_unit(seconds)
    return f"{seconds / unit:.{1 if seconds / unit < 10 else 0}f} {name}"


def epochs(count: int) -> str:
    return f"{count:,} epoch{'' if count == 1 else 's'}"
