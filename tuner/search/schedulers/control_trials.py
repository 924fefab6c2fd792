"""Which trials are control trials: early stopping leaves them alone, so that they show what it does.

They are drawn by the study's seed among the trials that the sampler proposes. What they show is true of where the
search looks: anywhere in the space, bad settings that any rung would recognize would make early stopping look better
than it is. First trials are no draws, and are left out.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping

from tuner.events.trial import TrialRecord
from tuner.spec.study import StudySpec

_NONE_BEGUN: Mapping[int, TrialRecord] = {}


def control_trials(spec: StudySpec, begun: Mapping[int, TrialRecord] = _NONE_BEGUN) -> frozenset[int]:
    """The numbers of the trials that are still to become control trials. begun: the others, by number.

    Those that begin change nothing for the rest: a resumed study has the control trials of an unbroken one. One that is
    resumed with another budget keeps those that it has, and draws what is missing among what has not begun.
    """
    missing = spec.scheduler.control_trials - sum(trial.control for trial in begun.values())
    if missing <= 0:
        return frozenset()
    numbers = range(len(spec.first_trials) + 1, spec.budget.trials + 1)
    # By the least of their checksums, which are as good as random, and don't depend on the budget.
    return frozenset(
        heapq.nsmallest(
            missing,
            (number for number in numbers if number not in begun),
            key=lambda number: hashlib.sha256(f"{spec.search.seed} {number}".encode()).digest(),
        )
    )
