"""The median rule against Optuna's MedianPruner, which is told that all other trials have finished."""

from __future__ import annotations

import random
from typing import Any

import optuna
import pytest

from tuner.search.schedulers.median import Median
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study_tables import Objective


def optunas_verdict(direction: Any, grace: int, curves: dict[int, dict[int, float]], trial: int) -> bool:
    study = optuna.create_study(direction=direction)
    for number, curve in curves.items():
        if number != trial and curve:
            study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values=curve))
    running: Any = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=curves[trial])
    # Five of those that came to this epoch: Optuna counts finished trials, whatever epochs they have.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=0, n_warmup_steps=grace, n_min_trials=5)
    return pruner.prune(study, running)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(3))
def test_its_decisions_are_those_of_optunas_median_pruner(direction: Any, seed: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    draw = random.Random(f"{direction}{seed}")
    grace = draw.choice([1, 2, 4])
    ours = Median([Objective(metric="score", direction=direction)], grace)
    better = max if direction == "maximize" else min
    curves: dict[int, dict[int, float]] = {}
    running: list[int] = []
    stopped = 0
    for _ in range(250):
        while len(running) < 4:
            running.append(len(curves) + 1)
            curves[running[-1]] = {}
        trial = draw.choice(running)
        curve = curves[trial]
        epoch = len(curve) + 1
        # Few values, so that many are equal.
        curve[epoch] = better([*curve.values(), round(draw.random(), 1)])
        stop = ours.decide(trial, epoch, [curve[epoch]]) is Verdict.STOP
        assert stop == optunas_verdict(direction, grace, curves, trial), (trial, epoch, curves)
        stopped += stop
        if stop or epoch >= 20:
            running.remove(trial)
    assert stopped > 10


def test_no_trial_stops_before_five_others_have_come_as_far_or_in_its_grace_epochs() -> None:
    rule = Median([Objective(metric="score")], 2)
    for trial in range(1, 9):
        assert rule.decide(trial, 1, [1 / trial]) is Verdict.CONTINUE
    verdicts = [rule.decide(trial, 2, [1 / trial]) for trial in range(1, 9)]
    assert verdicts == [Verdict.CONTINUE] * 5 + [Verdict.STOP] * 3


def test_a_rewound_trial_is_judged_anew_and_a_rebuilt_rule_decides_the_same() -> None:
    draw = random.Random(1)
    rules = [Median([Objective(metric="score")], 1) for _ in range(2)]
    for trial in range(1, 8):
        assert len({rule.decide(trial, 1, [trial / 10]) for rule in rules}) == 1
    assert rules[0].decide(8, 1, [0.0]) is rules[0].decide(8, 1, [0.0]) is Verdict.STOP
    rules[0].rewind(8, 0)
    assert rules[0].decide(8, 1, [0.9]) is Verdict.CONTINUE
    rules[0].rewind(8, 0)
    for _ in range(200):
        report = (draw.randrange(9, 30), draw.randrange(1, 12), [draw.random()])
        assert len({rule.decide(*report) for rule in rules}) == 1
