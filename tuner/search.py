"""A study's sampler and scheduler, as Ray Tune asks for them; both can be rebuilt from a study's record."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tuner.record import StudyRecord, TrialRecord
from tuner.slots import Slot, SlotPool
from tuner.space import is_active, sample
from tuner.study import Scheduler, StudySpec

_NO_LAST_RUNG = 10**6  # epochs; a trial ends when its workload ends
# TPE looks at every trial that it knows for every setting. It models the best quarter hundred against the rest, for
# which the newest stand: so a study of ten thousand trials proposes as fast as one of a thousand.
_BEST_KNOWN, _NEWEST_KNOWN, _MOST_KNOWN = 100, 400, 1000


class Outcome(NamedTuple):
    """Of a trial that Tune is done with."""

    ended: bool = True
    """Whether it has ended; else it is run again, what it lost wasn't its own."""
    slot_is_lost: bool = False
    """Whether nothing can run on its slot any more."""


class StudySearch(Searcher):
    """Asks Optuna for settings and tells it what became of them.

    Interrupted trials of an earlier run come first, with their own number and setting. A setting is only suggested when
    a slot is free, so the sampler knows every result that there is.
    """

    def __init__(
        self,
        record: StudyRecord,
        slots: SlotPool,
        ended: Callable[[int, bool], Outcome],
        closed: Callable[[], bool] = lambda: False,
    ):
        """ended: called with the number of a trial that Tune is done with, and whether Tune gave it up, before Optuna
        is told.
        closed: whether no trial is to begin any more.
        """
        super().__init__(metric="best", mode=record.spec.mode)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._record = record
        self._ended, self._closed = ended, closed
        self._slots = slots
        self._waiting = [(trial.id, trial.params) for trial in record.trials.values() if trial.open]
        # A kill can leave a gap: a later trial's process may have been up before an earlier one's.
        self._fresh = [number for number in range(1, record.spec.budget.trials + 1) if number not in record.trials]
        self._tune_ids: dict[str, tuple[int, Slot]] = {}
        self._params: dict[int, dict[str, Any]] = {}
        """The settings of the trials that have a slot."""
        self._asked: dict[int, optuna.Trial] = {}
        """Those of them that Optuna knows; one of an earlier run may not fit into the space of today."""
        self._sampler = _sampler(record.spec, len(record.trials))
        self._study = _optuna_study(record, self._sampler)

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles all it is given for a restore of its own, which a study has no use for."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """One trial's configuration, None while no slot is free, or FINISHED when there is nothing left to run."""
        if self._closed() or not (self._waiting or self._fresh):
            self._slots.rest()
            # A trial that runs may be handed back (`requeue`), and a search that has finished is never asked again.
            return None if self._tune_ids else str(Searcher.FINISHED)
        slot = self._slots.take()
        if slot is None:
            return None
        suggested_at = time.time()
        number, params = self._ask()
        self._tune_ids[trial_id] = (number, slot)
        return {"trial": number, "params": params, "suggested_at": suggested_at, **slot.config()}

    def _ask(self) -> tuple[int, dict[str, Any]]:
        if self._waiting:
            number, params = self._waiting.pop(0)
            self._ask_for(number, params)
        else:
            number, params = self._fresh.pop(0), {}
            firsts = self._record.spec.first_trials
            if number <= len(firsts):
                self._study.enqueue_trial(firsts[number - 1])
            self._asked[number] = self._study.ask()
            params = sample(self._record.spec.space, self._asked[number])
        self._params[number] = params
        return number, params

    def _ask_for(self, number: int, params: dict[str, Any]) -> None:
        """Have Optuna know that this setting runs. One that the space doesn't hold it could only know by another."""
        space = self._record.spec.space
        if any(is_active(d, params) and not (name in params and d.contains(params[name])) for name, d in space.items()):
            return
        self._study.enqueue_trial({name: params[name] for name, d in space.items() if is_active(d, params)})
        self._asked[number] = self._study.ask()
        sample(space, self._asked[number])

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The record has it already."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        del result
        if trial_id not in self._tune_ids:
            return
        number, slot = self._tune_ids.pop(trial_id)
        outcome = self._ended(number, error)
        if outcome.slot_is_lost:
            self._slots.drop(slot)
        else:
            self._slots.give(slot)
        if not outcome.ended:
            self._ask_again(number)
            return
        del self._params[number]
        value = _told_value(self._record, self._record.trials.get(number))
        # Optuna leaves failed trials out of account and would propose their like again and again.
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL
        if asked := self._asked.pop(number, None):
            self._study.tell(asked, value, state=state)
            if asked.number >= _MOST_KNOWN:
                self._forget()

    def _forget(self) -> None:
        """Go on with a study that knows fewer trials; those that run are asked for again."""
        self._study = _optuna_study(self._record, self._sampler)
        self._asked.clear()
        for number, params in self._params.items():
            self._ask_for(number, params)

    def waiting(self) -> int:
        """How many trials have a slot but no process yet."""
        running = {trial.id for trial in self._record.trials.values() if trial.state == "running"}
        return sum(number not in running for number, _ in self._tune_ids.values())

    def expects(self, trial_id: str) -> bool:
        """Whether this trial's end has not come yet."""
        return trial_id in self._tune_ids

    def requeue(self, trial_id: str) -> None:
        """Tune gave up on a trial before it began, because its slot couldn't be used: run it on another."""
        number, slot = self._tune_ids.pop(trial_id)
        self._slots.give(slot)
        self._ask_again(number)

    def _ask_again(self, number: int) -> None:
        if asked := self._asked.pop(number, None):
            self._study.tell(asked, state=TrialState.FAIL)
        self._waiting.append((number, self._params.pop(number)))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save beside the study's events."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a study is rebuilt from its record, never restored by Tune")


