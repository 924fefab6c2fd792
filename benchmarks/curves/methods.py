"""The searches that are compared: this project's own objects, Optuna as it comes, and one that didn't help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from benchmarks.curves.simulation import Ending, Method, simulate
from benchmarks.curves.tasks import Params, Task
from tuner.events.event import EpochReported, TrialEnded, TrialPaused, TrialStarted
from tuner.events.state import StudyRecord
from tuner.search.earlier_studies import choose, with_first_trials
from tuner.search.sampler import Sampler, values_for_sampler
from tuner.search.schedulers.early_stopping import early_stopping
from tuner.search.schedulers.rungs import Verdict
from tuner.search.schedulers.study_scheduler import StudyScheduler
from tuner.spec.space import sample
from tuner.spec.study import StudySpec

_TRIALS = 20_000  # more than any budget of epochs here holds
_EARLIER, _EARLIER_WORKERS, _EARLIER_TRAININGS = 4, 4, 25
_ASHA = {"name": "asha", "grace_epochs": 3}


class StudySearch:
    """The sampler and the early stopping of a study, over a study's record."""

    def __init__(self, spec: StudySpec):
        self.record, self._events = StudyRecord(spec), 0
        self._sampler = Sampler(self.record)
        self._scheduler = StudyScheduler(self.record)

    def next(self) -> tuple[int, Params]:
        proposal = self._sampler.ask()
        self._scheduler.resume(proposal.trial)
        self.record.apply(TrialStarted(self._time(), proposal.trial, proposal.params))
        return proposal.trial, proposal.params

    def report_metrics(self, trial: int, epoch: int, metrics: dict[str, float]) -> Verdict:
        self.record.apply(EpochReported(self._time(), trial, epoch, metrics))
        known = self.record.trials[trial]
        verdict = self._scheduler.decide(known, can_pause=not self.record.at_full_length(known)).verdict
        if verdict is Verdict.PAUSE:
            self.record.apply(TrialPaused(self._time(), trial))
            self._sampler.pause(trial)
            for surplus in self._sampler.surplus_paused():
                self.end(surplus, "stopped")
        return verdict

    def end(self, trial: int, state: Ending) -> None:
        known = self.record.trials[trial]
        self.record.apply(TrialEnded(self._time(), trial, known.value, known.best_epoch, state, None))
        self._sampler.tell(trial, values_for_sampler(known))

    def _time(self) -> float:
        self._events += 1
        return float(self._events)


class ThisProject(StudySearch):
    """This project's search of one objective."""

    def __init__(
        self,
        task: Task,
        seed: int,
        scheduler: dict[str, Any],
        sampler: str | None = None,
        earlier: Sequence[tuple[str, StudyRecord]] = (),
    ):
        """sampler: the default one if left out. earlier: studies that first trials are taken from."""
        spec = _study(task, {"seed": seed} | ({"sampler": sampler} if sampler else {}), scheduler)
        super().__init__(with_first_trials(spec, choose(earlier, spec)))

    def report(self, trial: int, epoch: int, value: float) -> Verdict:
        return self.report_metrics(trial, epoch, {"score": value})


class Optuna:
    """Optuna with its default sampler and one of its pruners, as its documentation has it."""

    def __init__(self, task: Task, seed: int, pruner: optuna.pruners.BasePruner):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = _study(task).space
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._study = optuna.create_study(direction=task.direction, sampler=sampler, pruner=pruner)
        self._running: dict[int, optuna.Trial] = {}
        self._last: dict[int, float] = {}

    def next(self) -> tuple[int, Params]:
        trial = self._study.ask()
        self._running[trial.number] = trial
        return trial.number, sample(self._space, trial)

    def report(self, trial: int, epoch: int, value: float) -> Verdict:
        self._running[trial].report(value, epoch)
        self._last[trial] = value
        return Verdict.STOP if self._running[trial].should_prune() else Verdict.CONTINUE

    def end(self, trial: int, state: Ending) -> None:
        asked = self._running.pop(trial)
        if state == "finished":
            self._study.tell(asked, self._last[trial])
        else:
            self._study.tell(asked, state=TrialState.PRUNED if state == "stopped" else TrialState.FAIL)


