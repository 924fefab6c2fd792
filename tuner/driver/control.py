"""Whether a study's trials go on, and why not: one answer for all that ask."""

from __future__ import annotations

import time
from typing import Literal


class StudyControl:
    """A study runs; then it drains or stops. What has begun is never taken back, but draining may become stopping.

    draining: no trial begins any more, and those that run end at their next report, each with its best epoch.
    stopping: the same, but what the trials do from then on is not their end: they are resumed later.
    """

    def __init__(self, time_seconds: float | None = None):
        """time_seconds: after so long the study drains; None: never."""
        self._time_seconds = time_seconds
        self._deadline = time.monotonic() + (time_seconds if time_seconds is not None else float("inf"))
        self._drain_reason: str | None = None
        self.outcome: Literal["interrupted", "failed"] | None = None
        """How the study ends that stops; None while it doesn't."""
        self._stop_reason: str | None = None

    @property
    def stopping(self) -> bool:
        return self.outcome is not None

    @property
    def ending(self) -> bool:
        """Whether the study drains or stops."""
        if self._drain_reason is None and time.monotonic() > self._deadline:
            self._drain_reason = f"the study's time budget of {self._time_seconds:g} s is used up"
        return self.stopping or self._drain_reason is not None

    @property
    def reason(self) -> str | None:
        """Why the study drains or stops."""
        return self._stop_reason if self.stopping else self._drain_reason

    def stop(self, outcome: Literal["interrupted", "failed"], reason: str) -> None:
        """The first call counts."""
        if self.outcome is None:
            self._stop_reason, self.outcome = reason, outcome
