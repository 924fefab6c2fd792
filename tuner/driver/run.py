"""Starts and resumes studies. All that can be checked is checked before anything is written."""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from tuner.checks.forecast import study_forecast
from tuner.checks.nodes import Nodes
from tuner.driver import cluster
from tuner.driver.control import StudyControl
from tuner.driver.provenance import run_began
from tuner.driver.recorder import Recorder
from tuner.driver.retention import Retention
from tuner.driver.study_run import StudyRun
from tuner.errors import StudyError
from tuner.events.bucket import already_running
from tuner.events.event import RunEnded
from tuner.events.forecast import Forecast
from tuner.events.limits import limit_reached
from tuner.events.log import Journal, read_events
from tuner.events.state import StudyRecord, load_record
from tuner.report import REPORT
from tuner.search.earlier_studies import warm_start, with_first_trials
from tuner.spec import workload as workloads
from tuner.spec.study import StudySpec, to_json
from tuner.spec.study_file import first_configs, override_study
from tuner.spec.validation_errors import nearest
from tuner.storage.address import HIDDEN
from tuner.storage.storage import Storage
from tuner.tracking.address import check_tracking_uri, default_tracking_uri, unreachable
from tuner.tracking.process import TrackingProcess

_TRACKING_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Options:
    """Where a study is stored, tracked and run: the command-line options beside the study file."""

    storage: Storage
    tracking_uri: str | None = None
    address: str | None = None


def _print_line(console: Console, sentence: str) -> None:
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def prepare(spec: StudySpec) -> workloads.Prepared:
    """Check what all trials share, data for example. Raises StudyError with the workload's message."""
    try:
        # Every fidelity, the full one last, so that no trial is the first to decode images of another size.
        *_, prepared = map(workloads.load(spec.workload).prepare, first_configs(spec))
    except (ValueError, OSError) as error:
        raise StudyError(str(error)) from None
    for place, metric in spec.needed_metrics():
        if prepared.metrics and metric not in prepared.metrics:
            raise StudyError(
                f"{place}: must be one that {spec.workload} reports ({', '.join(prepared.metrics)}), "
                f"got {metric!r}{nearest(metric, prepared.metrics)}"
                # If the metric isn't mistyped, the data is often the cause: without a validation split no val/ metrics.
                f"; the data: {prepared.summary}"
            )
    return prepared


def run(spec: StudySpec, options: Options, overrides: list[str], console: Console) -> StudyRecord:
    """Run a new study to its end. Raises StudyError before anything is written if it can't start."""
    study = options.storage / spec.name
    if study.read_text("study.json") is not None:
        raise StudyError(
            f"study {spec.name} exists in {options.storage.uri}; "
            f"resume it with `python -m tuner resume {spec.name}`, or give another --name"
        )
    _check_shared(options)
    options.storage.check_writable()
    start = warm_start(spec, options.storage)
    for sentence in (*(f"a first trial is {trial}" for trial in start.trials), *start.left_out):
        _print_line(console, f"{spec.name}: {sentence}")
    for warning in start.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    spec = with_first_trials(spec, start)
    spec = spec.model_copy(update={"id": secrets.token_hex(16)})
    tracking_uri = options.tracking_uri or default_tracking_uri(options.storage)
    check_tracking_uri(tracking_uri)
    if any(read_events(study)):  # the new study's events would come after them
        raise StudyError(
            f"{study.uri}/study.json: must be there beside the events of a study, but is missing: restore it from a "
            "copy, or give another --name"
        )
    return _start(StudyRecord(spec), spec, options, tracking_uri, overrides, console)


