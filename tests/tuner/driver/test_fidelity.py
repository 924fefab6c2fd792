"""Trials of different fidelities: which of them may win, and what early stopping compares."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.replayed_curves import train
from tests.studies import study_spec
from tuner.display.live import fidelity_text, trial_table
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.events.constraints import no_winner
from tuner.events.control_outcome import control_outcome
from tuner.events.log import Journal
from tuner.events.state import StudyRecord
from tuner.search.schedulers.promotion import standings
from tuner.storage.storage import Storage
from tuner.worker.messages import End, Report

NewRecorder = Callable[..., Recorder]
FIDELITY = {"image_size": [[8, 8], [16, 16], [32, 32]]}


@pytest.fixture
def new_recorder(tmp_path: Path) -> Iterator[NewRecorder]:
    """Makes one of a study with rungs at epochs 2 and 6, after which the values change."""
    with contextlib.ExitStack() as stack:

        def make(**scheduler: Any) -> Recorder:
            spec = study_spec(
                budget={"trials": 30},
                scheduler={"grace_epochs": 2, "fidelity": FIDELITY, **scheduler},
                fixed={"image_size": [32, 32]},
            )
            journal = stack.enter_context(Journal(Storage(str(tmp_path)) / f"s{len(list(tmp_path.iterdir()))}"))
            return Recorder(StudyRecord(spec), journal, StudyControl(), [])

        yield make


def curve_with_jumps(number: int) -> list[float]:
    """Small images measure far better, in every trial; otherwise trials with smaller numbers are better."""
    jumps = [5.0] * 2 + [2.0] * 4 + [0.0] * 3
    return [jump + epoch / 10 - number / 100 for epoch, jump in enumerate(jumps, start=1)]


def test_the_winner_is_chosen_among_epochs_at_full_fidelity(new_recorder: NewRecorder) -> None:
    recorder = new_recorder()
    train(recorder, [9, 1, 8, 7], curve_with_jumps)
    record = recorder.record
    assert {trial.id: trial.epoch for trial in record.trials.values()} == {9: 9, 1: 9, 8: 2, 7: 2}
    ranking = record.ranking()
    assert [trial.id for trial in ranking] == [1, 9, 7, 8]
    assert ranking[0].value == pytest.approx(0.89)
    assert ranking[0].best_epoch == 9
    assert ranking[2].value == pytest.approx(5.13)  # of its own fidelity
    assert record.leader is ranking[0]
    assert record.best_value == pytest.approx(0.89)
    assert no_winner(record) is None


def test_a_study_whose_trials_all_ended_before_full_fidelity_has_no_winner(new_recorder: NewRecorder) -> None:
    recorder = new_recorder()
    recorder.trial_started(1, {"x": 0.5})
    recorder.receive(1, Report(1, {"score": 0.9}))
    recorder.receive(1, End("stopped", "the budget ended"))
    assert recorder.record.best_value is None
    assert no_winner(recorder.record) == (
        "none of 1 ended trials has a value at full fidelity, which begins after epoch 6 (scheduler.fidelity)"
    )


@pytest.mark.parametrize("name", ["asha", "promotion", "hyperband"])
def test_early_stopping_decides_as_without_the_jumps_that_all_trials_make(name: str, new_recorder: NewRecorder) -> None:
    orders = [[5, 2, 8, 1, 9, 3, 7, 4, 6], [1, 2, 3, 4, 5, 6, 7, 8, 9]]
    for order in orders:
        jumping, plain = new_recorder(name=name), new_recorder(name=name, fidelity={})
        train(jumping, order, curve_with_jumps)
        train(plain, order, lambda trial: [epoch / 10 - trial / 100 for epoch in range(1, 10)])
        ends = [
            {trial.id: (trial.state, trial.epoch) for trial in recorder.record.trials.values()}
            for recorder in (jumping, plain)
        ]
        assert ends[0] == ends[1]
        assert len({epoch for _, epoch in ends[0].values()}) > 1


def test_a_resumed_study_decides_as_the_unbroken_one(new_recorder: NewRecorder) -> None:
    orders = itertools.permutations([1, 2, 3, 4, 5])
    for order in itertools.islice(orders, 0, None, 17):
        unbroken, first = new_recorder(), new_recorder()
        train(unbroken, order, curve_with_jumps)
        train(first, order[:3], curve_with_jumps)
        second = Recorder(first.record, first._journal, StudyControl(), [])
        train(second, order[3:], curve_with_jumps)
        assert [(t.id, t.epoch, t.value) for t in second.record.ranking()] == [
            (t.id, t.epoch, t.value) for t in unbroken.record.ranking()
        ]


def test_a_rewound_trial_has_the_best_of_the_fidelity_that_it_was_rewound_to(new_recorder: NewRecorder) -> None:
    recorder = new_recorder()
    recorder.trial_started(1, {"x": 0.5})
    for epoch, value in enumerate(curve_with_jumps(1)[:8], start=1):
        recorder.receive(1, Report(epoch, {"score": value}))
    assert recorder.record.trials[1].best_epoch == 8
    recorder.receive(1, Report(4, {"score": curve_with_jumps(1)[3]}, resumed=True))
    trial = recorder.record.trials[1]
    assert (trial.epoch, trial.best_epoch) == (4, 4)
    assert trial.value == pytest.approx(2.39)
    assert recorder.record.leader is trial


def test_paused_trials_are_compared_with_what_others_measured_in_the_same_stretch(new_recorder: NewRecorder) -> None:
    recorder = new_recorder(name="promotion")
    for number, values in ((1, [9.0, 9.0, 1.0, 1.0, 1.0, 1.0]), (2, [5.0, 5.0, 2.0, 2.0, 2.0, 2.0])):
        recorder.trial_started(number, {"x": 0.5})
        for epoch, value in enumerate(values, start=1):
            recorder.receive(number, Report(epoch, {"score": value}))
    assert [(each.trial, each.share_ahead) for each in standings(recorder.record, [1, 2])] == [(2, 0.0), (1, 0.5)]


def test_control_trials_are_judged_by_what_counts(new_recorder: NewRecorder) -> None:
    recorder = new_recorder(control_trials=29)
    train(recorder, [2, 1, 3, 4, 5], curve_with_jumps)
    found = control_outcome(recorder.record)
    assert found is not None
    assert found.stopped.keys() == {3, 4, 5}
    assert found.left == pytest.approx(0.89)  # and not the 5.17 of a stopped one's small images


def test_the_table_says_at_which_fidelity_a_trial_is(new_recorder: NewRecorder) -> None:
    recorder = new_recorder()
    recorder.trial_started(1, {"x": 0.5})
    recorder.receive(1, Report(1, {"score": 0.9}))
    trial = recorder.record.trials[1]
    assert fidelity_text(recorder.record, trial) == "  image_size 8x8"
    assert "fidelity" in [str(column.header) for column in trial_table(recorder.record, [trial]).columns]
