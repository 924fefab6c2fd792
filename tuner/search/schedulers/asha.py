"""ASHA: a trial stops at a rung where it is worse than most that came there before it."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.search.schedulers.rungs import GeometricRungs, Rung, Verdict
from tuner.spec.study_tables import Objective


class Asha(GeometricRungs):
    """Asynchronous successive halving in the stopping variant of Ray Tune, whose decisions it repeats.

    At each rung a trial stops if its best value so far is worse than the best 1 / reduction_factor of those that came
    there before it.
    """

    def __init__(self, objectives: Sequence[Objective], grace_epochs: float, reduction_factor: float):
        super().__init__(objectives, grace_epochs, reduction_factor)
        self._share = (1 - 1 / reduction_factor) * 100 / 100  # in percent and back, which rounds as Ray Tune does

    def judge(self, rung: Rung, best: float) -> Verdict:
        return Verdict.STOP if best < rung.quantile(self._share) else Verdict.CONTINUE
