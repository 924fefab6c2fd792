"""Trials whose curves are known, on the recorder of a study: what it decides is done, without a process."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from tuner.driver.recorder import Recorder
from tuner.search.schedulers.promotion import promotable
from tuner.worker.messages import Action, End, Paused, Report

EPOCHS = 9


def steady(number: int, final: float | None = None) -> list[float]:
    """A curve that is ahead at each epoch if it is at its end."""
    final = random.Random(number).random() if final is None else final
    return [final * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)]


def train(recorder: Recorder, numbers: Iterable[int], curve: Callable[[int], list[float]] = steady) -> None:
    """Train these trials one after the other, each up to where it stops, or pauses and isn't resumed at once."""
    for number in numbers:
        recorder.trial_started(number, {"x": 0.5})
        for epoch, value in enumerate(curve(number), start=1):
            decision = recorder.receive(number, Report(epoch, {"score": value}, resumable=True))
            if decision.action is Action.STOP:
                recorder.receive(number, End("stopped", decision.reason))
                break
            if decision.action is Action.PAUSE:
                recorder.receive(number, Paused())
                if promotable(recorder.record, [number]) is None:
                    break
                recorder.trial_started(number, {"x": 0.5})
        else:
            recorder.receive(number, End("finished"))
        recorder.trial_done(number)
