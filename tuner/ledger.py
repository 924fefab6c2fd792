"""One event, its readers: everything that trials and Tune tell of a study goes through here, into the journal first."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.exceptions
from ray import cloudpickle
from ray.tune import Callback

from tuner import death
from tuner.assignment import Answer
from tuner.errors import StorageError
from tuner.journal import Journal
from tuner.record import StudyRecord, TrialRecord
from tuner.search import Outcome, StudySearch, is_on_rung

_MOMENT_SECONDS = 10.0


@dataclass
class Refusal:
    """What the storage refuses a trial, which waits."""

    since: float
    """time.monotonic() when it was said first."""
    sentence: str
    over_at_report: bool = False
    """Whether the trial's attempt ended with it, so that its next report says that it is over."""


class Ledger(Callback):
    """Turns reports and Tune's callbacks into events; they come in two threads.

    `readers` are called with an event after the record has taken it.
    """

    def __init__(self, record: StudyRecord, journal: Journal, readers: list[Callable[[dict[str, Any]], None]]):
        self.record = record
        self._journal = journal
        self._readers = readers
        self._search: StudySearch | None = None
        self._ends: dict[int, dict[str, Any]] = {}
        self._lost: dict[int, dict[str, Any]] = {}
        self._losses: collections.Counter[int] = collections.Counter()
        self._deaths: collections.defaultdict[int, list[str]] = collections.defaultdict(list)
        self._tune_trials: dict[int, Any] = {}
        self._begun: dict[int, float] = {}
        self._expected: dict[str, Any] = {}
        self._seen = 0
        self._first_complete: Any = None
        self._one_at_a_time = threading.RLock()
        self.refusals: dict[int, Refusal] = {}
        """By trial."""
        self.closed = False
        """Set when the study is being stopped: what trials do from then on is not their end."""
        self.last_call: str | None = None
        """Why no new trial begins and each that runs ends at its next report, or None."""

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles all it is given for a restore of its own, which a study has no use for."""
        return {}

    def serve(self, search: StudySearch) -> None:
        self._search = search

    def write(self, event: str, **fields: Any) -> None:
        """Journal first, then the record, then whoever shows or uses it."""
        with self._one_at_a_time:
            line = {"event": event, "time": time.time(), **fields}
            self._append(line)
            self.record.apply(line)
            for reader in self._readers:
                reader(line)

    def _append(self, line: dict[str, Any]) -> None:
        """A checkpoint that doesn't fit fills the disk for a moment, until it is removed: an event waits for that."""
        until = time.monotonic() + _MOMENT_SECONDS
        while True:
            before = self._journal.size
            try:
                self._journal.append(line)
                return
            except StorageError:
                if self._journal.size != before or time.monotonic() > until:
                    raise
            time.sleep(0.1)

    def heard(self, number: int, report: dict[str, Any]) -> Answer:
        """A trial's report, or that its group has begun it, or what the storage refuses it."""
        if "begun" in report:
            self._begun[number] = time.time()
            return Answer(ask_tune=False, keep=False)
        if "refusal" in report:
            return self._refused(number, report["refusal"])
        epoch = report["epoch"]
        with self._one_at_a_time:
            if number in self.refusals and self.refusals[number].over_at_report:
                del self.refusals[number]
            trial = self.record.trials[number]
            # A killed trial goes on from its newest checkpoint, of which it tells again, or begins anew.
            goes_on_from = epoch if report["told_before"] else epoch - 1
            if goes_on_from < trial.epoch:
                self.write("back", trial=number, epoch=goes_on_from)
            before = trial.epoch
            best_epoch, best_value = report.get("best") or (0, None)
            if before < best_epoch < epoch:
                # A bucket's events are seconds old when a machine dies, and the checkpoint may be newer: what was told
                # between is lost, but for the best, whose weights are there.
                metrics = {self.record.spec.objective.metric: best_value}
                self.write("report", trial=number, epoch=best_epoch, metrics=metrics)
            if epoch > before:
                told = {key: value for key, value in report["report"].items() if value}
                if epoch <= trial.furthest:
                    told["again"] = True
                self.write("report", trial=number, epoch=epoch, **told)
            self._pictures(number, report)
            keep = self.record.would_be_kept(trial)
        stopping = self.closed or self.last_call is not None
        return Answer(stopping or is_on_rung(self.record.spec.scheduler, before, epoch), keep)

    def _refused(self, number: int, sentence: str | None) -> Answer:
        with self._one_at_a_time:
            if sentence is None:
                self.refusals.pop(number, None)
            else:
                self.refusals.setdefault(number, Refusal(time.monotonic(), sentence)).sentence = sentence
        return Answer(ask_tune=self.closed, keep=False)

    def _pictures(self, number: int, told: dict[str, Any]) -> None:
        if told.get("images"):
            self.write("images", trial=number, images=told["images"])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["trial"]
        self._tune_trials[number] = trial
        self._begun.pop(number, None)
        if number in self.refusals and not self.refusals[number].over_at_report:
            # Its process died while it waited.
            del self.refusals[number]
        self.write("start", trial=number, params=trial.config["params"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["trial"]
        self._pictures(number, result)
        if "end" in result:
            self._ends[number] = result["end"]
        if "lost" in result:
            self._lost[number] = result

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _slim(trial)
        self._first_complete = self._first_complete or trial
        _share(trial, self._first_complete)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died, and it is begun again."""
        self._deaths[trial.config["trial"]].append(_cause_of(_last_error(trial)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _slim(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune drops a trial without a word if the slot that should take it doesn't answer."""
        if self.closed or self._search is None:
            return
        # Tune keeps every trial of a study in its list; looking through all of it in every turn makes a large one slow.
        self._expected |= {trial.trial_id: trial for trial in trials[self._seen :]}
        self._seen = len(trials)
        for trial_id, trial in list(self._expected.items()):
            if not self._search.expects(trial_id):
                del self._expected[trial_id]
            elif trial.status == "ERROR":
                self._search.requeue(trial_id)

    def under_way(self) -> list[tuple[TrialRecord, float]]:
        """The trials that train now, each with when it was heard of last, in seconds since 1970.

        Those that wait for a process, for a group that starts, or for the storage, don't train.
        """
        grouped = self.record.spec.resources.workers > 1
        return [
            (trial := self.record.trials[number], max(trial.last_seen, self._begun.get(number, 0.0)))
            for number, tune_trial in self._tune_trials.items()
            if tune_trial.status == "RUNNING"
            and number not in self.refusals
            and not (grouped and number not in self._begun)
        ]

    def take_off(self, number: int, end: dict[str, Any] | None) -> Any:
        """A trial is being ended from outside. end: its state and reason, None if it is to be run again.

        Returns Tune's trial.
        """
        self._lost[number] = {"taken off": True}
        if end is not None:
            self._ends[number] = end
        return self._tune_trials[number]

    def trial_ended(self, number: int, given_up: bool = False) -> Outcome:
        """Tune is done with a trial. given_up: because it failed more often than it is retried."""
        tune_trial = self._tune_trials.pop(number, None)
        with self._one_at_a_time:
            lost = self._lost.pop(number, None)
            trial = self.record.trials.get(number)
            if self.closed or trial is None or not trial.open:
                return Outcome()
            end = self._ends.pop(number, None)
            if end is None and lost is not None and self.last_call is None:
                end = self._end_of_luck(number, lost)
                if end is None:
                    return Outcome(ended=False, slot_is_lost=True)
            end = end or self._unsaid_end(number, tune_trial if given_up else None)
            self.refusals.pop(number, None)
            self.write("end", trial=number, value=trial.value, best_epoch=trial.best_epoch, **end)
        return Outcome(slot_is_lost=lost is not None)

    def _end_of_luck(self, number: int, lost: dict[str, Any]) -> dict[str, Any] | None:
        """A trial lost what it ran on: how it ends, or None if it is run again."""
        if lost.get("refused"):
            self.refusals.setdefault(number, Refusal(time.monotonic(), lost["lost"])).over_at_report = True
        elif "lost" in lost:
            self._losses[number] += 1
            if self._losses[number] > max(1, self.record.spec.failures.max_retries):
                return {"state": "failed", "reason": f"{lost['lost']}, {self._losses[number]} times"}
        return None

    def _unsaid_end(self, number: int, given_up: Any) -> dict[str, Any]:
        """The trial didn't tell its end: its process died too often, or the scheduler stopped it.

        given_up: Tune's trial, if it gave up on it. A trial that was retried with success still has its error.
        """
        if given_up is not None:
            causes = [*self._deaths.pop(number, []), _cause_of(_last_error(given_up))]
            return {"state": "failed", "reason": death.sentence(causes)}
        epoch = self.record.trials[number].epoch
        return {
            "state": "stopped",
            "reason": self.last_call or f"{self.record.spec.scheduler.name} stopped it at epoch {epoch}",
        }


def _slim(tune_trial: Any) -> None:
    """Tune keeps every trial to the study's end, with 40 KB of statistics and settings that nobody reads any more."""
    kept = tune_trial.run_metadata
    kept.metric_analysis, kept.metric_n_steps = {}, {}
    kept.last_result = {"ended": True}  # an empty one is asked for anew, and printed
    tune_trial._default_result_or_future = None
    number = {"trial": tune_trial.config["trial"]}
    for settings in ("config", "evaluated_params", "_Trial__unresolved_config"):
        setattr(tune_trial, settings, number)


def _share(tune_trial: Any, other: Any) -> None:
    """Of what Tune keeps of trials that are complete, one will do for all."""
    for part in ("storage", "run_metadata", "experiment_tag", "relative_logdir"):
        setattr(tune_trial, part, getattr(other, part))


def _last_error(tune_trial: Any) -> Any:
    """What Tune, in this process, wrote of a trial's last error: the exception, or else its text."""
    if tune_trial.pickled_error_file is not None:
        return cloudpickle.loads(Path(tune_trial.pickled_error_file).read_bytes())
    return Path(tune_trial.error_file).read_text(encoding="utf-8") if tune_trial.error_file else "its process died"


def _cause_of(error: Any) -> str:
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return death.NO_MEMORY
    if isinstance(error, ray.exceptions.RayActorError):
        return death.cause_of(error)
    # What the slot of a worker group says of it (tuner/group.py).
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return lines[-1].strip().removeprefix("RuntimeError: ") if lines else type(error).__name__
