"""Forecasts what a study takes, from its file, the slots that it has and an earlier study of the same workload."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tuner.errors import StudyError
from tuner.events.event import EpochReported, Event, TrialStarted
from tuner.events.forecast import Forecast, Range
from tuner.events.log import read_events
from tuner.events.state import SPEC, StudyRecord, load_record
from tuner.events.trial import TrialRecord
from tuner.search.schedulers.simulation import Pace, Simulated, simulate
from tuner.spec.study import StudySpec
from tuner.spec.study_file import first_config
from tuner.spec.workload import Prepared
from tuner.storage.checkpoints import CheckpointSize, TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage

MOST_TRIALS = 20_000  # simulating more would take longer than the check of a study may
_RUNS, _SIMULATED_TRIALS = 20, 20_000
_READERS = 16  # of the storage's studies


@dataclass(frozen=True)
class Earlier:
    """What an earlier study of the storage has measured."""

    name: str
    paces: tuple[Pace, ...]
    size: CheckpointSize | None


def study_forecast(
    spec: StudySpec,
    slots: int,
    devices: float,
    storage: Storage,
    prepared: Prepared,
    epoch_seconds: float | None = None,
) -> Forecast:
    """As `forecast`, with what an earlier study of the storage and the workload say."""
    return forecast(spec, slots, devices, earlier_study(spec, storage), checkpoint_size(prepared), epoch_seconds)


def earlier_study(spec: StudySpec, storage: Storage) -> Earlier | None:
    """The newest study of the same workload with the same fixed fields, hyperparameters and resources of a trial.

    It may be this study itself, which is to have more trials. The length of its trials may be another: an epoch takes
    the same time.
    """
    for study in _alike(spec, storage):
        with contextlib.suppress(StudyError):  # a damaged study; `list` shows it
            record = load_record(study)
            if paces := _paces(record, read_events(study)):
                return Earlier(record.spec.name, paces, _largest(record, study))
    return None


def forecast(
    spec: StudySpec,
    slots: int,
    devices: float,
    earlier: Earlier | None = None,
    size: CheckpointSize | None = None,
    epoch_seconds: float | None = None,
) -> Forecast:
    """Raises StudyError with the reason if none can be made.

    slots: trials at a time, each of which holds so many devices. size: of a checkpoint, as the workload says; None to
    take it from the earlier study. epoch_seconds: what an epoch takes; None to take it from the earlier study.
    """
    length, notes = full_length(spec)
    if spec.budget.trials > MOST_TRIALS:
        raise StudyError(f"no forecast is made for more than {MOST_TRIALS:,} trials, got {spec.budget.trials:,}")
    paces = [Pace(epoch_seconds)] if epoch_seconds else earlier.paces if earlier else None
    runs = max(1, min(_RUNS, _SIMULATED_TRIALS // spec.budget.trials))
    simulated = [simulate(spec, length, slots, devices, paces, seed) for seed in range(runs)]
    size = size or (earlier.size if earlier else None)
    kept = min(spec.checkpoints.keep, spec.budget.trials) * size.weights if size else None
    return Forecast(
        {epoch: _range([run.reached[epoch] for run in simulated]) for epoch in simulated[0].reached},
        _range([run.epochs for run in simulated]),
        _hours([run.seconds for run in simulated]) if paces else None,
        Range(kept, kept) if kept is not None else None,
        _most_bytes(spec, slots, simulated, size) if size else None,
        (*notes, *_notes(spec, earlier, size, epoch_seconds)),
    )


def checkpoint_size(prepared: Prepared) -> CheckpointSize | None:
    """Of the config that was prepared; None if the workload doesn't say."""
    size = getattr(prepared, "checkpoint_bytes", None)
    return CheckpointSize(*size) if size else None


def full_length(spec: StudySpec) -> tuple[int, list[str]]:
    """The epochs of a trial that nothing stops, by the Config's field `epochs`, and a sentence if trials differ in it.

    Raises StudyError if the Config doesn't say.
    """
    if dimension := spec.space.get("epochs"):
        longest = max(int(end) for end in dimension.endpoints)
        return longest, [f"epochs is sampled: each trial counts as one of {longest}"]
    epochs = getattr(first_config(spec), "epochs", None)
    if not isinstance(epochs, int) or epochs < 1:
        raise StudyError(f"{spec.workload}.Config has no field `epochs` that says how long a trial is")
    return epochs, []


def _alike(spec: StudySpec, storage: Storage) -> Iterator[Storage]:
    """The folders of the studies that train as this one does, the newest first."""
    wanted = _training(spec.model_dump(mode="json"))

    def written_at(name: str) -> float | None:
        """When a study was written, if it trains alike."""
        with contextlib.suppress(StudyError, ValueError, TypeError, AttributeError, KeyError):  # a damaged study
            text = storage.read_text(f"{name}/{SPEC}")
            if text is not None and _training(json.loads(text)) == wanted:
                return storage.written_at(f"{name}/{SPEC}") or 0.0
        return None

    names = storage.names()
    # At a time: in a bucket each is a request, of which a storage of 300 studies would take seconds one by one.
    with ThreadPoolExecutor(_READERS) as readers:
        found = [(at, name) for at, name in zip(readers.map(written_at, names), names, strict=True) if at is not None]
    return (storage / name for _, name in sorted(found, reverse=True))


