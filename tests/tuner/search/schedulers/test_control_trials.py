"""Which trials of a study are control trials."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.studies import study_spec
from tuner.events.trial import TrialRecord
from tuner.search.schedulers.control_trials import control_trials
from tuner.spec.study import StudySpec


def spec_of(trials: int, control: int, seed: int = 0, **changes: Any) -> StudySpec:
    return study_spec(
        budget={"trials": trials}, scheduler={"control_trials": control}, search={"seed": seed}, **changes
    )


def test_a_study_has_as_many_as_it_asks_for_and_none_by_default() -> None:
    assert control_trials(study_spec()) == frozenset()
    assert len(control_trials(spec_of(20, 4))) == 4
    assert control_trials(spec_of(4, 4)) == frozenset(range(1, 5))


def test_the_seed_alone_chooses_them_and_each_number_is_chosen_as_often() -> None:
    assert control_trials(spec_of(20, 4, seed=7)) == control_trials(spec_of(20, 4, seed=7))
    drawn = Counter(number for seed in range(2000) for number in control_trials(spec_of(10, 3, seed=seed)))
    # 600 times each of ten, give or take 20.5 (the hypergeometric deviation over 2,000 draws); 4 of these.
    assert set(drawn) == set(range(1, 11))
    assert all(abs(count - 600) < 82 for count in drawn.values()), drawn


def test_none_is_a_first_trial() -> None:
    first = [{"x": 0.1}, {"x": 0.2}, {"x": 0.3}]
    assert all(min(control_trials(spec_of(8, 4, seed=seed, first_trials=first))) > 3 for seed in range(50))


@pytest.mark.parametrize("begun", [0, 1, 9, 20])
def test_what_has_begun_changes_nothing_for_the_rest(begun: int) -> None:
    whole = control_trials(spec_of(20, 6))
    known = {number: TrialRecord(number, {}, control=number in whole) for number in range(1, begun + 1)}
    assert control_trials(spec_of(20, 6), known) == {number for number in whole if number > begun}


def test_a_larger_budget_adds_none_and_more_control_trials_are_drawn_of_what_has_not_begun() -> None:
    whole = control_trials(spec_of(10, 3))
    known = {number: TrialRecord(number, {}, control=number in whole) for number in range(1, 11)}
    assert control_trials(spec_of(40, 3), known) == frozenset()
    more = control_trials(spec_of(40, 5), known)
    assert len(more) == 2
    assert min(more) > 10
