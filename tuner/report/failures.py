"""Groups failed trials by cause."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tuner.events.trial import TrialRecord

_NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d[\d.]*(?:[eE][-+]?\d+)?")
_SHOWN = 12


@dataclass(frozen=True)
class Cause:
    """A reason why trials failed. Reasons that differ only in numbers are one cause."""

    reason: str
    """The first trial's, on one line."""
    trials: list[int]

    @property
    def listed(self) -> str:
        more = len(self.trials) - _SHOWN
        return ", ".join(map(str, self.trials[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def causes(trials: Iterable[TrialRecord]) -> list[Cause]:
    """The causes of the failed trials, the most frequent first."""
    found: dict[str, Cause] = {}
    for trial in trials:
        if trial.state == "failed":
            reason = " ".join((trial.reason or "no reason was given").split())
            found.setdefault(_NUMBER.sub("…", reason), Cause(reason, [])).trials.append(trial.id)
    return sorted(found.values(), key=lambda cause: -len(cause.trials))
