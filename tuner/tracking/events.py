"""What a study's events are in MLflow: a parent run, a child run a trial, their parameters, metrics, tags, pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from tuner.events.event import (
    EpochReported,
    Event,
    ImagesStored,
    RunBegan,
    RunEnded,
    TrialEnded,
    TrialRewound,
    TrialStarted,
)
from tuner.spec.study import StudySpec
from tuner.tracking.batch import Batch, BatchWriter
from tuner.tracking.calls import RefusalError, repeated
from tuner.tracking.images import Pictures
from tuner.tracking.runs import Runs
from tuner.tracking.state import TrackingState

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}


class EventWriter:
    """Writes events to the runs of one study. Writing an event twice does no harm."""

    def __init__(self, spec: StudySpec, runs: Runs, pictures: Pictures, state: TrackingState, took: Callable[[], None]):
        """took: called after each call that MLflow took."""
        self._spec, self._runs, self._pictures, self._state, self._took = spec, runs, pictures, state, took
        self._sender = BatchWriter(runs, state, took)
        self._batches: defaultdict[int | None, Batch] = defaultdict(Batch)
        """By trial, None for the parent run."""

    def write(self, events: Iterable[Event]) -> None:
        """Raises what MLflow raises in an outage; then all is to be written again."""
        self._batches.clear()
        for event in events:
            match event:
                case RunBegan():
                    self._begin_run(event)
                case TrialStarted():
                    self._begin(event.trial, event.time)
                    self._batches[event.trial].params |= event.params
                case EpochReported():
                    self._report(event)
                case ImagesStored():
                    self._runs.of(event.trial, event.time)
                    self._pictures.log(self._runs, event.trial, event.images, event.time)
                case TrialRewound():
                    pass  # MLflow can't forget
                case TrialEnded():
                    self._end(event)
                case RunEnded():
                    self._end_run(event)
        for trial in list(self._batches):
            self._send(trial)

    def _begin_run(self, event: RunBegan) -> None:
        self._runs.doubtful = self._runs.doubtful or event.number > 1
        self._begin(None, event.time)
        objective, batch = self._spec.objective, self._batches[None]
        batch.params |= {"objective": f"{objective.direction} {objective.metric}", **self._spec.fixed}
        batch.tags |= {f"tuner.version.{name}": version for name, version in event.versions.items()}

    def _report(self, event: EpochReported) -> None:
        self._runs.of(event.trial, event.time)
        # Of an epoch that was trained again MLflow keeps the first report.
        if not event.again:
            for name, value in event.metrics.items():
                if name != "epoch":
                    self._measure(event.trial, name, value, event.time, event.epoch)

    def _end(self, event: TrialEnded) -> None:
        trial, at = event.trial, event.time
        run = self._runs.of(trial, at)
        tags = self._batches[trial].tags
        tags["tuner.state"] = event.state
        if event.reason:
            tags["tuner.reason"] = event.reason
        if event.value is not None and event.best_epoch is not None:
            # The run's own metric ends on its last epoch; a comparison of runs wants their best.
            best = f"best/{self._spec.objective.metric.removeprefix('best/')}"
            self._runs.of(None, at)
            self._measure(trial, best, event.value, at, event.best_epoch)
            self._measure(None, best, event.value, at, trial)
        self._send(trial)
        self._set_status(run, _name(trial), event.state, at)

    def _end_run(self, event: RunEnded) -> None:
        parent = self._runs.of(None, event.time)
        for trial in list(self._batches):
            self._send(trial)
        # A trial that is to go on later doesn't run now.
        for child in list(self._runs.running_children()):
            self._set_status(child, "a trial", "interrupted", event.time)
        self._set_status(parent, "the study", event.state, event.time)

    def _begin(self, trial: int | None, at: float) -> None:
        """The run runs now; one that was just made does so already."""
        if self._runs.has(trial):
            run = self._runs.of(trial, at)
            self._change(run, _name(trial), lambda: self._runs.client.update_run(run, status="RUNNING"))
        else:
            self._runs.of(trial, at)

    def _set_status(self, run: str, name: str, state: str, at: float) -> None:
        self._change(run, name, lambda: self._runs.client.set_terminated(run, _STATUS[state], int(at * 1000)))

    def _change(self, run: str, name: str, call: Callable[[], Any]) -> None:
        try:
            repeated(call)
            self._took()
        except RefusalError as refusal:
            deleted = self._runs.is_deleted(run)
            self._state.skip(f"{name}, its status: {'its run was deleted in MLflow' if deleted else refusal}")

    def _measure(self, trial: int | None, name: str, value: float, at: float, step: int) -> None:
        self._batches[trial].metrics.append((name, value, int(at * 1000), step))

    def _send(self, trial: int | None) -> None:
        batch = self._batches.pop(trial)
        self._sender.send(self._runs.of(trial, 0.0), _name(trial), batch)


def _name(trial: int | None) -> str:
    return "the study" if trial is None else f"trial {trial}"
