"""The sampler: what it proposes, what it learns, and how it is rebuilt from a record."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.studies import study_spec
from tests.written_event import event
from tests.written_study import SPACE
from tuner.events.state import StudyRecord
from tuner.search import sampler
from tuner.search.sampler import Sampler, values_for_sampler
from tuner.spec.study import StudySpec
from tuner.spec.study_file import override_study

Line = tuple[str, float, dict[str, Any]]
X: dict[str, Any] = {"type": "float", "low": 0.0, "high": 1.0}
SCORE, COST = {"metric": "score"}, {"metric": "cost", "direction": "minimize"}


class Study:
    """What a run does around a sampler: asks for a trial, runs it, tells its value, with events in a record."""

    def __init__(self, record: StudyRecord):
        self.record = record
        self.sampler = Sampler(record)
        self.clock = 0.0
        self.lines: list[Line] = []

    def event(self, kind: str, **fields: Any) -> None:
        self.clock += 1
        self.lines.append((kind, self.clock, fields))
        self.record.apply(event(kind, self.clock, **fields))

    def begin(self) -> tuple[int, dict[str, Any]]:
        proposal = self.sampler.ask()
        self.event("start", trial=proposal.trial, params=proposal.params)
        return proposal.trial, proposal.params

    def report(self, number: int, epoch: int, value: float, **metrics: float) -> None:
        self.event("report", trial=number, epoch=epoch, metrics={"score": value, **metrics})

    def end(self, number: int, state: str = "finished", infeasible: bool | None = None) -> None:
        trial = self.record.trials[number]
        best = {"value": trial.value, "best_epoch": trial.best_epoch}
        self.event("end", trial=number, reason=None, state=state, infeasible=infeasible, **best)
        self.sampler.tell(number, values_for_sampler(trial))

    def completed(self) -> list[FrozenTrial]:
        """The trials that the sampler has learnt from."""
        return [trial for trial in self.sampler.known if trial.state is TrialState.COMPLETE]

    def run(self, value: float | None, state: str = "finished") -> dict[str, Any]:
        """One trial from begin to end; value None: it fails before it reports."""
        number, params = self.begin()
        if value is not None:
            self.report(number, 1, value)
        self.end(number, state)
        return params


def test_a_study_proposes_as_many_trials_as_its_budget_has() -> None:
    study = Study(StudyRecord(study_spec(budget={"trials": 3})))
    for _ in range(3):
        assert not study.sampler.exhausted
        study.run(0.5)
    assert study.sampler.exhausted


def test_first_trials_come_first_as_they_are() -> None:
    study = Study(StudyRecord(study_spec(first_trials=[{"x": 0.25}, {"x": 0.75}])))
    assert [study.run(0.5)["x"] for _ in range(2)] == [0.25, 0.75]
    assert study.run(0.5)["x"] not in (0.25, 0.75)


def test_a_first_trial_that_leaves_hyperparameters_out_has_them_sampled() -> None:
    space = {"batch_size": {"type": "int", "low": 1, "high": 8}}
    params = Study(StudyRecord(study_spec(space=space, first_trials=[{"x": 0.25}]))).run(0.5)
    assert params["x"] == 0.25
    assert params["batch_size"] in range(1, 9)


def test_a_budget_below_the_number_of_first_trials_is_kept() -> None:
    study = Study(StudyRecord(study_spec(budget={"trials": 1}, first_trials=[{"x": 0.25}, {"x": 0.75}])))
    study.run(0.5)
    assert study.sampler.exhausted


def test_the_same_seed_proposes_the_same_hyperparameters() -> None:
    runs = [[Study(StudyRecord(study_spec(search={"seed": seed}))) for _ in range(2)] for seed in (1, 2)]
    drawn = [[[study.run(0.1 * n)["x"] for n in range(10)] for study in same] for same in runs]
    assert drawn[0][0] == drawn[0][1]
    assert drawn[0][0] != drawn[1][0]


@pytest.mark.parametrize(
    ("name", "objectives"),
    [
        *((name, [SCORE]) for name in ("random", "tpe", "gp_curves", "gp", "cmaes", "nsga2", "qmc", "grid")),
        *((name, [SCORE, COST]) for name in ("tpe", "gp_curves", "gp", "nsga2")),
    ],
)
def test_a_resumed_study_proposes_what_the_unbroken_one_would_wherever_it_was_killed(
    name: str, objectives: list[dict[str, str]]
) -> None:
    # These look at what they drew for the running trials under conditions that they don't meet, which no event says.
    space = {**SPACE, "momentum": {**SPACE["momentum"], "when": {}}} if name in ("tpe", "gp") else SPACE
    if name == "grid":
        space = {"x": {**X, "step": 0.1}, **{key: SPACE[key] for key in ("batch_size", "optimizer")}}
    # As those from earlier studies, which may have other hyperparameters.
    firsts = [{"x": 0.5, "optimizer": "sgd"}, {"batch_size": 16}]
    trials = {"nsga2": 44, "gp": 15}.get(name, 24)
    search = {"search": {"sampler": name}, "budget": {"trials": trials}, "first_trials": firsts}
    spec = study_spec(space=space, objectives=objectives, **search)
    study = Study(StudyRecord(spec))
    for lines, begun in _three_at_a_time(study):
        again = Study(_killed(spec, lines))
        open_trials = [trial.id for trial in again.record.trials.values() if trial.open]
        assert [again.begin()[0] for _ in open_trials] == open_trials
        assert again.begin() == begun
    assert again.sampler.exhausted


def _killed(spec: StudySpec, lines: list[Line]) -> StudyRecord:
    record = StudyRecord(spec)
    for kind, time, fields in lines:
        record.apply(event(kind, time, **fields))
    record.apply(event("stop", 1e9, state="interrupted", reason=None))
    return record


def _three_at_a_time(study: Study) -> Iterator[tuple[list[Line], tuple[int, dict[str, Any]]]]:
    """Each trial as it begins, and the events until then.

    Every fifth fails, and of the others every second is stopped, after three epochs or more.
    """
    running: list[tuple[int, dict[str, Any]]] = []
    while not study.sampler.exhausted:
        until_then = list(study.lines)
        running.append(study.begin())
        yield until_then, running[-1]
        if len(running) < 3:
            continue
        for number, params in running:
            epoch = study.record.trials[number].epoch + 1
            score = params["x"] * epoch + (params["optimizer"] == "sgd")
            study.report(number, epoch, score, cost=params["x"] ** 2 + params["batch_size"] / 64)
        number, _ = running.pop(0)
        study.end(number, "failed" if number % 5 == 0 else "stopped" if number % 2 else "finished")


def test_a_rewound_trial_s_epochs_are_told_to_optuna_once() -> None:
    study = Study(StudyRecord(study_spec()))
    number, _ = study.begin()
    for epoch in (1, 2, 3):
        study.report(number, epoch, 0.1 * epoch)
    study.run(0.5)
    study.event("back", trial=number, epoch=1)
    study.run(0.5)
    for epoch in (2, 3, 4):
        study.report(number, epoch, 0.1 * epoch)
    study.end(number)
    assert study.sampler.known[0].intermediate_values == pytest.approx({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4})


def test_an_interrupted_trial_comes_first_with_its_own_number_and_hyperparameters() -> None:
    study = Study(StudyRecord(study_spec()))
    study.run(0.5)
    began = study.begin()
    study.event("stop", state="interrupted", reason=None)
    assert Study(study.record).begin() == began


def test_a_trial_that_a_kill_skipped_is_run_by_the_resumed_study() -> None:
    record = StudyRecord(study_spec(budget={"trials": 3}))
    # The second trial's process was up first; then the driver died.
    record.apply(event("start", 1.0, trial=2, params={"x": 0.2}))
    record.apply(event("stop", 2.0, state="interrupted"))
    study = Study(record)
    numbers = []
    for _ in range(3):
        numbers.append(study.begin()[0])
        study.end(numbers[-1])
    assert sorted(numbers) == [1, 2, 3]
    assert study.sampler.exhausted


def test_a_requeued_trial_is_proposed_again_even_if_it_was_the_last() -> None:
    study = Study(StudyRecord(study_spec(budget={"trials": 1})))
    number, params = study.begin()
    study.sampler.requeue(number)
    assert not study.sampler.exhausted
    assert study.begin() == (number, params)


def test_hyperparameters_outside_a_changed_space_are_kept_and_not_given_to_optuna() -> None:
    space = {"batch_size": {"type": "int", "low": 1, "high": 9}}
    study = Study(StudyRecord(study_spec(space=space)))
    began = [study.begin(), study.begin()]
    study.event("stop", state="interrupted", reason=None)
    changed = override_study(study.record.spec, [f"space.x.low={max(params['x'] for _, params in began) + 1e-6}"])
    study.record.spec = changed
    again = Study(study.record)
    assert [again.begin(), again.begin()] == began
    again.sampler.requeue(began[0][0])
    assert again.begin() == began[0]
    for number, _ in began:
        again.report(number, 1, 0.9)
        again.end(number)
    assert [trial.params for trial in again.completed()] == []


def test_a_study_may_be_resumed_in_another_space() -> None:
    space = {
        "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
        "batch_size": {"type": "int", "low": 1, "high": 9, "step": 4},
    }
    firsts = [{"x": 0.9, "optimizer": "sgd", "batch_size": 9}] * 2
    study = Study(StudyRecord(study_spec(space=space, first_trials=firsts)))
    study.run(0.5)
    began = study.begin()
    study.event("stop", state="interrupted", reason=None)
    changes = ["space.x.high=0.5", 'space.optimizer.choices=["adam"]', "space.batch_size.high=5", "first_trials=[]"]
    study.record.spec = override_study(study.record.spec, changes)
    again = Study(study.record)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again.begin() == began
        again.end(began[0])
        assert again.run(0.5)["x"] <= 0.5


def test_a_failed_trial_turns_the_sampler_away_from_its_like() -> None:
    """Half of the batch sizes fail; a sampler that ignores failures proposes them more often than not."""
    counts = {given: [failing_proposals("tpe", seed, given) for seed in range(4)] for given in (True, False)}
    assert sum(counts[True]) / 4 < 0.6 * sum(counts[False]) / 4, counts


def failing_proposals(name: str, seed: int, given: bool, trials: int = 40) -> int:
    """How often a failing batch size is proposed. given False: a failure is Optuna's FAIL, as OptunaSearch has it."""
    space = {"batch_size": {"type": "choice", "choices": [1, 2, 4, 8]}}
    search = {"sampler": name, "seed": seed}
    study = Study(StudyRecord(study_spec(space=space, budget={"trials": trials}, search=search)))
    failed = 0
    for _ in range(trials):
        trial, params = study.begin()
        if params["batch_size"] < 4:
            study.report(trial, 1, params["x"])
            study.end(trial)
        elif given:
            failed += 1
            study.end(trial, "failed")
        else:
            failed += 1
            study.sampler.tell(trial, ())
    return failed


