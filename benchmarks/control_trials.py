"""Whether control trials tell where early stopping loses good trials, on public learning curves.

    python -m benchmarks.control_trials --data DIR

DIR is that of benchmarks.curves. Of each data set random settings are drawn, whose curves are known to the end. A study
of them, one after the other, is replayed twice with ASHA: without control trials, which says what early stopping loses
of the best of them, and with, which says whether it is warned of.

The loss is a share of the distance from the median random setting, trained to the end, to the best known one.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.curves.tasks import Array, Task, load, regret, settings_at
from benchmarks.report import Report, arguments
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.events.log import Journal
from tuner.events.state import StudyRecord
from tuner.search.schedulers.reliability import control_correlations, warning
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage
from tuner.worker.messages import Action, End
from tuner.worker.messages import Report as TrialReport

GRACE_EPOCHS = (1, 3, 9)


class Outcome(NamedTuple):
    """Of the studies on one data set."""

    loss: float
    warned: bool
    correlation: float | None
    """Of the control trials, at the first rung."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder with lcbench/ and taskset/")
    parser.add_argument("--trials", type=int, default=40, help="of a study")
    parser.add_argument("--control-trials", type=int, default=6, help="of these")
    parser.add_argument("--seeds", type=int, default=2, help="studies of each data set")
    options = parser.parse_args()
    tasks = load(options.data)[-2:] if options.quick else load(options.data)
    found: defaultdict[tuple[str, int], list[Outcome]] = defaultdict(list)
    for task in tasks:
        for seed in range(options.seeds):
            curves = draw(task, options.trials, seed)
            for grace in GRACE_EPOCHS:
                outcome = replay(task, curves, seed, grace, options.control_trials)
                found[task.name.partition("/")[0], grace].append(outcome)
    report = Report(f"ASHA on {options.trials} random settings, {options.control_trials} of them control trials")
    for (kind, grace), outcomes in found.items():
        name = f"{kind}, from epoch {grace}, {len(outcomes)} studies"
        report.mean(f"{name}: loss", "regret", [outcome.loss for outcome in outcomes])
        report.figure(f"{name}: warned", "share", float(np.mean([outcome.warned for outcome in outcomes])))
        for warned in (True, False):
            losses = [outcome.loss for outcome in outcomes if outcome.warned == warned]
            if len(losses) > 1:
                report.mean(f"{name}: loss where {'' if warned else 'not '}warned", "regret", losses)
        known = [outcome.correlation for outcome in outcomes if outcome.correlation is not None]
        if known:
            report.figure(f"{name}: rank correlation at the first rung", "correlation", float(np.mean(known)))
    report.finish(options.json)


def draw(task: Task, trials: int, seed: int) -> list[Array]:
    """Curves (epochs,) of random settings that work."""
    rng, found = np.random.default_rng(seed), list[Array]()
    while len(found) < trials:
        curve = task.curve(settings_at(task.space, rng.random((1, len(task.space))))[0])
        if np.isfinite(curve).all():
            found.append(curve)
    return found


def replay(task: Task, curves: list[Array], seed: int, grace_epochs: int, control_trials: int) -> Outcome:
    """What early stopping loses of these trials, and whether control trials warn of it."""
    left = study(task, curves, seed, grace_epochs, 0).ranking()[0].value
    controlled = study(task, curves, seed, grace_epochs, control_trials)
    best = max if task.direction == "maximize" else min
    whole = float(best(best(curve) for curve in curves))
    correlations = [each.value for each in control_correlations(controlled).values()]
    assert left is not None
    loss = regret(task, left) - regret(task, whole)
    return Outcome(loss, warning(controlled) is not None, correlations[0] if correlations else None)


def study(task: Task, curves: list[Array], seed: int, grace_epochs: int, control_trials: int) -> StudyRecord:
    """The record of a study whose trials have these curves."""
    spec = StudySpec.model_validate(
        {
            "name": "replayed",
            "objective": {"metric": "value", "direction": task.direction},
            "search": {"seed": seed},
            "scheduler": {"name": "asha", "grace_epochs": grace_epochs, "control_trials": control_trials},
            "budget": {"trials": len(curves)},
            "space": task.space,
        }
    )
    with tempfile.TemporaryDirectory() as folder, Journal(Storage(folder) / spec.name) as journal:
        recorder = Recorder(StudyRecord(spec), journal, StudyControl(), [])
        for number, curve in enumerate(curves, start=1):
            train(recorder, number, curve)
    return recorder.record


def train(recorder: Recorder, number: int, curve: Array) -> None:
    """A trial, up to where early stopping stops it."""
    recorder.trial_started(number, {})
    for epoch, value in enumerate(curve.tolist(), start=1):
        decision = recorder.receive(number, TrialReport(epoch, {"value": value}))
        if decision.action is Action.STOP:
            recorder.receive(number, End("stopped", decision.reason))
            return
    recorder.receive(number, End("finished"))


if __name__ == "__main__":
    main()
