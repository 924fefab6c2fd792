"""Simulated studies, against what can be counted without them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.studies import study_spec
from tests.tuner.search.test_sampler import Study
from tuner.events.state import StudyRecord
from tuner.search.schedulers.promotion import Promotion, by_promise, standings
from tuner.search.schedulers.rungs import Verdict
from tuner.search.schedulers.simulation import Pace, Simulated, milestones, simulate
from tuner.spec.study_tables import Objective, Scheduler

SCHEDULERS = ("asha", "promotion", "hyperband", "median", "none")


def simulated(seed: int = 0, length: int = 27, slots: int = 4, pace: Pace | None = None, **changes: Any) -> Simulated:
    spec = study_spec(**{"search": {"sampler": "random"}, **changes})
    return simulate(spec, length, slots, 1.0, [pace] if pace else None, seed)


def test_without_early_stopping_every_trial_trains_all_its_epochs() -> None:
    found = simulated(scheduler={"name": "none"}, budget={"trials": 10}, pace=Pace(2.0, 0.5))
    # Four at a time, so that three follow each other on a slot.
    assert found == Simulated({27: 10}, 270, 3 * (27 * 2.0 + 0.5), 0)


def test_about_a_third_of_the_trials_of_asha_pass_each_rung() -> None:
    runs = [simulated(seed, scheduler={"name": "asha"}, budget={"trials": 600}) for seed in range(10)]
    for rung, above in ((3, 9), (9, 27)):
        shares = [run.reached[above] / run.reached[rung] for run in runs]
        assert 0.3 < sum(shares) / len(shares) < 0.42, shares
    assert all(run.reached[3] == 600 for run in runs)
    # Some pass at once, since nobody is there before them.
    assert all(run.reached[27] >= 1 for run in runs)


def test_trials_of_a_sampler_that_learns_come_further() -> None:
    epochs = {
        sampler: sum(simulated(seed, search={"sampler": sampler}, budget={"trials": 60}).epochs for seed in range(10))
        for sampler in ("random", "gp_curves", "tpe")
    }
    assert epochs["random"] < epochs["gp_curves"] < epochs["tpe"], epochs


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_same_seed_gives_the_same_study_and_another_seed_another(scheduler: str) -> None:
    table = {"name": scheduler}
    assert simulated(1, scheduler=table) == simulated(1, scheduler=table)
    assert (simulated(1, scheduler=table) == simulated(2, scheduler=table)) == (scheduler == "none")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_trial_shorter_than_the_grace_trains_in_full(scheduler: str) -> None:
    assert simulated(length=2, scheduler={"name": scheduler, "grace_epochs": 3}).reached == {2: 10}


def test_a_time_budget_lets_running_trials_end_their_epoch() -> None:
    found = simulated(scheduler={"name": "none"}, budget={"trials": 100, "time_seconds": 25}, slots=3, pace=Pace(10.0))
    assert (found.epochs, found.seconds) == (3 * 3, 30.0)


@pytest.mark.parametrize("limit", [{"device_hours": 60 / 3600}, {"cost": 2 * 60 / 3600, "price_per_device_hour": 2.0}])
def test_a_limit_of_device_hours_or_cost_ends_the_study(limit: dict[str, float]) -> None:
    found = simulated(scheduler={"name": "none"}, budget={"trials": 100, "stop_when": limit}, slots=4, pace=Pace(10.0))
    # 60 device-seconds are used up when each of four trials has trained for 15 s.
    assert (found.epochs, found.seconds) == (4 * 2, 20.0)


def test_limits_of_time_end_nothing_while_it_is_not_known_what_an_epoch_takes() -> None:
    budget = {"trials": 10, "time_seconds": 1, "stop_when": {"device_hours": 1e-6}}
    assert simulated(scheduler={"name": "none"}, budget=budget).epochs == 270


def test_a_study_without_improvement_ends_early() -> None:
    patient, impatient = (
        simulated(scheduler={"name": "none"}, budget={"trials": 300, "stop_when": {"no_improvement_trials": trials}})
        for trials in (300, 5)
    )
    assert impatient.epochs < patient.epochs / 2


def test_paused_trials_are_no_more_than_the_study_file_allows() -> None:
    for most in (1, 4):
        found = simulated(scheduler={"name": "promotion", "max_paused": most}, budget={"trials": 100})
        assert found.most_paused == most


def test_a_hyperband_lets_more_trials_through_than_asha() -> None:
    asha, hyperband = (simulated(scheduler={"name": name}, budget={"trials": 200}) for name in ("asha", "hyperband"))
    assert asha.reached[9] < hyperband.reached[9]


def test_trials_are_counted_at_the_rungs_and_at_the_full_length() -> None:
    assert milestones(Scheduler(name="asha", grace_epochs=4), 50) == [4, 12, 36, 50]
    assert milestones(Scheduler(name="asha", grace_epochs=2, reduction_factor=2.5), 13) == [2, 5, 13]
    assert milestones(Scheduler(name="none", grace_epochs=4), 50) == [50]


def test_promotions_own_standing_is_that_of_the_record() -> None:
    spec = study_spec(scheduler={"name": "promotion", "grace_epochs": 1}, budget={"trials": 60})
    study, draw = Study(StudyRecord(spec)), random.Random(3)
    scheduler = Promotion([Objective(metric="score")], 1, 2)
    paused = []
    for _ in range(60):
        number, verdict = study.begin()[0], Verdict.CONTINUE
        for epoch in range(1, 9):
            study.report(number, epoch, draw.random() * epoch)
            verdict = scheduler.decide(number, epoch, study.record.trials[number].values)
            if verdict is not Verdict.CONTINUE:
                break
        if verdict is Verdict.PAUSE:
            study.event("pause", trial=number)
            paused.append(number)
    assert len({study.record.trials[number].epoch for number in paused}) > 1, "they paused at several rungs"
    own = sorted((scheduler.standing(number) for number in paused), key=by_promise)
    of_record = standings(study.record, paused)
    assert [one.trial for one in own] == [one.trial for one in of_record]
    assert [one.share_ahead for one in own] == pytest.approx([one.share_ahead for one in of_record])


@pytest.mark.parametrize("scheduler", ["asha", "promotion", "hyperband", "median"])
def test_control_trials_train_to_their_end(scheduler: str) -> None:
    def of(control: int, seed: int) -> Simulated:
        return simulated(seed, scheduler={"name": scheduler, "control_trials": control}, budget={"trials": 40})

    for seed in range(5):
        assert of(40, seed).reached[27] == 40, "none is stopped"
        assert of(6, seed).reached[27] >= 6
    assert sum(of(6, seed).epochs for seed in range(5)) > sum(of(0, seed).epochs for seed in range(5))