def test_a_trial_whose_machine_failed_is_not_held_against_its_hyperparameters() -> None:
    study = Study(StudyRecord(study_spec()))
    study.run(0.5)
    number, _ = study.begin()
    study.report(number, 1, 0.1)
    study.end(number, "failed", infeasible=False)
    lost = study.sampler.known[1]
    assert (lost.value, lost.state.name, lost.user_attrs["outcome"]) == (None, "FAIL", "lost")
    again = Study(study.record).sampler.known[1]
    assert (again.value, again.state.name, again.user_attrs["outcome"]) == (None, "FAIL", "lost")


@pytest.mark.parametrize(("direction", "worst"), [("maximize", 0.1), ("minimize", 0.8)])
def test_a_failed_trial_gets_the_worst_value_so_far(direction: str, worst: float) -> None:
    study = Study(StudyRecord(study_spec(objective={"direction": direction})))
    number, _ = study.begin()
    for epoch, value in enumerate((0.1, 0.8, 0.5), start=1):
        study.report(number, epoch, value)
    study.end(number)
    study.run(None, state="failed")
    best = 0.8 if direction == "maximize" else 0.1
    assert [trial.value for trial in study.sampler.known] == [best, worst]
    # A resumed study knows the same.
    assert sorted(trial.value or 0 for trial in Study(study.record).sampler.known) == sorted([best, worst])