def study_scheduler(record: StudyRecord, slots: SlotPool) -> TrialScheduler:
    """ASHA on the best value so far, its rungs as the record's trials left them; or none. Both keep slots warm.

    The best so far, not the last: road IoU dips for an epoch and recovers, and a stop on a dip loses winners.
    """
    table = record.spec.scheduler
    if table.name == "none":
        return _StudyFifo(slots)
    scheduler = _StudyAsha(
        slots,
        time_attr="epoch",
        metric="best",
        mode=record.spec.mode,
        max_t=max(_NO_LAST_RUNG, table.grace_epochs),
        grace_period=table.grace_epochs,
        reduction_factor=table.reduction_factor,
    )
    for trial in record.trials.values():
        past: Any = SimpleNamespace(config={"trial": trial.id})
        scheduler.on_trial_add(None, past)
        best: float | None = None
        for epoch, value in trial.curve:
            best = value if record.spec.objective.better(value, best) else best
            scheduler.on_trial_result(None, past, {"epoch": epoch, "best": best})
        scheduler.on_trial_remove(None, past)
    return scheduler


def is_on_rung(table: Scheduler, before: int, epoch: int) -> bool:
    """Whether the scheduler has a decision to take on a trial that comes from epoch `before` to `epoch`.

    A report that comes again, after a kill, may be one whose decision never reached its trial.
    """
    if table.name == "none":
        return False
    rung: float = table.grace_epochs
    while rung <= before < epoch:
        rung *= table.reduction_factor
    return rung <= epoch


class _KeepsWarm(TrialScheduler):
    """Of all that a study gives to Tune, only a scheduler is shown Tune's controller."""

    def __init__(self, slots: SlotPool, **settings: Any):
        self._slots = slots
        super().__init__(**settings)  # type: ignore[no-untyped-call]

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self._slots.keep_warm(tune_controller)
        return super().choose_trial_to_run(tune_controller)


class _StudyFifo(_KeepsWarm, FIFOScheduler):
    """Stops no trial."""


class _StudyAsha(_KeepsWarm, AsyncHyperBandScheduler):
    """ASHA that knows a trial by its number in the study, so that one that goes on finds what it left on the rungs."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _numbered(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(super().on_trial_result(tune_controller, _numbered(trial), result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _numbered(trial))


def _numbered(trial: Any) -> Any:
    """All that ASHA asks a trial is who it is."""
    return SimpleNamespace(trial_id=str(trial.config["trial"]))


def _optuna_study(record: StudyRecord, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """An Optuna study in memory that knows the ended trials of the record, of many the best and the newest."""
    spec = record.spec
    study = optuna.create_study(direction=spec.objective.direction, sampler=sampler)
    for trial in _known(record):
        value = _told_value(record, trial)
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
    if len(ended) <= _BEST_KNOWN + _NEWEST_KNOWN:
        return ended
    best = {trial.id for trial in record.ranking()[:_BEST_KNOWN]}
    older = [trial for trial in ended[:-_NEWEST_KNOWN] if trial.id in best]
    return older + ended[-_NEWEST_KNOWN:]


def _sampler(spec: StudySpec, known: int) -> optuna.samplers.BaseSampler:
    """known: how many trials went before; a resumed study must not draw its first settings again."""
    seed = spec.search.seed + 7919 * known
    if spec.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    conditional = any(dimension.when for dimension in spec.space.values())
    return optuna.samplers.TPESampler(seed=seed, group=conditional)


def _told_value(record: StudyRecord, trial: TrialRecord | None) -> float | None:
    """What Optuna learns of a trial: its best value, or for a failed one the worst that any trial had.

    None where nothing is known yet that a failure could be measured by, and of a trial that was stopped before it had
    shown anything.
    """
    if trial is not None and (trial.state == "stopped" or (trial.state != "failed" and trial.value is not None)):
        return trial.value
    return record.worst_value
