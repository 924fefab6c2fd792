"""The benchmark on learning curves: its simulated time, its tasks, and its figures."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from benchmarks.control_trials import draw, replay
from benchmarks.curves.comparison import figures
from benchmarks.curves.methods import METHODS
from benchmarks.curves.simulation import PAUSE_EPOCHS, Ending, Run, simulate
from benchmarks.curves.tasks import Array, Params, Task, load, regret
from benchmarks.report import Report
from tuner.search.schedulers.rungs import Verdict


class Slope:
    """Curves that rise by x an epoch; the best known is x = 1 at the end. x below 0.1 fails at the second epoch."""

    name, epochs, chosen_on = "slope", 9, False
    others: Sequence[Task] = ()
    direction: Literal["maximize", "minimize"] = "maximize"
    space: dict[str, dict[str, Any]] = {"x": {"type": "float", "low": 0.0, "high": 1.0}}  # noqa: RUF012
    best_and_median = (9.0, 4.5)

    def curve(self, params: Params) -> Array:
        curve = params["x"] * np.arange(1, self.epochs + 1)
        return np.where((np.arange(self.epochs) > 0) & (params["x"] < 0.1), math.nan, curve)


class InTurn:
    """Proposes these in turn; each stops where its number says."""

    def __init__(self, *proposals: tuple[float, int]):
        self._proposals, self._asked = proposals, 0
        self.told: list[Any] = []

    def next(self) -> tuple[int, Params]:
        self._asked += 1
        return self._asked, {"x": self._proposals[(self._asked - 1) % len(self._proposals)][0]}

    def report(self, trial: int, epoch: int, value: float) -> Verdict:
        self.told.append((trial, epoch, value))
        stops = epoch == self._proposals[(trial - 1) % len(self._proposals)][1]
        return Verdict.STOP if stops else Verdict.CONTINUE

    def end(self, trial: int, state: Ending) -> None:
        self.told.append((trial, state))


def test_a_worker_continues_with_a_new_trial_when_one_ends_and_all_stop_with_the_budget() -> None:
    method = InTurn((0.5, 0), (1.0, 2), (0.0, 0))
    run = simulate(Slope(), method, workers=2, budget=12)
    assert method.told == [
        (1, 1, 0.5),
        (2, 1, 1.0),
        (1, 2, 1.0),
        (2, 2, 2.0),
        (2, "stopped"),
        (1, 3, 1.5),
        (3, 1, 0.0),
        (1, 4, 2.0),
        (3, "failed"),
        (1, 5, 2.5),
        (4, 1, 0.5),
        (1, 6, 3.0),
        (4, 2, 1.0),
    ]
    assert run.proposals == 4
    assert [spent for spent, _ in run.steps] == [2, 2, 4, 10, 12]
    assert run.regret_at(1) == 1.0
    assert run.regret_at(12) == 1.0  # a score of 3 is below the median's 4.5
    assert regret(Slope(), 7.2) == pytest.approx(0.4)


class PausesOnce(InTurn):
    """Its first trial pauses after an epoch, and resumes after the second, which stops after one."""

    def next(self) -> tuple[int, Params]:
        return (1, {"x": 0.5}) if self._asked == 2 else super().next()

    def report(self, trial: int, epoch: int, value: float) -> Verdict:
        stops = super().report(trial, epoch, value)
        return Verdict.PAUSE if (trial, epoch) == (1, 1) else stops


def test_a_paused_trial_resumes_where_it_was_and_pays_for_its_checkpoint() -> None:
    method = PausesOnce((0.5, 0), (1.0, 1))
    run = simulate(Slope(), method, workers=1, budget=3 + PAUSE_EPOCHS)
    assert method.told == [(1, 1, 0.5), (2, 1, 1.0), (2, "stopped"), (1, 2, 1.0)]
    assert run.proposals == 2
    assert simulate(Slope(), PausesOnce((0.5, 0), (2.0, 1)), 1, 3.0).steps[-1][0] == 2


def test_this_projects_search_ends_trials_and_finds_the_slope() -> None:
    methods = ("random", "random+asha", "promotion")
    runs = {name: simulate(Slope(), METHODS[name](Slope(), 0), 4, 180) for name in methods}
    assert all(run.regret_at(180) < 0.3 for run in runs.values())
    assert runs["random+asha"].proposals > runs["random"].proposals > 180 / 9


def test_hyperparameters_have_the_curve_of_the_nearest_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "taskset").mkdir()
    table = [
        {"hp": {"learning_rate": rate, "beta1": beta}, "valid": {"loss": [1.0, loss]}}
        for rate, beta, loss in ((1e-4, 0.9, 0.5), (1e-2, 0.9, 0.25), (1.0, 0.99, math.nan))
    ]
    for name in ("a", "b"):
        (tmp_path / "taskset" / f"{name}.json").write_text(json.dumps(table))
    tasks = load(tmp_path)
    assert [(task.name, task.chosen_on) for task in tasks] == [("taskset/a", True), ("taskset/b", False)]
    assert tasks[0].space["one_minus_beta1"] == pytest.approx({"type": "float", "low": 0.01, "high": 0.1, "log": True})
    assert list(tasks[0].curve({"learning_rate": 3e-2, "one_minus_beta1": 0.1})) == [1.0, 0.25]
    assert tasks[0].best_and_median == (0.25, 0.5)


def test_the_figures_say_how_often_and_how_soon_a_search_is_ahead() -> None:
    runs = {
        ("slope", "random+asha"): [Run([(1, 0.8), (20, 0.4)], 4, 0.1), Run([(1, 0.8), (20, 0.4)], 4, 0.1)],
        ("slope", "before"): [Run([(1, 0.5)], 4, 0.1), Run([(1, 0.7)], 4, 0.1)],
        ("slope", "now"): [Run([(1, 0.6), (9, 0.2)], 4, 0.1), Run([(1, 0.6)], 4, 0.3)],
    }
    report = Report("")
    options = argparse.Namespace(methods=["random+asha", "before", "now"], trainings=10)
    figures(report, "1 task", [Slope()], options, runs)
    values = {row.name.removeprefix("1 task: "): row.value for row in report.rows}
    assert values["now: regret"] == pytest.approx(0.4)
    assert values["now: average rank"] == 1.5
    assert values["now: epochs to the regret of before"] == pytest.approx(0.0125)  # one of 90 epochs, to a 400th
    assert values["now: epochs to the regret of random+asha"] == pytest.approx(0.1)
    assert values["random+asha: epochs to the regret of before"] == pytest.approx(0.2225)
    assert values["now: runs worse than random+asha"] == 0.5
    assert values["now: a proposal"] == pytest.approx(50)
    assert {goal.goal: goal.met for goal in report.goals} == {"<= 0.15": True, "<= 0.35": True, "<= 0.1": False}


def test_control_trials_warn_of_nothing_where_every_epoch_tells_the_end() -> None:
    curves = draw(Slope(), 12, seed=1)
    assert len(curves) == 12
    outcome = replay(Slope(), curves, 1, grace_epochs=2, control_trials=5)
    assert (outcome.loss, outcome.warned) == (0.0, False)
    assert outcome.correlation == pytest.approx(1.0)