def _training(study: dict[str, Any]) -> list[Any]:
    """What the time of an epoch and the size of a checkpoint depend on, of a study's tables in JSON."""
    fixed = {name: value for name, value in study["fixed"].items() if name != "epochs"}
    resources = [study["resources"][key] for key in ("workers", "cpus_per_worker", "gpus_per_worker")]
    return [study["workload"], fixed, sorted(study["space"]), resources]


@dataclass
class _Times:
    """When a trial reported."""

    starts: int = 0
    reports: int = 0
    newest: float | None = None
    """The present attempt's newest report, in seconds since 1970."""
    between: list[float] = field(default_factory=list)
    """Seconds between the reports of an attempt."""

    def report(self, at: float, is_full: bool) -> None:
        if self.newest is not None and is_full:
            self.between.append(at - self.newest)
        self.newest, self.reports = at, self.reports + 1

    def epoch_seconds(self, trial: TrialRecord) -> float:
        if self.between:
            return statistics.median(self.between)
        return (trial.earlier_seconds - (trial.startup_seconds or 0.0)) / self.reports


def _paces(record: StudyRecord, events: Iterable[Event]) -> tuple[Pace, ...]:
    """Of the trials that can win, each with its own epochs, and with what a start takes beside them in most trials.

    A slot's first start takes longer than those after it, and the earlier study may have been short. Only epochs at
    full fidelity count.
    """
    trials = [trial for trial in record.ranking() if record.at_full_fidelity(trial.epoch)]
    times: defaultdict[int, _Times] = defaultdict(_Times)
    for event in events:
        match event:
            case EpochReported():
                times[event.trial].report(event.time, record.at_full_fidelity(event.epoch))
            case TrialStarted():
                times[event.trial].starts += 1
                times[event.trial].newest = None
    epochs = {trial.id: times[trial.id].epoch_seconds(trial) for trial in trials}
    others = [
        (trial.earlier_seconds - times[trial.id].reports * epochs[trial.id]) / times[trial.id].starts
        for trial in trials
    ]
    startup = max(0.0, statistics.median(others)) if others else 0.0
    return tuple(Pace(seconds, startup) for seconds in epochs.values() if seconds > 0)


def _largest(record: StudyRecord, study: Storage) -> CheckpointSize | None:
    """Of the checkpoints that are kept; hyperparameters may change their size."""
    kept = record.ranking()[: record.spec.checkpoints.keep]
    sizes = [TrialCheckpoints(trial_folder(study, trial.id)).size(trial.best_epoch or 0) for trial in kept]
    known = [size for size in sizes if size]
    return CheckpointSize(max(s.weights for s in known), max(s.resume for s in known)) if known else None


def _most_bytes(spec: StudySpec, slots: int, simulated: Sequence[Simulated], size: CheckpointSize) -> float:
    """The most that checkpoints take at a time.

    While a running trial writes a checkpoint, it has the one before it too, and the best epoch's weights of both.
    """
    running = min(slots, spec.budget.trials) * (4 * size.weights + 2 * size.resume)
    paused = max(run.most_paused for run in simulated) * (2 * size.weights + size.resume)
    return float(running + paused + spec.checkpoints.keep * size.weights)


def _range(values: Sequence[float]) -> Range:
    """From the tenth to the ninetieth percentile, of whole numbers."""
    low, high = np.percentile(values, [10, 90])
    return Range(math.floor(low), math.ceil(high))


def _hours(seconds: Sequence[float]) -> Range:
    low, high = np.percentile(seconds, [10, 90]) / 3600
    return Range(float(low), float(high))


def _notes(
    spec: StudySpec, earlier: Earlier | None, size: CheckpointSize | None, epoch_seconds: float | None
) -> Iterator[str]:
    if spec.scheduler.fidelity:
        yield "every epoch counts as one at full fidelity: with scheduler.fidelity it takes less than that"
    limits, known = spec.budget.stop_when, earlier is not None or epoch_seconds is not None
    if epoch_seconds is not None:
        yield f"an epoch takes {epoch_seconds:g} s, as --epoch-seconds says"
    elif earlier is not None:
        typical = statistics.median(pace.epoch_seconds for pace in earlier.paces)
        yield f"an epoch takes {typical:.2g} s, as in study {earlier.name}"
    else:
        yield "time: unknown, since no study of this storage trains alike; --epoch-seconds gives what an epoch takes"
    if size is None:
        yield "disk: unknown, since no study of this storage has checkpoints like these"
    unseen = ["value"] if limits.value is not None else []
    if not known:
        unseen += [key for key in ("device_hours", "cost") if getattr(limits, key) is not None]
    keys = [f"budget.stop_when.{key}" for key in unseen]
    if spec.budget.time_seconds is not None and not known:
        keys.insert(0, "budget.time_seconds")
    if keys:
        yield f"it may end earlier, by {' or '.join(keys)}"