def resume(name: str, options: Options, overrides: list[str], console: Console) -> StudyRecord:
    """Resume a study: interrupted trials from their newest checkpoint, then what the budget still allows.

    overrides: changes to the study, a larger budget for example; its name, workload, objectives and constraints stay.
    """
    _check_shared(options)
    study = options.storage / name
    record = load_record(study)
    spec = record.spec
    if overrides:
        spec = override_study(spec, overrides)
        for key in ("id", "taken", "name", "workload", "objective", "objectives", "constraints"):
            if getattr(spec, key) != getattr(record.spec, key):
                raise StudyError(f"{key}: can't be changed when a study is resumed; start another study with --name")
        if _fidelity(spec) != _fidelity(record.spec):
            raise StudyError(
                "scheduler.fidelity: it, and the rungs at which it changes, can't be changed when a study is resumed, "
                "since values of different fidelities aren't comparable; start another study with --name"
            )
        if spec.search.from_studies != record.spec.search.from_studies:
            raise StudyError(
                "search.from_studies: is read when a study begins, and can't be changed when it is resumed; start "
                "another study with --name, or add first_trials"
            )
    tracking_uri = options.tracking_uri or record.tracking_uri or default_tracking_uri(options.storage)
    if HIDDEN in tracking_uri:
        raise StudyError("--tracking-uri: the address's password isn't stored; give the whole address again")
    check_tracking_uri(tracking_uri)
    # In a bucket, opening the journal finds out whether another process is running the study.
    if record.state == "running" and study.local:
        raise already_running(study)
    record.spec = spec
    all_done = len(record.trials) >= spec.budget.trials or limit_reached(record, time.time())
    if not any(trial.open for trial in record.trials.values()) and all_done:
        _end_completed(record, study, tracking_uri, overrides, console)
        return record
    return _start(record, spec, options, tracking_uri, overrides, console)


def _check_shared(options: Options) -> None:
    if options.address and options.storage.relative:
        raise StudyError(
            f"--storage {options.storage.uri}: with --address a storage that all nodes reach is needed, the "
            "absolute path of a shared folder or a bucket (s3://BUCKET/studies), got a relative path"
        )


def _end_completed(
    record: StudyRecord, study: Storage, tracking_uri: str, overrides: list[str], console: Console
) -> None:
    """End a study whose trials have all ended. A kill or a Ctrl-C may have come before its last event was written."""
    spec = record.spec
    with Journal(study) as journal:
        _check_unchanged(record, study)
        state, reason = record.verdict()
        limit = None if len(record.trials) >= spec.budget.trials else limit_reached(record, time.time())
        if record.state == state:
            _print_line(
                console,
                f"{spec.name} has ended: {limit.reason}; to go on, give another limit: python -m tuner resume "
                f"{spec.name} --set budget.stop_when.{limit.key}=VALUE"
                if limit
                else f"{spec.name} has all its {spec.budget.trials} trials; "
                f"for more: python -m tuner resume {spec.name} --set budget.trials={2 * spec.budget.trials}",
            )
            if not _has_report(study):
                write_study_report(record, study, console)
        else:
            study.write_text("study.json", to_json(spec))
            recorder = Recorder(record, journal, StudyControl(), [])
            recorder.write(run_began(record.runs + 1, overrides, tracking_uri))
            Retention(record, study).tidy()
            recorder.write(RunEnded(time.time(), state, reason or (limit.reason if limit else None)))
            write_study_report(record, study, console)
        _finish_tracking(TrackingProcess(spec, study, journal.path, tracking_uri), spec.name, console)


