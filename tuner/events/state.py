"""The state of a study, derived from its events (tuner/events/log.py)."""

from __future__ import annotations

import bisect
import json
from array import array
from collections.abc import Iterator
from typing import Literal

from pydantic import ValidationError

from tuner.errors import StudyError
from tuner.events.dominance import dominates, knee
from tuner.events.event import (
    AttemptBegan,
    EpochReported,
    Event,
    ImagesStored,
    NodeDraining,
    NodeLeftOut,
    NodeLost,
    RunBegan,
    RunEnded,
    StudyEnd,
    TrialEnded,
    TrialPaused,
    TrialRewound,
    TrialSpared,
    TrialStarted,
)
from tuner.events.forecast import Forecast
from tuner.events.log import EVENTS, damaged, is_running, read_events
from tuner.events.trial import Breach, TrialRecord
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage

SPEC = "study.json"


class StudyRecord:
    """The state of a study: `apply` one event after the other."""

    def __init__(self, spec: StudySpec):
        self.spec = spec
        self.trials: dict[int, TrialRecord] = {}
        self.state: Literal["created", "running"] | StudyEnd = "created"
        self.created = 0.0
        self.runs = 0
        self.reason: str | None = None
        self.tracking_uri: str | None = None
        self.fingerprint: str | None = None
        """What told the data of the newest run from others; None if it isn't known."""
        self.left_out: dict[str, str] = {}
        """Nodes that the present run gives no trials, and why."""
        self.draining: dict[str, float | None] = {}
        """Nodes that will soon be gone, and when, in seconds since 1970, if that is known."""
        self.forecast: Forecast | None = None
        """The newest, of the whole study."""
        self.run_seconds = 0.0
        """How long its runs took, without the time between them; of a run that was killed, up to its last event."""
        self.last_event = 0.0
        """When it was, in seconds since 1970."""
        # These are kept up to date: computing them from all trials at each event would make a large study slow.
        self.leader: TrialRecord | None = None
        """The trial with the best value reported so far, even if it failed; the first of equals."""
        self._worst: tuple[float, ...] = ()
        """The worst value of each objective that any trial reported, turned so that greater is better."""
        self._full_length: int | None = None
        """The last epoch of the longest trial that has finished."""
        self.ended_since_best = 0
        """How many trials with a value, failed ones left out, have ended since `best_value` last became better; of
        several objectives, since one last came to the front."""
        self._open: dict[int, TrialRecord] = {}
        self._first_with: dict[tuple[tuple[int, int], ...], int] = {}
        """By `first_reports`, the trial that first had them."""
        self._reports = array("q")
        """The trial and the epoch of each report that counts, one after the other."""
        self._device_seconds = 0.0
        """Of the attempts that are over."""
        self._ended: list[TrialRecord] = []
        self._ranking: list[TrialRecord] = []
        """By the first objective, the older first of equals."""
        self._front: list[TrialRecord] = []
        """Of several objectives; in the order of _ranking."""

    def apply(self, event: Event) -> None:
        """Raises KeyError for an event of a trial that never started, or a report without the objective."""
        if self.state == "running":
            self.run_seconds += 0.0 if isinstance(event, RunBegan) else max(0.0, event.time - self.last_event)
        self.last_event = event.time
        match event:
            case EpochReported():
                self._report(self.trials[event.trial], event)
            case ImagesStored():
                pass  # the storage has them
            case AttemptBegan():
                self.trials[event.trial].nodes = event.nodes
            case NodeLeftOut():
                self.left_out[event.node] = event.reason
            case NodeDraining():
                self.draining[event.node] = event.until
            case NodeLost():
                self.draining.pop(event.node, None)
            case TrialStarted():
                self._start(event)
            case TrialEnded():
                self._end(self.trials[event.trial], event)
            case TrialRewound():
                self._rewind(self.trials[event.trial], event.epoch)
            case TrialPaused():
                trial = self.trials[event.trial]
                trial.state = "paused"
                self._pause(trial, event.time)
            case TrialSpared():
                self.trials[event.trial].spared += (event,)
            case RunBegan():
                self._begin_run(event)
            case RunEnded():
                self.state, self.reason = event.state, event.reason
                self._interrupt()

    def _begin_run(self, event: RunBegan) -> None:
        self.runs, self.state, self.reason = event.number, "running", None
        self.created = self.created or event.time
        self.tracking_uri = event.tracking_uri
        self.fingerprint = (event.data or {}).get("fingerprint", self.fingerprint)
        if event.forecast is not None:
            self.forecast = Forecast.from_json(event.forecast)
        self.left_out.clear()
        self.draining.clear()
        self._interrupt()

    def _start(self, event: TrialStarted) -> None:
        trial = self.trials.setdefault(event.trial, TrialRecord(event.trial, event.params, control=event.control))
        self._pause(trial, event.time)
        # A log of an earlier version doesn't say: each worker has one.
        trial.devices = event.devices if event.devices is not None else float(self.spec.resources.workers)
        self._open[trial.id] = trial
        if not trial.open:
            self._ended.remove(trial)
            self._ranking = [other for other in self._ranking if other is not trial]
            if any(other is trial for other in self._front):
                self._front = []
                for other in self._ranking:
                    self._enter_front(other)
        trial.state, trial.began, trial.last_seen = "running", event.time, event.time
        trial.started, trial.ended = trial.started or event.time, None

    def _report(self, trial: TrialRecord, event: EpochReported) -> None:
        values = self.spec.values_of(event.metrics)
        value, *further = values
        trial.epoch, trial.last_seen = event.epoch, event.time
        trial.device = event.device or trial.device
        if trial.startup_seconds is None:
            trial.startup_seconds = event.startup_seconds
        if event.gpu_share is not None:
            trial.gpu_share = max(trial.gpu_share or 0.0, event.gpu_share)
        trial.furthest = max(trial.furthest, trial.epoch)
        self._reports.extend((trial.id, trial.epoch))
        self._note_first_report(trial, event)
        if broken := self.spec.broken_by(event.metrics):
            trial.breaches.append(Breach(broken, event.epoch, event.metrics[broken.metric]))
            return
        trial.curve.append((trial.epoch, value))
        trial.further.append(tuple(further))
        signed = self.spec.signed(values)
        self._worst = tuple(map(min, self._worst, signed)) if self._worst else signed
        best_epoch, best_value = self._best()
        if not further and self.spec.outranks(value, trial.epoch, best_value, best_epoch):
            self.ended_since_best = 0
        if self.spec.outranks(value, trial.epoch, trial.value, trial.best_epoch):
            trial.value, trial.best_epoch, trial.values = value, trial.epoch, values
            if self._outranks(trial, self.leader):
                self.leader = trial

    def _note_first_report(self, trial: TrialRecord, event: EpochReported) -> None:
        grace = self.spec.scheduler.grace_epochs
        if trial.first_reports and trial.first_reports[-1][0] >= grace:
            return
        metrics = sorted((name, value) for name, value in event.metrics.items() if not name.startswith("time/"))
        trial.first_reports.append((event.epoch, hash(tuple(metrics))))
        if event.epoch >= grace:
            self._first_with.setdefault(tuple(trial.first_reports), trial.id)

    def to_stop_as_repeat(self, trial: TrialRecord) -> int | None:
        """The trial whose metrics this one repeats, bit for bit in each of its first epochs; None if there is none, or
        if the study doesn't stop trials early.

        The first epochs are those up to scheduler.grace_epochs. Such a trial trains the same again: a hyperparameter in
        which the two differ does nothing, as one of a layer that isn't there. An objective that doesn't change in these
        epochs tells nothing, and a trial that has failed has shown nothing of the rest.
        """
        first = self._first_with.get(tuple(trial.first_reports), trial.id)
        if first == trial.id or self.spec.scheduler.name == "none" or self.trials[first].state == "failed":
            return None
        return first if len({value for _, value in trial.curve}) > 1 else None

    def reports(self) -> Iterator[tuple[int, int]]:
        """The trial and the epoch of each report, in the order of their events, without those that were rewound."""
        return zip(self._reports[::2], self._reports[1::2], strict=True)

    def _rewind(self, trial: TrialRecord, to_epoch: int) -> None:
        trial.epoch = to_epoch
        self._forget_reports(trial, to_epoch)
        trial.first_reports = [report for report in trial.first_reports if report[0] <= to_epoch]
        points = [point for point in trial.points() if point[0] <= to_epoch]
        trial.curve = [(epoch, values[0]) for epoch, values in points]
        trial.further = [values[1:] for _, values in points]
        trial.breaches = [breach for breach in trial.breaches if breach.epoch <= to_epoch]
        trial.spared = tuple(spared for spared in trial.spared if spared.epoch <= to_epoch)
        trial.value, trial.best_epoch, trial.values = None, None, ()
        for epoch, values in points:
            if self.spec.outranks(values[0], epoch, trial.value, trial.best_epoch):
                trial.value, trial.best_epoch, trial.values = values[0], epoch, values
        if self.leader is trial:
            self.leader = None
            for other in self.trials.values():
                if self._outranks(other, self.leader):
                    self.leader = other

    def _forget_reports(self, trial: TrialRecord, after: int) -> None:
        """Take those after this epoch out of the order of all reports, from its end, where they are."""
        epochs = [*(epoch for epoch, _ in trial.curve), *(breach.epoch for breach in trial.breaches)]
        left, place = sum(epoch > after for epoch in epochs), len(self._reports)
        while left:
            place -= 2
            if self._reports[place] == trial.id and self._reports[place + 1] > after:
                del self._reports[place : place + 2]
                left -= 1

    def _end(self, trial: TrialRecord, event: TrialEnded) -> None:
        had_ended = not trial.open
        trial.state, trial.reason = event.state, event.reason
        trial.infeasible = event.state == "failed" and event.infeasible is not False
        self._pause(trial, event.time)
        self._open.pop(trial.id, None)
        trial.ended = event.time
        if trial.state == "finished":
            self._full_length = max(trial.epoch, self._full_length or 0)
        if had_ended:
            return
        trial.worst_by_then = self.spec.signed(self._worst) if self._worst else ()
        self._ended.append(trial)
        if trial.value is not None and trial.state in ("finished", "stopped"):
            bisect.insort(self._ranking, trial, key=self._rank)
            self.ended_since_best += 1
            if len(self.spec.objectives) > 1 and self._enter_front(trial):
                self.ended_since_best = 0

    def _enter_front(self, trial: TrialRecord) -> bool:
        """Add a trial to the front, unless one there dominates it, or has the same values; without those that it
        dominates. Returns whether it was added."""
        if not self.can_enter_front(trial):
            return False
        signed, front = self.spec.signed(trial.values), self._front
        self._front = [other for other in front if not dominates(signed, self.spec.signed(other.values))]
        bisect.insort(self._front, trial, key=self._rank)
        return True

    def _pause(self, trial: TrialRecord, at: float) -> None:
        if trial.began is not None:
            self._device_seconds += trial.devices * (at - trial.began)
            trial.pause(at)

    def _interrupt(self) -> None:
        for trial in self.trials.values():
            if trial.state == "running":
                trial.state = "interrupted"
                self._pause(trial, trial.last_seen)

    @property
    def best_value(self) -> float | None:
        """The best value of the trials that can win, and of those that may yet: running, paused or interrupted.

        None as long as no trial has a value at full fidelity.
        """
        epoch, value = self._best()
        return value if epoch is not None and self.at_full_fidelity(epoch) else None

    def at_full_fidelity(self, epoch: int) -> bool:
        """Whether this epoch is trained with the last values of scheduler.fidelity; each is, if there are none."""
        return self.spec.scheduler.stretch(epoch) == len(self.spec.scheduler.changes)

    def _best(self) -> tuple[int | None, float | None]:
        """Epoch and value of the best trial of those that can win or may yet."""
        best = self.leader
        if best is None or best.state == "failed":
            best = None
            for trial in [*self._ranking[:1], *list(self._open.values())]:
                if self._outranks(trial, best):
                    best = trial
        return (best.best_epoch, best.value) if best else (None, None)

    def _outranks(self, trial: TrialRecord, other: TrialRecord | None) -> bool:
        """Whether a trial is better than another, or has a value and there is no other."""
        if trial.value is None or trial.best_epoch is None:
            return False
        return other is None or self.spec.outranks(trial.value, trial.best_epoch, other.value, other.best_epoch)

    def device_seconds(self, now: float) -> float:
        """Seconds that trials have held devices, each times how many it held; of an interrupted attempt up to its last
        report. now: seconds since 1970.
        """
        running = [(trial.devices, trial.began) for trial in list(self._open.values())]
        return self._device_seconds + sum(devices * (now - began) for devices, began in running if began is not None)

    def ranking(self) -> list[TrialRecord]:
        """Trials that can win, best first; the older wins a tie. A failed or unfinished trial can't.

        Of several objectives: the knee of the front (dominance.py), then the others of the front and then the rest,
        both by the first objective.
        """
        front = self.front()
        if not front:
            # A copy, as of `ended` too: the live table is drawn in another thread.
            return list(self._ranking)
        first = front[knee([self.spec.signed(trial.values) for trial in front])]
        there = {trial.id for trial in front}
        rest = [trial for trial in list(self._ranking) if trial.id not in there]
        return [first, *(trial for trial in front if trial is not first), *rest]

    def front(self) -> list[TrialRecord]:
        """Of several objectives the Pareto front: the trials that can win, and that none dominates, by the first
        objective. Of trials with the same values the first that ended. Empty if there is one objective.
        """
        return list(self._front)

    def can_enter_front(self, trial: TrialRecord) -> bool:
        """Whether no trial of the front has the same values as this one, or dominates it."""
        signed = self.spec.signed(trial.values)
        there = [self.spec.signed(other.values) for other in self.front()]
        return not any(other == signed or dominates(other, signed) for other in there)

    def kept(self) -> list[TrialRecord]:
        """The ended trials whose weights stay in the storage: as many of the best as the study file says, and all of
        the front.
        """
        return self.ranking()[: max(self.spec.checkpoints.keep, len(self._front))]

    def at_full_length(self, trial: TrialRecord) -> bool:
        """Whether a trial has come as far as the longest that has finished, so that it probably ends by itself."""
        return self._full_length is not None and trial.epoch >= self._full_length

    def would_be_kept(self, trial: TrialRecord) -> bool:
        """Whether a running trial, if it ended now, would be among those whose weights are kept."""
        keep = self.spec.checkpoints.keep
        if trial.value is None:
            return False
        if len(self.spec.objectives) > 1:
            if self.can_enter_front(trial):
                return True
            front = self.front()
            ahead = [other for other in self.ranking()[len(front) :] if self._rank(other) < self._rank(trial)]
            return len(front) + len(ahead) < keep
        return len(self._ranking) < keep or self._rank(trial) < self._rank(self._ranking[keep - 1])

    def _rank(self, trial: TrialRecord) -> tuple[int, float, int]:
        value, stretch = trial.value or 0.0, self.spec.scheduler.stretch(trial.best_epoch or 0)
        return -stretch, (-value if self.spec.objective.direction == "maximize" else value), trial.id

    @property
    def ended(self) -> list[TrialRecord]:
        return list(self._ended)

    def verdict(self) -> tuple[Literal["finished", "failed"], str | None]:
        """State and reason of a study that ends now: it has failed if its first trials have all failed."""
        ended = self._ended
        if len(ended) >= self.spec.failures.stop_after and all(trial.state == "failed" for trial in ended):
            return "failed", f"the first {len(ended)} trials all failed, the last: {ended[-1].reason}"
        return "finished", None


