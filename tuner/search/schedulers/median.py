"""The median rule: a trial stops when it is worse than half of those that came as far.

Golovin et al., Google Vizier: A Service for Black-Box Optimization, KDD 2017, with each trial's best so far, as in
Optuna's MedianPruner. Optuna compares with finished trials alone. Here all that have reported the epoch count, stopped
ones too: the rule works from the first trials on, and doesn't grow stricter as only good ones finish.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuner.search.schedulers.rungs import Rung, Rungs, Verdict
from tuner.spec.study_tables import Objective

_LEAST = 5  # trials that must have reported an epoch before one is judged there


class Median(Rungs):
    """Every epoch from grace_epochs on is a rung."""

    def __init__(self, objectives: Sequence[Objective], grace_epochs: int):
        super().__init__(objectives)
        self._grace_epochs = grace_epochs

    def reached(self, epoch: int) -> int:
        return max(0, epoch - self._grace_epochs + 1)

    def judge(self, rung: Rung, best: float) -> Verdict:
        worse = len(rung.arrivals) >= _LEAST and best < rung.quantile(0.5)
        return Verdict.STOP if worse else Verdict.CONTINUE