def test_a_failure_before_any_value_is_given_to_optuna_as_failed() -> None:
    study = Study(StudyRecord(study_spec()))
    study.run(None, state="failed")
    (trial,) = study.sampler.known
    assert trial.state.name == "FAIL"


def test_a_trial_that_was_stopped_before_it_reported_is_ignored() -> None:
    study = Study(StudyRecord(study_spec()))
    study.run(0.5)
    study.run(None, state="stopped")
    assert [trial.value for trial in study.completed()] == [0.5]


def test_a_stopped_trial_gets_its_best_value_not_its_last() -> None:
    study = Study(StudyRecord(study_spec()))
    number, _ = study.begin()
    for epoch, value in enumerate((0.3, 0.9, 0.2), start=1):
        study.report(number, epoch, value)
    study.end(number, "stopped")
    assert study.sampler.known[0].value == 0.9


def test_a_large_study_shows_optuna_its_best_and_newest_trials_and_keeps_those_that_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, count in {"BEST_KEPT": 10, "NEWEST_KEPT": 20, "MAX_KNOWN": 50}.items():
        monkeypatch.setattr(sampler, name, count)
    record = StudyRecord(study_spec(budget={"trials": 200}))
    study = Study(record)
    number, params = study.begin()
    for n in range(110):
        study.run(value=(n * 7919) % 1100)
    known = [trial for trial in study.sampler.known if trial.state.is_finished()]
    assert len(known) < 60
    best = sorted((trial.value for trial in record.ranking()[:10] if trial.value is not None), reverse=True)
    assert sorted((trial.value for trial in known if trial.value is not None), reverse=True)[:10] == best
    study.report(number, 1, 5000.0)
    study.end(number)
    best_known = max(study.completed(), key=lambda trial: trial.value or 0)
    assert best_known.params == params


