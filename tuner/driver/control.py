"""The state of a run of a study: whether it runs, drains or stops, and why."""

from __future__ import annotations

import time
from typing import Literal


class StudyControl:
    """A study runs, then drains or stops. Draining may become stopping; there is no way back to running.

    draining: no new trial starts, and each running trial ends at its next report, with its best epoch so far.
    stopping: the same, but the running trials are not recorded as ended, since they are resumed later.
    """

    def __init__(self, time_seconds: float | None = None):
        """time_seconds: the study drains after this time; None: no limit."""
        self._time_seconds = time_seconds
        self._deadline = time.monotonic() + (time_seconds if time_seconds is not None else float("inf"))
        self._drain_reason: str | None = None
        self.outcome: Literal["interrupted", "failed"] | None = None
        """The state in which a stopping study ends; None while it isn't stopping."""
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

    def drain(self, reason: str) -> None:
        """Drain the study. Only the first reason counts."""
        self._drain_reason = self._drain_reason or reason

    def stop(self, outcome: Literal["interrupted", "failed"], reason: str) -> None:
        """Stop the study. Only the first call has an effect."""
        if self.outcome is None:
            self._stop_reason, self.outcome = reason, outcome
