"""ASHA's decisions against Ray Tune's own, which is the oracle here."""

from __future__ import annotations

import random
from typing import Literal

import pytest

from tests.tuner.search.schedulers.rays_scheduler import RaysScheduler
from tuner.search.schedulers.asha import Asha
from tuner.search.schedulers.early_stopping import EarlyStopping, NoEarlyStopping, early_stopping
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study_tables import Objective, Scheduler

Direction = Literal["maximize", "minimize"]


def asha(direction: Direction = "maximize", grace_epochs: int = 1, reduction_factor: float = 3.0) -> Asha:
    return Asha([Objective(metric="score", direction=direction)], grace_epochs, reduction_factor)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_decisions_are_those_of_rays_asha(direction: Direction, seed: int) -> None:
    draw = random.Random(f"{direction}{seed}")
    grace, factor = draw.choice([1, 2, 3, 5]), draw.choice([2, 2.5, 3, 4, 10])
    ours, oracle = asha(direction, grace, factor), RaysScheduler(direction, grace, factor)
    better = max if direction == "maximize" else min
    running: dict[int, tuple[int, float]] = {}
    decided = stopped = begun = 0
    while decided < 1000:
        if len(running) < 8:
            begun += 1
            running[begun] = (0, draw.random())
        trial = draw.choice(list(running))
        epoch, best = running[trial]
        # Few values, so that many are equal; some trials report every few epochs only.
        epoch, best = epoch + (trial % 3 or 1), better(best, round(draw.random(), 1))
        stop = ours.decide(trial, epoch, [best]) is Verdict.STOP
        assert stop == oracle.stops(trial, epoch, best), (trial, epoch, best)
        decided += 1
        stopped += stop
        running[trial] = (epoch, best)
        if stop or epoch >= 60:
            del running[trial]
    assert stopped > 20


def stops(scheduler: EarlyStopping, trial: int, epoch: int, best: float) -> bool:
    verdict = scheduler.decide(trial, epoch, [best])
    assert verdict is not Verdict.PAUSE
    return verdict is Verdict.STOP


def test_asked_again_about_a_report_it_decides_the_same() -> None:
    scheduler = asha()
    assert [stops(scheduler, trial, 1, value) for trial, value in ((1, 0.5), (2, 0.1), (3, 0.6))] == [
        False,
        True,
        False,
    ]
    assert [stops(scheduler, trial, 1, value) for trial, value in ((1, 0.5), (2, 0.1), (3, 0.6))] == [
        False,
        True,
        False,
    ]


def test_a_rewound_trial_is_judged_by_what_it_does_the_second_time() -> None:
    scheduler = asha(reduction_factor=2)
    for trial, value in ((1, 0.5), (2, 0.6)):
        stops(scheduler, trial, 1, value)
    assert not stops(scheduler, 1, 2, 0.9)
    assert stops(scheduler, 2, 2, 0.7)
    scheduler.rewind(2, 1)
    assert not stops(scheduler, 2, 2, 0.95), "what it reported before is void"


def test_decisions_rebuilt_from_the_same_reports_are_the_same() -> None:
    draw = random.Random(3)
    unbroken, reports = asha(), []
    for _ in range(300):
        report = (draw.randrange(20), draw.randrange(1, 30), [draw.random()])
        reports.append((report, unbroken.decide(*report)))
    rebuilt = asha()
    assert [rebuilt.decide(*report) for report, _ in reports] == [decision for _, decision in reports]


def test_a_dip_after_its_best_does_not_stop_a_trial() -> None:
    scheduler = asha(grace_epochs=3)
    for trial, best in ((1, 0.8), (2, 0.7)):
        stops(scheduler, trial, 3, best)
    # Its last value was 0.1; only its best counts.
    assert not stops(scheduler, 3, 3, 0.9)


def test_no_trial_stops_in_its_grace_epochs() -> None:
    scheduler = asha(grace_epochs=4)
    assert not any(stops(scheduler, trial, epoch, 1 / trial) for trial in range(1, 8) for epoch in range(1, 4))


def test_a_slow_starter_is_not_stopped_for_its_first_two_epochs_by_default() -> None:
    scheduler = early_stopping([Objective(metric="score")], Scheduler())
    slow, fast = (0.1, 0.2, 0.8), (0.5, 0.6, 0.7)
    stopped = [
        stops(scheduler, trial, epoch, curve[epoch - 1])
        for trial, curve in ((1, fast), (2, slow))
        for epoch in (1, 2, 3)
    ]
    assert not any(stopped)


def test_a_study_without_a_scheduler_stops_nothing() -> None:
    scheduler = early_stopping([Objective(metric="score")], Scheduler(name="none"))
    assert isinstance(scheduler, NoEarlyStopping)
    assert not any(stops(scheduler, trial, 1, -trial) for trial in range(20))


def test_a_rung_that_lies_exactly_at_an_epoch_is_reached_there() -> None:
    for factor in (2.0, 3.0, 10.0):
        for power in range(6):
            scheduler = asha(reduction_factor=factor)
            stops(scheduler, 1, int(factor**power), 0.9)
            assert stops(scheduler, 2, int(factor**power), 0.1), (factor, power)