@pytest.mark.parametrize(("state", "infeasible"), [("failed", True), ("stopped", None)])
def test_of_several_objectives_a_trial_that_can_not_work_has_the_worst_value_of_each(
    state: str, infeasible: bool | None
) -> None:
    study = Study(StudyRecord(study_spec(objectives=[SCORE, COST], constraints=[{"metric": "memory", "at_most": 1}])))
    for value, cost in ((0.8, 3.0), (0.2, 1.0)):
        number, _ = study.begin()
        study.report(number, 1, value, cost=cost, memory=0.5)
        study.end(number)
    number, _ = study.begin()
    if state == "stopped":
        study.report(number, 1, 0.9, cost=0.5, memory=2.0)
    study.end(number, state, infeasible)
    assert values_for_sampler(study.record.trials[number]) == (0.2, 3.0)
    rebuilt = Study(study.record)
    assert [trial.values for trial in rebuilt.completed()] == [[0.8, 3.0], [0.2, 1.0], [0.2, 3.0]]


def test_a_large_study_shows_optuna_the_trials_of_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "BEST_KEPT", 5)
    monkeypatch.setattr(sampler, "NEWEST_KEPT", 5)
    monkeypatch.setattr(sampler, "MAX_KNOWN", 20)
    study = Study(
        StudyRecord(study_spec(objectives=[SCORE, COST], search={"sampler": "random"}, budget={"trials": 40}))
    )
    for place in range(40):
        number, _ = study.begin()
        on_front = place in (1, 4, 7)
        study.report(
            number, 1, place / 100 if not on_front else 1.0 + place, cost=10.0 if not on_front else 1.0 + place
        )
        study.end(number)
    assert {2, 5, 8} <= {trial.user_attrs["number"] for trial in study.sampler.known}
    assert len(study.sampler.known) < 40
    assert [trial.id for trial in study.record.front()] == [8, 5, 2]
