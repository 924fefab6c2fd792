"""Constraints on metrics: which epochs count, and what early stopping makes of the others, after a resume too."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.studies import study_spec
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.events.constraints import no_winner
from tuner.events.event import RunEnded
from tuner.events.log import Journal
from tuner.events.state import StudyRecord, load_record
from tuner.spec.study import StudySpec, to_json
from tuner.storage.storage import Storage
from tuner.worker.messages import Action, Decision, End, Paused, Report


def spec(scheduler: str = "asha", limit: float = 8.0, **changes: Any) -> StudySpec:
    return study_spec(
        constraints=[{"metric": "memory", "at_most": limit}],
        scheduler={"name": scheduler, "grace_epochs": 2, "reduction_factor": 3},
        **changes,
    )


def report(epoch: int, score: float, memory: float) -> Report:
    return Report(epoch, {"score": score, "memory": memory}, resumable=True)


class OnRecorder:
    """A study whose trials report what a test says."""

    def __init__(self, folder: Storage, journal: Journal, study: StudySpec):
        self.folder = folder
        self.folder.write_text("study.json", to_json(study))
        self.recorder = Recorder(StudyRecord(study), journal, StudyControl(), [])

    def train(self, number: int, *reports: tuple[float, float]) -> Decision:
        """The decision on the last of a trial's reports: score and memory of each epoch."""
        self.recorder.trial_started(number, {"x": 0.5})
        for epoch, (score, memory) in enumerate(reports, start=1):
            decision = self.recorder.receive(number, report(epoch, score, memory))
        return decision

    def end(self, number: int) -> None:
        self.recorder.receive(number, End("finished"))
        self.recorder.trial_done(number)


Begun = Callable[[StudySpec], OnRecorder]


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Begun]:
    folder = Storage(str(tmp_path)) / "s"
    with Journal(folder) as journal:
        yield lambda study: OnRecorder(folder, journal, study)


def test_a_trials_best_is_of_the_epochs_that_keep_the_constraint(begun: Begun) -> None:
    study = begun(spec())
    study.train(1, (0.3, 8.0), (0.9, 8.5), (0.5, 7.0), (0.7, 9.0))
    study.end(1)
    [trial] = study.recorder.record.ranking()
    assert (trial.value, trial.best_epoch, trial.epoch) == (0.5, 3, 4)
    assert trial.breach is None
    assert no_winner(study.recorder.record) is None


def test_weights_of_a_trial_that_keeps_no_constraint_are_not_kept(begun: Begun) -> None:
    study = begun(spec())
    assert study.train(1, (0.9, 9.0)) == Decision(Action.CONTINUE, keep=False)
    assert study.recorder.receive(1, report(2, 0.5, 7.0)) == Decision(Action.CONTINUE, keep=True)


def test_a_trial_that_keeps_no_constraint_is_worse_than_any_that_does_and_as_good_as_others_that_do_not(
    begun: Begun,
) -> None:
    study = begun(spec())
    for number in (1, 2):
        assert study.train(number, (0.9, 9.0), (0.9, 9.0)).action is Action.CONTINUE, "there is none that does"
    assert study.train(3, (0.1, 7.0), (0.1, 7.0)).action is Action.CONTINUE
    assert study.train(4, (0.2, 7.0), (0.2, 7.0)).action is Action.CONTINUE
    assert study.train(5, (0.9, 9.0), (0.9, 9.0)) == Decision(
        Action.STOP, "asha stopped it at epoch 2: memory must be at most 8, got 9 at epoch 2", keep=False
    )


def test_a_trial_that_keeps_no_constraint_is_stopped_where_promotion_would_pause_it(begun: Begun) -> None:
    study = begun(spec("promotion"))
    for number, score in ((1, 0.9), (2, 0.1)):
        study.train(number, (score, 7.0), (score, 7.0))
    for number in (3, 4, 5):
        assert study.train(number, (0.5, 9.0), (0.5, 9.0)).action is Action.STOP


@pytest.mark.parametrize("scheduler", ["asha", "promotion", "hyperband", "median"])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_resumed_study_decides_as_the_unbroken_one_would(begun: Begun, scheduler: str, direction: str) -> None:
    rng = random.Random(5)
    study = begun(spec(scheduler, objective={"metric": "score", "direction": direction}))
    compared = 0
    for number in range(1, 25):
        study.recorder.trial_started(number, {"x": 0.5})
        for epoch in range(1, 10):
            sent = report(epoch, rng.random(), rng.choice([7.0, 9.0]))
            again = Recorder(load_record(study.folder), cast(Journal, _Nowhere()), StudyControl(), [])
            decision = study.recorder.receive(number, sent)
            assert again.receive(number, sent) == decision, (number, epoch)
            compared += 1
            if decision.action is not Action.CONTINUE:
                break
        if decision.action is Action.PAUSE:
            study.recorder.receive(number, Paused())
        else:
            study.recorder.receive(number, End("finished" if decision.action is Action.CONTINUE else "stopped"))
        study.recorder.trial_done(number)
    assert compared > 60


class _Nowhere:
    """A log that keeps nothing."""

    size = 0

    def append(self, event: object) -> None:
        pass


def test_a_study_without_a_trial_that_keeps_the_constraints_says_which_and_how_near_one_came(begun: Begun) -> None:
    study = begun(spec(limit=2.0))
    for number, memory in ((1, 4.0), (2, 2.5)):
        study.train(number, (0.5, memory))
        study.end(number)
    study.recorder.write(RunEnded(1e9, "finished", None))
    assert no_winner(study.recorder.record) == (
        "none of 2 ended trials keeps the constraints: memory at most 2 (2 broke it, the nearest with 2.5)"
    )
