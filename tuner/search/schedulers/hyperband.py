"""Hyperband: some trials are judged early, others late, so that those who start slowly have a chance too.

Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, JMLR 2018; asynchronous, as Ray
Tune's AsyncHyperBandScheduler with several brackets.
"""

from __future__ import annotations

import bisect
import itertools
import math
import zlib
from collections.abc import Sequence

from tuner.search.schedulers.asha import Asha
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study_tables import Objective


class Hyperband:
    """Each trial belongs to one of several brackets, each an ASHA of its own whose first rung lies later."""

    def __init__(self, objectives: Sequence[Objective], grace_epochs: int, reduction_factor: float, brackets: int):
        self._brackets = [
            Asha(objectives, grace_epochs * reduction_factor**place, reduction_factor) for place in range(brackets)
        ]
        self._ends = list(itertools.accumulate(bracket_shares(brackets, reduction_factor)))

    def bracket(self, trial: int) -> int:
        """The trial's bracket, from 0, by its number alone."""
        # By a checksum: numbers in turn would give a sampler that works in turns, such as a grid, the same brackets.
        return bisect.bisect_right(self._ends, zlib.crc32(str(trial).encode()) % self._ends[-1])

    def decide(self, trial: int, epoch: int, best: Sequence[float]) -> Verdict:
        return self._of(trial).decide(trial, epoch, best)

    def resume(self, trial: int) -> None:
        self._of(trial).resume(trial)

    def rewind(self, trial: int, epoch: int) -> None:
        self._of(trial).rewind(trial, epoch)

    def _of(self, trial: int) -> Asha:
        return self._brackets[self.bracket(trial)]


def bracket_shares(brackets: int, reduction_factor: float) -> list[int]:
    """In which proportion trials go to the brackets, the earliest first: each then takes about the same epochs."""
    return [math.ceil(brackets * reduction_factor**earlier / (earlier + 1)) for earlier in reversed(range(brackets))]
