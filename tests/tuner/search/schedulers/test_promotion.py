"""Promotion: who pauses at a rung, and which paused trial resumes, from the record alone."""

from __future__ import annotations

from typing import Any, Literal

from tests.studies import study_spec
from tests.tuner.search.test_sampler import Study
from tuner.events.state import StudyRecord
from tuner.search.sampler import Sampler
from tuner.search.schedulers.promotion import Promotion, standings
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study_tables import Objective


def promotion(direction: Literal["maximize", "minimize"] = "maximize") -> Promotion:
    return Promotion([Objective(metric="score", direction=direction)], grace_epochs=2, reduction_factor=3)


def paused_study(**changes: Any) -> Study:
    """Six trials on the rung at epoch 2, of which 3, 4 and 5 are paused, with the 4th as the best of these."""
    tables = {"scheduler": {"name": "promotion", "grace_epochs": 2}, "budget": {"trials": 9}, **changes}
    study = Study(StudyRecord(study_spec(**tables)))
    for number, (value, end) in enumerate(
        [(0.5, "finished"), (0.9, "finished"), (0.6, None), (0.8, None), (0.7, None), (0.1, "stopped")], start=1
    ):
        assert study.begin()[0] == number
        study.report(number, 1, value / 2)
        study.report(number, 2, value)
        if end:
            study.end(number, end)
    for number in (3, 4, 5):
        study.event("pause", trial=number)
        study.sampler.pause(number)
    return study


def test_the_best_of_a_rung_continue_the_worse_half_stop_and_those_between_pause() -> None:
    scheduler = promotion()
    assert [scheduler.decide(trial, 2, [value]) for trial, value in ((1, 0.5), (2, 0.9), (3, 0.8), (4, 0.6))] == [
        Verdict.CONTINUE,
        Verdict.CONTINUE,
        Verdict.PAUSE,
        Verdict.STOP,
    ]
    assert scheduler.decide(1, 3, [0.5]) is Verdict.CONTINUE, "no rung lies there"


def test_less_is_better_where_the_objective_is_minimized() -> None:
    scheduler = promotion("minimize")
    assert [scheduler.decide(trial, 2, [value]) for trial, value in ((1, 0.5), (2, 0.1), (3, 0.2), (4, 0.4))] == [
        Verdict.CONTINUE,
        Verdict.CONTINUE,
        Verdict.PAUSE,
        Verdict.STOP,
    ]


def test_a_trial_that_resumes_is_paused_by_its_next_rung_only() -> None:
    scheduler = promotion()
    for trial, value in ((1, 0.5), (2, 0.9)):
        for epoch in (2, 6):
            scheduler.decide(trial, epoch, [value])
    assert scheduler.decide(3, 2, [0.8]) is Verdict.PAUSE
    assert scheduler.decide(3, 2, [0.8]) is Verdict.PAUSE, "its process died before it knew"
    scheduler.resume(3)
    assert scheduler.decide(3, 2, [0.8]) is Verdict.CONTINUE, "it sends its checkpoint's report again"
    assert scheduler.decide(3, 6, [0.8]) is Verdict.PAUSE


def test_a_trial_that_goes_back_behind_its_rung_is_judged_again() -> None:
    scheduler = promotion()
    for trial, value in ((1, 0.5), (2, 0.9), (3, 0.8)):
        scheduler.decide(trial, 2, [value])
    scheduler.rewind(3, 1)
    assert scheduler.decide(3, 2, [0.95]) is Verdict.CONTINUE


def test_the_most_promising_paused_trial_is_the_one_with_the_fewest_ahead_where_it_paused() -> None:
    study = paused_study()
    found = standings(study.record, [3, 4, 5])
    assert [(standing.trial, standing.epoch, round(6 * standing.share_ahead)) for standing in found] == [
        (4, 2, 1),
        (5, 2, 2),
        (3, 2, 3),
    ]
    study = paused_study(objective={"metric": "score", "direction": "minimize"})
    assert [standing.trial for standing in standings(study.record, [3, 4, 5])] == [3, 5, 4]


def test_a_slot_resumes_a_paused_trial_of_the_best_third_before_a_new_one_is_proposed() -> None:
    study = paused_study()
    params = study.record.trials[4].params
    assert study.begin() == (4, params)
    assert study.begin()[0] == 7, "of the two left, a third or more of the others are ahead"
    assert not study.sampler.exhausted


def test_a_sampler_built_from_the_record_resumes_the_same_trial() -> None:
    study = paused_study()
    rebuilt = Sampler(study.record)
    assert rebuilt.paused == {3, 4, 5}
    assert [rebuilt.ask() for _ in range(3)] == [study.sampler.ask() for _ in range(3)]


def test_a_study_is_exhausted_when_no_paused_trial_is_worth_resuming() -> None:
    study = paused_study(budget={"trials": 6})
    assert study.begin()[0] == 4
    study.report(4, 3, 0.85)
    study.end(4)
    assert study.sampler.exhausted
    assert study.sampler.paused == {3, 5}


def test_more_paused_trials_than_may_wait_are_given_up_from_the_least_promising_on() -> None:
    assert paused_study(scheduler={"name": "promotion", "max_paused": 2}).sampler.surplus_paused() == [3]
    assert paused_study().sampler.surplus_paused() == []