def _start(
    record: StudyRecord,
    spec: StudySpec,
    options: Options,
    tracking_uri: str,
    overrides: list[str],
    console: Console,
) -> StudyRecord:
    """Run the study, after the checks that need the data and Ray."""
    study = options.storage / spec.name
    if options.address is None:
        cluster.plan(spec.resources, *cluster.machine_capacity())
    if problem := unreachable(tracking_uri):
        console.print(
            f"warning: {problem}: the study runs, and MLflow gets its events when it answers, or by "
            f"`python -m tuner sync {spec.name} --tracking-uri URI`",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    with console.status("reading the data, and decoding what isn't decoded yet …"):
        prepared = prepare(spec)
    console.print(f"{spec.name}: {prepared.summary}", highlight=False, soft_wrap=True)
    for warning in (*getattr(prepared, "warnings", ()), *_data_changed(record, prepared)):
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    with contextlib.ExitStack() as journals:
        with contextlib.ExitStack() as stack:
            with console.status("starting Ray …"):
                capacity = stack.enter_context(cluster.connected(options.address))
            plan = cluster.plan_with_nodes(spec.resources, capacity, lambda sentence: _print_line(console, sentence))
            console.print(f"{spec.name}: {plan}", highlight=False, soft_wrap=True)
            journal = journals.enter_context(Journal(study))
            _check_unchanged(record, study)
            study.write_text("study.json", to_json(spec))
            tracker = TrackingProcess(spec, study, journal.path, tracking_uri)
            # A resume that changes nothing goes on with the forecast that the study began with.
            expected = _forecast(spec, plan, options.storage, prepared) if overrides or not record.runs else None
            began = run_began(record.runs + 1, overrides, tracking_uri, getattr(prepared, "data", None), expected)
            nodes = Nodes(spec, study, workloads.fingerprint(prepared)) if options.address else None
            StudyRun(record, study, journal, tracker, plan, nodes, console).fit(began)
        # After Ray has ended, so that neither the report nor a slow MLflow holds devices.
        write_study_report(record, study, console)
        _finish_tracking(tracker, spec.name, console)
    return record


def _fidelity(spec: StudySpec) -> list[dict[str, Any]]:
    """The fields that change within a trial, of each stretch of epochs between the changes."""
    epochs = (0, *spec.scheduler.changes)
    return [{"after": epoch, **spec.scheduler.fidelity_at(epoch + 1)} for epoch in epochs]


def _data_changed(record: StudyRecord, prepared: workloads.Prepared) -> list[str]:
    before, now = record.fingerprint, workloads.fingerprint(prepared)
    if None in (before, now) or before == now:
        return []
    return [
        f"the data have changed since the last run of {record.spec.name}: their fingerprint was {before} and is {now}; "
        "the trials so far were scored on the old ones: start another study with --name to compare on the new ones"
    ]


def _forecast(spec: StudySpec, plan: cluster.Plan, storage: Storage, prepared: workloads.Prepared) -> Forecast | None:
    """Of the whole study; None if none can be made, for which `check` gives the reason."""
    with contextlib.suppress(StudyError):
        return study_forecast(spec, plan.slots, spec.resources.devices(plan.gpus), storage, prepared)
    return None


def _check_unchanged(record: StudyRecord, study: Storage) -> None:
    """Raises StudyError if another process ran the study after it was loaded and before its lock was acquired."""
    runs = load_record(study).runs if study.read_text("study.json") is not None else 0
    if runs != record.runs:
        raise StudyError(
            f"study {record.spec.name} was just run by another process; "
            f"`python -m tuner show {record.spec.name}` shows its state"
        )


def write_study_report(record: StudyRecord, study: Storage, console: Console) -> None:
    """Write the report of a study that finished or failed; an interrupted one must stop at once. Errors only warn."""
    if record.state not in ("finished", "failed"):
        return
    # Imported here, since importing plotly and pandas would delay the first trials by a second.
    from tuner.report.report import store_report

    try:
        with console.status("writing the report …"):
            store_report(record, study)
    except Exception as error:
        console.print(
            f"warning: no report was written: {error}; `python -m tuner report {record.spec.name}` writes one",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _has_report(study: Storage) -> bool:
    """Whether there is a report of all events: a kill may come before it is written, and someone may delete it."""
    *_, last = read_events(study)
    written_at = study.written_at(REPORT)
    return written_at is not None and written_at >= last.time


def _finish_tracking(tracker: TrackingProcess, name: str, console: Console) -> None:
    """Send MLflow the remaining events. Warns if it accepts nothing for a minute, and of events that it rejects."""
    tracker.start()
    with console.status("sending the last events to MLflow …"):
        left = tracker.finish(_TRACKING_TIMEOUT_SECONDS)
    if left:
        console.print(
            f"warning: MLflow accepts nothing ({tracker.error}): {left} events are unsent; "
            f"`python -m tuner resume {name}` sends them",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if tracker.skipped:
        console.print(tracker.skipped, style="yellow", highlight=False, markup=False, soft_wrap=True)
