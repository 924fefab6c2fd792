"""The sampler: proposes the hyperparameters of the next trial, by Optuna; rebuilt from a study's record."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from tuner.events.dominance import dominated_by
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.search.gp_curves import OUTCOME, POINTS
from tuner.search.samplers.counted_samplers import NUMBER
from tuner.search.samplers.optuna_samplers import optuna_sampler
from tuner.search.schedulers.promotion import promotable, standings
from tuner.spec.space import is_active, sample

# Samplers read all trials that they know for each proposal. TPE compares its best 25 with the rest, for which the
# newest trials are a good sample. With only these, the 10,000th proposal takes no longer than the 1,000th.
BEST_KEPT, NEWEST_KEPT, MAX_KNOWN = 100, 400, 1000


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study and its hyperparameters."""

    trial: int
    params: dict[str, Any]


class Sampler:
    """Proposes a study's trials and learns their values.

    Interrupted trials of an earlier run come first, with their own number and hyperparameters. What is proposed is a
    function of the record: one built from it at any moment goes on as one that has been there from the start.
    """

    def __init__(self, record: StudyRecord):
        # Its warnings name settings of Optuna that a study file does not have.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._record, self._space, self._first_trials = record, record.spec.space, record.spec.first_trials
        opened = [Proposal(trial.id, trial.params) for trial in record.trials.values() if trial.open]
        self._requeued = [proposal for proposal in opened if record.trials[proposal.trial].state != "paused"]
        self.paused = {proposal.trial for proposal in opened} - {proposal.trial for proposal in self._requeued}
        """Trials that wait, each with a checkpoint, for a slot."""
        # A kill can leave a gap: a later trial's process may have been up before an earlier one's.
        self._new_numbers = [
            number for number in range(1, record.spec.budget.trials + 1) if number not in record.trials
        ]
        self._open: dict[int, Proposal] = {proposal.trial: proposal for proposal in opened}
        """Trials that run, are paused or wait to run again, by number."""
        self._asked: dict[int, optuna.Trial] = {}
        """Those of them that Optuna knows; one of an earlier run may lie outside the present search space."""
        self._reported: dict[int, int] = {}
        """Of each of these, the last epoch that Optuna knows of."""
        self._study = self._optuna_study()

    @property
    def exhausted(self) -> bool:
        """Whether no trial is left to propose; one that is requeued or paused changes that."""
        return not (self._requeued or self._new_numbers or self._promotable() is not None)

    @property
    def has_requeued(self) -> bool:
        """Whether a trial waits to be proposed once more."""
        return bool(self._requeued)

    @property
    def known(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that Optuna has learnt from or knows to run: of a large study only the best and the newest."""
        return self._study.trials

    def ask(self) -> Proposal:
        """The next trial, which may be a paused one. The sampler must not be exhausted."""
        if self._requeued:
            return self._requeued.pop(0)
        promoted = self._promotable()
        if promoted is not None:
            self.paused.remove(promoted)
            return self._open[promoted]
        proposal = self._new(self._new_numbers.pop(0))
        self._open[proposal.trial] = proposal
        return proposal

    def tell(self, trial: int, values: Sequence[float]) -> None:
        """A trial has ended. values: of `values_for_sampler`.

        Optuna ignores trials without values, and would propose hyperparameters like those of a failed one again.
        """
        del self._open[trial]
        self.paused.discard(trial)
        if asked := self._asked.get(trial):
            self._report_curve(trial)
            del self._asked[trial]
            if trial in self._record.trials:
                asked.set_user_attr(OUTCOME, _outcome(self._record.trials[trial]))
            self._study.tell(asked, values or None, state=TrialState.COMPLETE if values else TrialState.FAIL)
            if _trimmed_at(len(self._record.ended)) == len(self._record.ended) - 1:
                self._study = self._optuna_study()

    def requeue(self, trial: int) -> None:
        """Propose a trial once more: it was interrupted and must run again."""
        self._requeued.append(self._open[trial])

    def pause(self, trial: int) -> None:
        """A trial was paused."""
        self.paused.add(trial)

    def surplus_paused(self) -> list[int]:
        """The least promising of the paused trials, if there are more than the study file allows."""
        most = self._record.spec.scheduler.max_paused
        return [standing.trial for standing in standings(self._record, sorted(self.paused))[most:]]

    def _promotable(self) -> int | None:
        return promotable(self._record, sorted(self.paused))

    def _new(self, number: int) -> Proposal:
        for trial in self._asked:
            self._report_curve(trial)
        if number <= len(self._first_trials):
            self._study.enqueue_trial(self._first_trials[number - 1])
        self._study.sampler = optuna_sampler(self._record.spec, number)
        self._asked[number], self._reported[number] = self._study.ask(), 0
        self._asked[number].set_user_attr(NUMBER, number)
        return Proposal(number, sample(self._space, self._asked[number]))

    def _report_curve(self, trial: int) -> None:
        """Have Optuna know the epochs that a trial has reported; it takes none twice, as after a rewind."""
        known = self._record.trials.get(trial)
        curve = known.curve if known else []
        if known and len(self._record.spec.objectives) > 1:
            self._asked[trial].set_user_attr(POINTS, known.points())
            return
        first = bisect.bisect_right(curve, self._reported[trial], key=lambda point: point[0])
        for epoch, value in curve[first:]:
            self._asked[trial].report(value, epoch)
            self._reported[trial] = epoch

    def _optuna_study(self) -> optuna.Study:
        """An Optuna study in memory that knows the record's trials, in the order of their numbers.

        That is the order in which they were asked for; samplers weigh newer trials more.
        """
        study = optuna.create_study(directions=[each.direction for each in self._record.spec.objectives])
        self._asked.clear()
        ended = {trial.id: trial for trial in _known(self._record)}
        for number in sorted({*ended, *self._open}):
            if number in self._open:
                self._enqueue(study, self._open[number])
            else:
                self._add_ended(study, ended[number])
        return study

    def _enqueue(self, study: optuna.Study, proposal: Proposal) -> None:
        """Make this trial known to Optuna as running, unless its hyperparameters lie outside the search space."""
        if params := self._within_space(proposal.params):
            study.enqueue_trial(params)
            self._asked[proposal.trial], self._reported[proposal.trial] = study.ask(), 0
            self._asked[proposal.trial].set_user_attr(NUMBER, proposal.trial)
            sample(self._space, self._asked[proposal.trial])

    def _add_ended(self, study: optuna.Study, trial: TrialRecord) -> None:
        values = values_for_sampler(trial)
        several = len(self._record.spec.objectives) > 1
        if params := self._within_space(trial.params):
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE if values else TrialState.FAIL,
                    values=values or None,
                    params=params,
                    distributions={name: self._space[name].distribution() for name in params},
                    user_attrs={
                        OUTCOME: _outcome(trial),
                        NUMBER: trial.id,
                        **({POINTS: trial.points()} if several else {}),
                    },
                    intermediate_values={} if several else dict(trial.curve),
                )
            )

    def _within_space(self, params: dict[str, Any]) -> dict[str, Any] | None:
        """The active ones of these; None if the space, which may be another since a resume, doesn't hold them."""
        active = {name: d for name, d in self._space.items() if is_active(d, params)}
        if all(name in params and d.contains(params[name]) for name, d in active.items()):
            return {name: params[name] for name in active}
        return None


def values_for_sampler(trial: TrialRecord | None) -> tuple[float, ...]:
    """The values of the objectives to give the sampler for a trial: those of its best epoch, or the worst of any trial
    by then for one that can't work or none of whose epochs keeps the constraints.

    Empty for that one when no trial has reported a value yet, for a trial that was stopped before its first report, and
    for one whose process or machine failed, which says nothing of its hyperparameters.
    """
    if trial is None or (trial.state == "failed" and not trial.infeasible):
        return ()
    if trial.breach:
        return trial.worst_by_then
    if trial.state == "stopped" or (trial.state != "failed" and trial.values):
        return trial.values
    return trial.worst_by_then


def _outcome(trial: TrialRecord) -> str:
    if trial.breach and trial.state != "failed":
        return "failed"
    return "lost" if trial.state == "failed" and not trial.infeasible else trial.state


def _known(record: StudyRecord) -> list[TrialRecord]:
    """The ended trials to give to Optuna, in the order in which they ended."""
    ended = record.ended
    older, newer = ended[: _trimmed_at(len(ended))], ended[_trimmed_at(len(ended)) :]
    with_value = [trial for trial in older if trial.values and trial.state != "failed"]
    signed = [record.spec.signed(trial.values) for trial in with_value]
    ahead = dominated_by(signed) if len(record.spec.objectives) > 1 else [0] * len(signed)
    order = sorted(range(len(signed)), key=lambda place: (ahead[place], -signed[place][0]))
    best = {with_value[place].id for place in order[:BEST_KEPT]}
    return [trial for trial in older[:-NEWEST_KEPT] if trial.id in best] + older[-NEWEST_KEPT:] + newer


def _trimmed_at(ended: int) -> int:
    """Of how many trials, the first of so many that have ended, only the best and the newest are known."""
    kept = BEST_KEPT + NEWEST_KEPT
    grown = MAX_KNOWN - kept
    return 0 if ended <= MAX_KNOWN else kept + (ended - 1 - kept) // grown * grown
