"""Ray Tune's AsyncHyperBandScheduler behind our interface, as the oracle of ASHA and of Hyperband."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler


class RaysScheduler:
    """bracket: which one a trial belongs to; Ray draws it at random. None: there is only one."""

    def __init__(
        self,
        direction: str,
        grace_epochs: int,
        reduction_factor: float,
        brackets: int = 1,
        bracket: Callable[[int], int] | None = None,
    ):
        self._known: set[int] = set()
        self._bracket = bracket
        self._scheduler: Any = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="best",
            mode="max" if direction == "maximize" else "min",
            max_t=10**6,
            grace_period=grace_epochs,
            reduction_factor=reduction_factor,
            brackets=brackets,
        )

    def stops(self, trial: int, epoch: int, best: float) -> bool:
        tune_trial: Any = SimpleNamespace(trial_id=str(trial))
        if trial not in self._known:
            self._known.add(trial)
            self._scheduler.on_trial_add(None, tune_trial)
            if self._bracket is not None:
                self._scheduler._trial_info[str(trial)] = self._scheduler._brackets[self._bracket(trial)]
        result = {"epoch": epoch, "best": best}
        return bool(self._scheduler.on_trial_result(None, tune_trial, result) == TrialScheduler.STOP)