class TpeOnRungs:
    """TPE that compares trials on the highest rung with enough of them, as BOHB does; ASHA stops."""

    _ENOUGH, _RANDOM_SHARE = 8, 0.25

    def __init__(self, task: Task, seed: int):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec, self._seed, self._sign = (
            _study(task, scheduler=_ASHA),
            seed,
            1 if task.direction == "maximize" else -1,
        )
        self._early_stopping = early_stopping(self._spec.objectives, self._spec.scheduler)
        self._rungs = [epochs for k in range(9) if (epochs := 3 * 3**k) < task.epochs] + [task.epochs]
        self._known: dict[int, tuple[Params, list[float]]] = {}
        """Of each trial, its hyperparameters and its best so far after each epoch."""

    def next(self) -> tuple[int, Params]:
        number = len(self._known)
        rng = (self._seed * 1_000_003 + number) % 2**32
        study = optuna.create_study(direction=self._spec.objective.direction)
        is_random = number % round(1 / self._RANDOM_SHARE) == 0
        study.sampler = optuna.samplers.RandomSampler(rng) if is_random else self._tpe(study, rng)
        params = sample(self._spec.space, study.ask())
        self._known[number] = params, []
        return number, params

    def _tpe(self, study: optuna.Study, seed: int) -> optuna.samplers.BaseSampler:
        distributions = {name: dimension.distribution() for name, dimension in self._spec.space.items()}
        for rung in reversed(self._rungs):
            there = [(params, curve[rung - 1]) for params, curve in self._known.values() if len(curve) >= rung]
            if len(there) >= self._ENOUGH:
                for params, value in there:
                    study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
                break
        return optuna.samplers.TPESampler(n_startup_trials=self._ENOUGH, seed=seed)

    def report(self, trial: int, epoch: int, value: float) -> Verdict:
        curve = self._known[trial][1]
        curve.append(value if not curve or self._sign * value > self._sign * curve[-1] else curve[-1])
        return self._early_stopping.decide(trial, epoch, [curve[-1]])

    def end(self, trial: int, state: Ending) -> None:
        del trial, state


def _warm(task: Task, seed: int) -> ThisProject:
    """The default search after studies of four other tasks."""
    earlier = [(other.name, _studied(other, seed)) for other in task.others[:_EARLIER]]
    return ThisProject(task, seed, {}, earlier=earlier)


_earlier_records: dict[tuple[str, int], StudyRecord] = {}


def _studied(task: Task, seed: int) -> StudyRecord:
    """A study of the default search, run once a process."""
    if (task.name, seed) not in _earlier_records:
        method = ThisProject(task, seed, {})
        simulate(task, method, _EARLIER_WORKERS, _EARLIER_TRAININGS * task.epochs)
        _earlier_records[task.name, seed] = method.record
    return _earlier_records[task.name, seed]


def _study(task: Task, search: dict[str, Any] | None = None, scheduler: dict[str, Any] | None = None) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "curves",
            "objective": {"metric": "score", "direction": task.direction},
            "search": search or {},
            "scheduler": scheduler or {},
            "budget": {"trials": _TRIALS},
            "space": task.space,
        }
    )


RANDOM, BEFORE, NOW = "random+asha", "before", "now"

METHODS: dict[str, Callable[[Task, int], Method]] = {
    "random": lambda task, seed: ThisProject(task, seed, {"name": "none"}, "random"),
    RANDOM: lambda task, seed: ThisProject(task, seed, _ASHA, "random"),
    "optuna-median": lambda task, seed: Optuna(task, seed, optuna.pruners.MedianPruner()),
    "optuna-hyperband": lambda task, seed: Optuna(task, seed, optuna.pruners.HyperbandPruner(max_resource=task.epochs)),
    BEFORE: lambda task, seed: ThisProject(task, seed, {"name": "asha", "grace_epochs": 1}, "tpe"),
    "tpe+asha": lambda task, seed: ThisProject(task, seed, _ASHA, "tpe"),
    "tpe-on-rungs": TpeOnRungs,
    "promotion": lambda task, seed: ThisProject(task, seed, {"name": "promotion"}),
    "hyperband": lambda task, seed: ThisProject(task, seed, {"name": "hyperband"}),
    "median": lambda task, seed: ThisProject(task, seed, {"name": "median"}),
    NOW: lambda task, seed: ThisProject(task, seed, {}),
    "warm": _warm,
}
