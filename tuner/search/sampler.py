"""The sampler: proposes the hyperparameters of the next trial, by Optuna; rebuilt from a study's record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from tuner.events.state import StudyRecord, TrialRecord
from tuner.spec.space import is_active, sample
from tuner.spec.study import StudySpec

# TPE reads all trials that it knows for each proposal. It compares its best 25 with the rest, for which the newest
# trials are a good sample. With only these, the 10,000th proposal takes no longer than the 1,000th.
BEST_KEPT, NEWEST_KEPT, MAX_KNOWN = 100, 400, 1000


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study and its hyperparameters."""

    trial: int
    params: dict[str, Any]


class Sampler:
    """Proposes a study's trials and learns their values.

    Interrupted trials of an earlier run come first, with their own number and hyperparameters.
    """

    def __init__(self, record: StudyRecord):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._record, self._space, self._first_trials = record, record.spec.space, record.spec.first_trials
        self._requeued = [Proposal(trial.id, trial.params) for trial in record.trials.values() if trial.open]
        # A kill can leave a gap: a later trial's process may have been up before an earlier one's.
        self._new_numbers = [
            number for number in range(1, record.spec.budget.trials + 1) if number not in record.trials
        ]
        self._proposed: dict[int, Proposal] = {}
        """Trials that run, by number."""
        self._asked: dict[int, optuna.Trial] = {}
        """Running trials that Optuna knows; one of an earlier run may lie outside the present search space."""
        self._sampler = _optuna_sampler(record.spec, len(record.trials))
        self._study = _optuna_study(record, self._sampler)

    @property
    def exhausted(self) -> bool:
        """Whether no trial is left to propose; one that is requeued changes that."""
        return not (self._requeued or self._new_numbers)

    @property
    def known(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that Optuna has learnt from or knows to run: of a large study only the best and the newest."""
        return self._study.trials

    def ask(self) -> Proposal:
        """The next trial. The sampler must not be exhausted."""
        if self._requeued:
            proposal = self._requeued.pop(0)
            self._enqueue(proposal)
        else:
            proposal = self._new(self._new_numbers.pop(0))
        self._proposed[proposal.trial] = proposal
        return proposal

    def tell(self, trial: int, value: float | None) -> None:
        """A trial has ended. value: its best; for a failed one the study's worst, or None if there is none.

        Optuna ignores failed trials, and without a value would propose similar hyperparameters again.
        """
        del self._proposed[trial]
        if asked := self._asked.pop(trial, None):
            self._study.tell(asked, value, state=TrialState.COMPLETE if value is not None else TrialState.FAIL)
            if asked.number >= MAX_KNOWN:
                self._trim_history()

    def requeue(self, trial: int) -> None:
        """Propose a trial once more: it was interrupted and must run again."""
        if asked := self._asked.pop(trial, None):
            self._study.tell(asked, state=TrialState.FAIL)
        self._requeued.append(self._proposed.pop(trial))

    def _new(self, number: int) -> Proposal:
        if number <= len(self._first_trials):
            self._study.enqueue_trial(self._first_trials[number - 1])
        self._asked[number] = self._study.ask()
        return Proposal(number, sample(self._space, self._asked[number]))

    def _enqueue(self, proposal: Proposal) -> None:
        """Make this trial known to Optuna as running, unless its hyperparameters lie outside the search space."""
        params = proposal.params
        active = {name: d for name, d in self._space.items() if is_active(d, params)}
        if all(name in params and d.contains(params[name]) for name, d in active.items()):
            self._study.enqueue_trial({name: params[name] for name in active})
            self._asked[proposal.trial] = self._study.ask()
            sample(self._space, self._asked[proposal.trial])

    def _trim_history(self) -> None:
        """Replace the Optuna study by one with fewer trials, and enqueue the running trials in it again."""
        self._study = _optuna_study(self._record, self._sampler)
        self._asked.clear()
        for proposal in self._proposed.values():
            self._enqueue(proposal)


def value_for_sampler(record: StudyRecord, trial: TrialRecord | None) -> float | None:
    """The value to give the sampler for a trial: its best, or for a failed one the worst of any trial.

    None for a failed trial when no trial has reported a value yet, and for a trial that was stopped before its first
    report.
    """
    if trial is not None and (trial.state == "stopped" or (trial.state != "failed" and trial.value is not None)):
        return trial.value
    return record.worst_value


def _optuna_study(record: StudyRecord, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """An Optuna study in memory with the ended trials of the record; of many only the best and the newest."""
    spec = record.spec
    study = optuna.create_study(direction=spec.objective.direction, sampler=sampler)
    for trial in _known(record):
        value = value_for_sampler(record, trial)
        if value is None:
            continue
        active = {name: d for name, d in spec.space.items() if name in trial.params and is_active(d, trial.params)}
        params = {name: trial.params[name] for name in active}
        # A resumed study may have another space; Optuna refuses what doesn't fit.
        if all(d.contains(params[name]) for name, d in active.items()):
            distributions = {name: d.distribution() for name, d in active.items()}
            study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=distributions))
    return study


def _known(record: StudyRecord) -> list[TrialRecord]:
    """The ended trials to give to Optuna, in the order in which they ended."""
    ended = record.ended
    if len(ended) <= BEST_KEPT + NEWEST_KEPT:
        return ended
    best = {trial.id for trial in record.ranking()[:BEST_KEPT]}
    older = [trial for trial in ended[:-NEWEST_KEPT] if trial.id in best]
    return older + ended[-NEWEST_KEPT:]


def _optuna_sampler(spec: StudySpec, known: int) -> optuna.samplers.BaseSampler:
    """known: how many trials went before; a resumed study must not draw its first proposals again."""
    seed = spec.search.seed + 7919 * known
    if spec.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    conditional = any(dimension.when for dimension in spec.space.values())
    return optuna.samplers.TPESampler(seed=seed, group=conditional)