def load_record(storage: Storage) -> StudyRecord:
    """The state of the study in this folder. Raises StudyError if there is none, or its files are damaged."""
    return record_of(_load_spec(storage), storage)


def record_of(spec: StudySpec, storage: Storage) -> StudyRecord:
    """The state of a study in this folder, which has this spec. Raises StudyError if its events are damaged."""
    record = StudyRecord(spec)
    for line, event in enumerate(read_events(storage), start=1):
        try:
            record.apply(event)
        except KeyError as error:
            raise damaged(storage, line, f"event {event.KIND!r} is incomplete: {error} is missing") from None
    if record.state == "running" and not is_running(storage):
        # It was killed, and couldn't write the event of its end.
        record.apply(RunEnded(record.last_event, "interrupted", "its process is gone"))
    return record


def _load_spec(storage: Storage) -> StudySpec:
    text = storage.read_text(SPEC)
    if text is None and storage.exists(EVENTS):
        raise StudyError(f"{storage.uri}/{SPEC}: must be there beside {EVENTS}, but is missing: restore it from a copy")
    if text is None:
        raise StudyError(
            f"{storage.uri}: a study is needed there, got none; `python -m tuner list` shows what there is"
        )
    path = f"{storage.uri}/{SPEC}"
    fix = "the file is damaged: restore it from a copy, or fix it by hand (it is a study file in JSON)"
    try:
        return StudySpec.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        got = "an empty file" if not text.strip() else error.msg
        raise StudyError(f"{path}, line {error.lineno}: must be a study in JSON, got {got}; {fix}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise StudyError(f"{path}: {where}: {first['msg']}, got {str(first['input'])[:60]!r}; {fix}") from None
