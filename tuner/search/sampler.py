"""The sampler: which hyperparameters are tried next, by Optuna; it can be rebuilt from a study's record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from tuner.events.state import StudyRecord, TrialRecord
from tuner.spec.space import is_active, sample
from tuner.spec.study import StudySpec

# TPE looks at every trial that it knows for every proposal. It models the best quarter hundred against the rest, for
# which the newest stand: so a study of ten thousand trials proposes as fast as one of a thousand.
_BEST_KEPT, _NEWEST_KEPT, _MAX_KNOWN = 100, 400, 1000


@dataclass(frozen=True)
class Proposal:
    """A trial to run."""

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
        """Those whose end hasn't been told."""
        self._asked: dict[int, optuna.Trial] = {}
        """Those of them that Optuna knows; one of an earlier run may not fit into the space of today."""
        self._sampler = _optuna_sampler(record.spec, len(record.trials))
        self._study = _optuna_study(record, self._sampler)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to propose, unless a trial is put back."""
        return not (self._requeued or self._new_numbers)

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
        """A trial has ended. value: its best; for a failed one the worst of the study, or None if there is none.

        Optuna leaves failed trials out of account and would propose their like again and again.
        """
        del self._proposed[trial]
        if asked := self._asked.pop(trial, None):
            self._study.tell(asked, value, state=TrialState.COMPLETE if value is not None else TrialState.FAIL)
            if asked.number >= _MAX_KNOWN:
                self._trim_history()

    def requeue(self, trial: int) -> None:
        """A trial that is to be run again: propose it once more."""
        if asked := self._asked.pop(trial, None):
            self._study.tell(asked, state=TrialState.FAIL)
        self._requeued.append(self._proposed.pop(trial))

    def _new(self, number: int) -> Proposal:
        if number <= len(self._first_trials):
            self._study.enqueue_trial(self._first_trials[number - 1])
        self._asked[number] = self._study.ask()
        return Proposal(number, sample(self._space, self._asked[number]))

    def _enqueue(self, proposal: Proposal) -> None:
        """Have Optuna know that this trial runs. One that the space doesn't hold it could only know by another."""
        params = proposal.params
        active = {name: d for name, d in self._space.items() if is_active(d, params)}
        if all(name in params and d.contains(params[name]) for name, d in active.items()):
            self._study.enqueue_trial({name: params[name] for name in active})
            self._asked[proposal.trial] = self._study.ask()
            sample(self._space, self._asked[proposal.trial])

    def _trim_history(self) -> None:
        """Continue with a study that knows fewer trials; those that run are asked for again."""
        self._study = _optuna_study(self._record, self._sampler)
        self._asked.clear()
        for proposal in self._proposed.values():
            self._enqueue(proposal)


def value_for_sampler(record: StudyRecord, trial: TrialRecord | None) -> float | None:
    """What the sampler learns of a trial: its best value, or for a failed one the worst that any trial had.

    None where no value is known yet that a failure could be measured by, and of a trial that was stopped before it had
    reported any.
    """
    if trial is not None and (trial.state == "stopped" or (trial.state != "failed" and trial.value is not None)):
        return trial.value
    return record.worst_value


def _optuna_study(record: StudyRecord, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """An Optuna study in memory that knows the ended trials of the record, of many the best and the newest."""
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
    """Ended trials, in the order of their ends."""
    ended = record.ended
    if len(ended) <= _BEST_KEPT + _NEWEST_KEPT:
        return ended
    best = {trial.id for trial in record.ranking()[:_BEST_KEPT]}
    older = [trial for trial in ended[:-_NEWEST_KEPT] if trial.id in best]
    return older + ended[-_NEWEST_KEPT:]


def _optuna_sampler(spec: StudySpec, known: int) -> optuna.samplers.BaseSampler:
    """known: how many trials went before; a resumed study must not draw its first proposals again."""
    seed = spec.search.seed + 7919 * known
    if spec.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    conditional = any(dimension.when for dimension in spec.space.values())
    return optuna.samplers.TPESampler(seed=seed, group=conditional)
