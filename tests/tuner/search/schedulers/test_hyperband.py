"""Hyperband's brackets against Ray Tune's, and its shares against Optuna's."""

from __future__ import annotations

import collections
import random
from typing import Any

import optuna
import pytest

from tests.tuner.search.schedulers.rays_scheduler import RaysScheduler
from tuner.search.schedulers.hyperband import Hyperband, bracket_shares
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study_tables import Objective


def hyperband(direction: Any = "maximize", grace_epochs: int = 3, factor: float = 3.0, brackets: int = 3) -> Hyperband:
    return Hyperband([Objective(metric="score", direction=direction)], grace_epochs, factor, brackets)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(5))
def test_its_decisions_are_those_of_rays_brackets(direction: str, seed: int) -> None:
    draw = random.Random(f"{direction}{seed}")
    grace, factor, brackets = draw.choice([1, 2, 3]), draw.choice([2, 3, 4]), draw.choice([2, 3])
    ours = hyperband(direction, grace, factor, brackets)
    oracle = RaysScheduler(direction, grace, factor, brackets, ours.bracket)
    better = max if direction == "maximize" else min
    running: dict[int, tuple[int, float]] = {}
    stopped = begun = 0
    for _ in range(1000):
        if len(running) < 8:
            begun += 1
            running[begun] = (0, draw.random())
        trial = draw.choice(list(running))
        epoch, best = running[trial]
        epoch, best = epoch + 1, better(best, round(draw.random(), 1))
        stop = ours.decide(trial, epoch, [best]) is Verdict.STOP
        assert stop == oracle.stops(trial, epoch, best), (trial, epoch, best)
        stopped += stop
        running[trial] = (epoch, best)
        if stop or epoch >= 60:
            del running[trial]
    assert stopped > 10


@pytest.mark.parametrize(("brackets", "factor"), [(1, 3), (2, 3), (3, 3), (4, 2), (3, 4)])
def test_trials_go_to_the_brackets_in_optunas_proportions(brackets: int, factor: int) -> None:
    pruner = optuna.pruners.HyperbandPruner(1, factor ** (brackets - 1), factor)
    pruner._try_initialization(optuna.create_study())
    shares = bracket_shares(brackets, factor)
    assert shares == pruner._trial_allocation_budgets
    ours = hyperband(factor=factor, brackets=brackets)
    counts = collections.Counter(ours.bracket(trial) for trial in range(1, 5001))
    assert [counts[place] / 5000 for place in range(brackets)] == pytest.approx(
        [share / sum(shares) for share in shares], abs=0.03
    )


def test_a_trial_of_a_late_bracket_is_not_judged_early_and_a_rewound_one_is_judged_anew() -> None:
    ours = hyperband()
    by_bracket = collections.defaultdict(list)
    for trial in range(1, 60):
        by_bracket[ours.bracket(trial)].append(trial)
    for place, first in enumerate((3, 9, 27)):
        good, bad = by_bracket[place][:2]
        for epoch in range(1, first):
            assert ours.decide(good, epoch, [0.9]) is ours.decide(bad, epoch, [0.1]) is Verdict.CONTINUE
        assert ours.decide(good, first, [0.9]) is Verdict.CONTINUE
        assert ours.decide(bad, first, [0.1]) is Verdict.STOP
        ours.rewind(bad, first - 1)
        assert ours.decide(bad, first, [0.95]) is Verdict.CONTINUE
