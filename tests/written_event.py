"""An event as a study would have written it: through its line of JSON."""

from __future__ import annotations

import json
from typing import Any

from tuner.events.event import Event, from_line


def event(kind: str, time: float = 0.0, **fields: Any) -> Event:
    """kind and fields: as in the log."""
    found = from_line(json.dumps({"event": kind, "time": time, **fields}).encode())
    assert found is not None
    return found
