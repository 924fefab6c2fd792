"""Writes a study's events to MLflow: a parent run, and a child run for each trial, with params, metrics and tags."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import quote

from tuner.events.control_outcome import control_sentence, would_stop_at
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
    TrialEnded,
    TrialPaused,
    TrialRewound,
    TrialSpared,
    TrialStarted,
)
from tuner.events.outcome import compare
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.spec.space import Float, Int
from tuner.storage.address import HIDDEN, is_secret_name
from tuner.storage.storage import Storage
from tuner.tracking.batch import Batch, BatchWriter
from tuner.tracking.calls import RejectedError, with_retries
from tuner.tracking.experiment_page import ExperimentPage
from tuner.tracking.images import ImageUploader
from tuner.tracking.names import best_metric, fit_param, logarithm_of
from tuner.tracking.provenance import earlier_tags, forecast_tags, outcome_tags, provenance_files, provenance_tags
from tuner.tracking.runs import Runs
from tuner.tracking.state import TrackingState

# MLflow's lists show a red cross for FAILED and KILLED, so only failures get these. The tag tuner.state is more exact.
_STATUS = {
    "running": "RUNNING",
    "paused": "SCHEDULED",  # it waits for a slot
    "interrupted": "SCHEDULED",  # it waits for a resume
    "stopped": "FINISHED",
    "finished": "FINISHED",
    "failed": "FAILED",
}
_ENDED = ("FINISHED", "FAILED")
_NOTED_PARAMS, _NOTED_TRIALS = 50, 20  # MLflow's notes have at most 20,000 characters


class EventWriter:
    """Writes events to the runs of one study. Writing an event twice does no harm."""

    def __init__(
        self,
        record: StudyRecord,
        study: Storage,
        runs: Runs,
        images: ImageUploader,
        state: TrackingState,
        on_accepted: Callable[[], None],
    ):
        """record: the study's state before the first event that is written. study: its folder.

        on_accepted: called after each call that MLflow accepted.
        """
        self._record, self._spec, self._study = record, record.spec, study
        self._runs, self._images, self._state, self._on_accepted = runs, images, state, on_accepted
        self._sender = BatchWriter(runs, state, on_accepted)
        self._page = ExperimentPage(record.spec, runs, state, on_accepted)
        self._front_before = {trial.id for trial in record.front()}
        """The trials that an earlier run may have tagged as the front."""
        self._batches: defaultdict[int | None, Batch] = defaultdict(Batch)
        """By trial, None for the parent run."""

    def write(self, events: Iterable[Event]) -> None:
        """Write these events. Raises what MLflow raises in an outage; all of them must then be written again."""
        self._batches.clear()
        for event in events:
            try:
                self._record.apply(event)
            except LookupError as error:
                self._state.skip(f"an event that can't follow those before it, {str(event)[:80]}: {error!r}")
                continue
            match event:
                case RunBegan():
                    self._begin_run(event)
                case TrialStarted():
                    self._start(event)
                case AttemptBegan():
                    self._runs.of(event.trial, event.time)
                    self._batches[event.trial].tags["tuner.node"] = ", ".join(dict.fromkeys(event.nodes))
                case NodeLeftOut() | NodeDraining() | NodeLost():
                    pass  # `show` has them
                case EpochReported():
                    self._report(event)
                case ImagesStored():
                    self._store_images(event)
                case TrialRewound():
                    pass  # MLflow can't delete metrics
                case TrialSpared():
                    pass  # at the run's end it is known whether a paused trial would have resumed
                case TrialPaused():
                    self._pause(event)
                case TrialEnded():
                    self._end(event)
                case RunEnded():
                    self._end_run(event)
        for trial in list(self._batches):
            self._send(trial)
        self._page.update()

    def finish(self) -> None:
        """Log the report and the note on the winner. Raises what MLflow raises in an outage."""
        self._images.log_report(self._runs, self._runs.of(None, self._record.created))
        if note := self._winner():
            self._page.write_note(note)

    def _winner(self) -> str | None:
        """A note on the study's best trial, in Markdown; None if no trial can win."""
        ranking = self._record.ranking()
        if not ranking:
            return None
        best, experiment = ranking[0], self._runs.experiment
        run = self._runs.of(best.id, self._record.created)
        rows = "\n".join(
            f"| {name} | `{fit_param(value):.100}` |" for name, value in list(best.params.items())[:_NOTED_PARAMS]
        )
        if len(best.params) > _NOTED_PARAMS:
            rows += f"\n| … | {len(best.params) - _NOTED_PARAMS} more in its run |"
        images = "".join(
            f'\n\n{title}:<br><img src="get-artifact?path={quote(path, safe="")}&run_uuid={run}">'
            for title, path in self._images.best_of(self._runs, run)
        )
        what = "The knee of the front" if self._record.front() else "Winner"
        return (
            f"**Study {self._spec.name}**, {self._record.state}: {len(self._record.ended)} trials. {what}: "
            f"[trial {best.id}](#/experiments/{experiment}/runs/{run}), {self._values(best)} "
            f"at epoch {best.best_epoch}.{self._front()}\n\n| hyperparameter | value |\n|---|---|\n{rows}{images}"
        )

    def _front(self) -> str:
        """A table of the front, in Markdown; empty if there is one objective."""
        front, experiment = self._record.front(), self._runs.experiment
        if not front:
            return ""
        metrics = " | ".join(objective.metric for objective in self._spec.objectives)
        rows = ""
        for trial in front[:_NOTED_TRIALS]:
            run = self._runs.of(trial.id, self._record.created)
            values = " | ".join(f"{value:.6g}" for value in trial.values)
            rows += f"\n| [{trial.id}](#/experiments/{experiment}/runs/{run}) | {values} |"
        more = f"\n\n{len(front) - _NOTED_TRIALS} more have the tag tuner.front." if len(front) > _NOTED_TRIALS else ""
        return f"\n\n| front: trial | {metrics} |\n|{'---|' * (len(self._spec.objectives) + 1)}{rows}{more}"

    def _values(self, trial: TrialRecord) -> str:
        named = zip(self._spec.objectives, trial.values, strict=True)
        return ", ".join(f"{objective.metric} {value:.6g}" for objective, value in named)

    def _begin_run(self, event: RunBegan) -> None:
        self._runs.may_have_duplicates = self._runs.may_have_duplicates or event.number > 1
        self._begin(None, event.time)
        batch = self._batches[None]
        batch.params |= {"objective": self._spec.goal}
        if constraints := ", ".join(f"{each.metric} {each}" for each in self._spec.constraints):
            batch.params |= {"constraints": constraints}
        batch.params |= {name: HIDDEN if is_secret_name(name) else value for name, value in self._spec.fixed.items()}
        batch.tags |= provenance_tags(event) | forecast_tags(compare(self._record, self._study))
        batch.tags |= earlier_tags(self._spec)
        files = provenance_files(self._spec, event)
        self._images.log_files(self._runs, self._runs.of(None, event.time), files)

    def _start(self, event: TrialStarted) -> None:
        self._begin(event.trial, event.time)
        batch = self._batches[event.trial]
        batch.params |= event.params
        batch.tags["tuner.state"] = "running"
        if event.control:
            batch.tags["tuner.control"] = "true"
        for name, value in event.params.items():
            dimension = self._spec.space.get(name)
            # MLflow's scatter plots and parallel coordinates have linear axes alone.
            if isinstance(dimension, Float | Int) and dimension.log and isinstance(value, float | int) and value > 0:
                batch.params[logarithm_of(name)] = math.log10(value)

    def _store_images(self, event: ImagesStored) -> None:
        self._runs.of(event.trial, event.time)
        keys = self._images.log(self._runs, event.trial, event.images, event.time)
        if keys:
            # MLflow's charts show images only of runs with this tag.
            self._batches[event.trial].tags["mlflow.loggedImages"] = "True"
            self._page.found(images=keys)

    def _report(self, event: EpochReported) -> None:
        self._runs.of(event.trial, event.time)
        if event.device:
            self._batches[event.trial].tags["tuner.device"] = event.device
        # MLflow keeps the first report of a replayed epoch.
        if not event.again:
            # MLflow shows metrics with this prefix in its tab of system metrics.
            system = {f"system/{name}": value for name, value in (event.system or {}).items()}
            for name, value in system.items():
                self._add_metric(event.trial, name, value, event.time, event.epoch)
            self._page.found(system)
            for name, value in event.metrics.items():
                if name != "epoch":
                    self._add_metric(event.trial, name, value, event.time, event.epoch)
            self._page.found(event.metrics)

    def _pause(self, event: TrialPaused) -> None:
        run = self._runs.of(event.trial, event.time)
        self._batches[event.trial].tags["tuner.state"] = "paused"
        self._send(event.trial)
        self._set_status(run, _name(event.trial), "paused", event.time)

    def _end(self, event: TrialEnded) -> None:
        trial, at = event.trial, event.time
        run = self._runs.of(trial, at)
        tags = self._batches[trial].tags
        tags["tuner.state"] = event.state
        if why := self._record.trials[trial].why:
            tags["tuner.reason"] = why
        if event.value is not None and event.best_epoch is not None:
            # MLflow compares runs by a metric's last value, which is of the last epoch and not of the best.
            self._runs.of(None, at)
            values = (event.value, *self._record.trials[trial].values[1:])
            for objective, value in zip(self._spec.objectives, values, strict=True):
                best = best_metric(objective.metric)
                self._add_metric(trial, best, value, at, event.best_epoch)
                self._add_metric(None, best, value, at, trial)
            self._log_best_images(trial, event.best_epoch, at)
        known = self._record.trials[trial]
        self._add_metric(trial, "trial/epochs", known.epoch, at, known.epoch)
        self._add_metric(trial, "trial/seconds", round(known.seconds(at), 3), at, known.epoch)
        if known.startup_seconds is not None:
            self._add_metric(trial, "trial/startup_seconds", known.startup_seconds, at, known.epoch)
        self._page.found(["trial/epochs", *(best_metric(each.metric) for each in self._spec.objectives)])
        self._send(trial)
        self._set_status(run, _name(trial), event.state, at)

    def _end_run(self, event: RunEnded) -> None:
        parent = self._runs.of(None, event.time)
        self._tag_control_trials()
        for trial in list(self._batches):
            self._send(trial)
        # Trials that will be resumed aren't running.
        for child in list(self._runs.running_children()):
            self._change(child, "a trial", partial(self._interrupt, child))
        tags = self._batches[None].tags
        tags["tuner.state"] = event.state
        tags |= outcome_tags(compare(self._record, self._study))
        if event.reason or self._record.runs > 1:
            # Of an earlier run's end too, MLflow has a reason, which is no longer true.
            tags["tuner.reason"] = event.reason or ""
        if ranking := self._record.ranking():
            best = ranking[0]
            tags |= {"tuner.winner": f"trial {best.id}", "tuner.winner.run_id": self._runs.of(best.id, event.time)}
            named = zip(self._spec.objectives, best.values, strict=True)
            values = ", ".join(f"{objective.metric} {value!r}" for objective, value in named)
            tags["tuner.winner.value"] = f"{values} at epoch {best.best_epoch}"
        self._tag_front()
        self._send(None)
        self._set_status(parent, "the study", event.state, event.time)

    def _tag_front(self) -> None:
        front = {trial.id for trial in self._record.front()}
        if not front:
            return
        self._batches[None].tags["tuner.front"] = ", ".join(f"trial {trial}" for trial in sorted(front))
        for number in sorted(front | self._front_before):
            self._batches[number].tags["tuner.front"] = "true" if number in front else "false"
            self._send(number)
        self._front_before = front

    def _tag_control_trials(self) -> None:
        if sentence := control_sentence(self._record):
            control = [trial for trial in self._record.trials.values() if trial.control]
            listed = ", ".join(str(number) for number in sorted(trial.id for trial in control))
            self._batches[None].tags |= {"tuner.control.trials": listed, "tuner.control.outcome": sentence}
            for trial in control:
                epoch = would_stop_at(self._record, trial)
                if trial.spared:  # it may have another answer than at the end of an earlier run
                    self._batches[trial.id].tags["tuner.control.would_stop_at"] = str(epoch) if epoch else "never"

    def _begin(self, trial: int | None, at: float) -> None:
        """Set the run's status to RUNNING; a new run has it already."""
        if self._runs.has(trial):
            run = self._runs.of(trial, at)
            self._change(run, _name(trial), lambda: self._runs.client.update_run(run, status="RUNNING"))
        else:
            self._runs.of(trial, at)

    def _interrupt(self, run: str) -> None:
        self._runs.client.set_tag(run, "tuner.state", "interrupted")
        self._runs.client.update_run(run, status=_STATUS["interrupted"])

    def _set_status(self, run: str, name: str, state: str, at: float) -> None:
        status = _STATUS.get(state, "RUNNING")
        if status in _ENDED:
            self._change(run, name, lambda: self._runs.client.set_terminated(run, status, int(at * 1000)))
        else:
            self._change(run, name, lambda: self._runs.client.update_run(run, status=status))

    def _log_best_images(self, trial: int, epoch: int, at: float) -> None:
        keys = self._images.log_best(self._runs, trial, epoch, at)
        self._page.found(images=keys)

    def _change(self, run: str, name: str, call: Callable[[], Any]) -> None:
        try:
            with_retries(call)
            self._on_accepted()
        except RejectedError as rejection:
            deleted = self._runs.is_deleted(run)
            self._state.skip(f"{name}, its status: {'its run was deleted in MLflow' if deleted else rejection}")

    def _add_metric(self, trial: int | None, name: str, value: float, at: float, step: int) -> None:
        self._batches[trial].metrics.append((name, value, int(at * 1000), step))

    def _send(self, trial: int | None) -> None:
        batch = self._batches.pop(trial)
        self._sender.send(self._runs.of(trial, 0.0), _name(trial), batch)


def _name(trial: int | None) -> str:
    return "the study" if trial is None else f"trial {trial}"
