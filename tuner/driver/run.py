"""Running a study: check, prepare, hand it to Ray Tune, and leave a record that can be gone on from."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import ray
import ray.exceptions
import ray.tune
from rich.console import Console

from tuner import __version__
from tuner.display.live import Progress
from tuner.driver import cluster
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.driver.retention import Retention
from tuner.driver.slots import SlotPool, tune_function
from tuner.driver.tune_adapter import EachTurn, TrialSource, TuneEvents, WarmFifo
from tuner.driver.watchdog import Watchdog
from tuner.errors import StudyError
from tuner.events.bucket import being_run
from tuner.events.event import Event, RunBegan, RunEnded, StudyEnd, TrialEnded
from tuner.events.log import Journal
from tuner.events.state import StudyRecord, load_record
from tuner.spec import workload as workloads
from tuner.spec.study import StudySpec, to_json
from tuner.spec.study_file import first_config, override_study
from tuner.spec.validation_errors import nearest
from tuner.storage.address import HIDDEN, without_secrets
from tuner.storage.scratch import scratch
from tuner.storage.storage import Storage
from tuner.tracking.address import check_tracking_uri, default_tracking_uri, unreachable
from tuner.tracking.process import TrackingProcess
from tuner.worker.report_queue import QueueReader

_LIBRARIES = ("ray", "torch", "optuna", "mlflow")
_TRACKING_PATIENCE_SECONDS = 60.0
_PROBES = 3  # trials whose memory says how many share a GPU
_LOOK_SECONDS = 10.0  # between two looks at which nodes there are


@dataclass(frozen=True)
class Options:
    """Where a study lies and runs: what the command line says beside the study file."""

    storage: Storage
    tracking_uri: str | None = None
    address: str | None = None


def prepare(spec: StudySpec) -> workloads.Prepared:
    """Check what all trials share. Raises StudyError with the workload's own sentence."""
    try:
        prepared = workloads.load(spec.workload).prepare(first_config(spec))
    except (ValueError, OSError) as error:
        raise StudyError(str(error)) from None
    metric = spec.objective.metric
    if prepared.metrics and metric not in prepared.metrics:
        raise StudyError(
            f"objective.metric: must be one that {spec.workload} reports ({', '.join(prepared.metrics)}), "
            f"got {metric!r}{nearest(metric, prepared.metrics)}"
            # Where it isn't mistyped this is often why: no validation split, no val/ measures.
            f"; the data: {prepared.summary}"
        )
    return prepared


def run(spec: StudySpec, options: Options, overrides: list[str], console: Console) -> StudyRecord:
    """Run a new study to its end. Raises StudyError before anything is written if it can't start."""
    study = options.storage / spec.name
    if study.read_text("study.json") is not None:
        raise StudyError(
            f"study {spec.name} exists in {options.storage.uri}; "
            f"go on with `python -m tuner resume {spec.name}`, or give another --name"
        )
    options.storage.check_writable()
    spec = spec.model_copy(update={"id": secrets.token_hex(16)})
    tracking_uri = options.tracking_uri or default_tracking_uri(options.storage)
    check_tracking_uri(tracking_uri)
    return _start(StudyRecord(spec), spec, options, tracking_uri, overrides, console)


def resume(name: str, options: Options, overrides: list[str], console: Console) -> StudyRecord:
    """Go on with a study: interrupted trials from their newest checkpoint, then what the budget still allows.

    overrides: changes to the study, a larger budget for example; its name, workload and objective stay.
    """
    study = options.storage / name
    record = load_record(study)
    spec = record.spec
    if overrides:
        spec = override_study(spec, overrides)
        for key in ("id", "name", "workload", "objective"):
            if getattr(spec, key) != getattr(record.spec, key):
                raise StudyError(f"{key}: stays what it was when the study began; start another study with --name")
    tracking_uri = options.tracking_uri or record.tracking_uri or default_tracking_uri(options.storage)
    if HIDDEN in tracking_uri:
        raise StudyError("--tracking-uri: its password was not kept; give the whole address again")
    check_tracking_uri(tracking_uri)
    # In a bucket, whether it is run is found out by watching, when the journal is opened.
    if record.state == "running" and study.local:
        raise being_run(study)
    record.spec = spec
    if not any(trial.open for trial in record.trials.values()) and len(record.trials) >= spec.budget.trials:
        _finish(record, study, tracking_uri, overrides, console)
        return record
    return _start(record, spec, options, tracking_uri, overrides, console)


def _finish(record: StudyRecord, study: Storage, tracking_uri: str, overrides: list[str], console: Console) -> None:
    """End a study whose trials have all ended: a kill or a Ctrl-C may have come before all was done that ends it."""
    spec = record.spec
    with Journal(study) as journal:
        _check_unchanged(record, study)
        verdict = _verdict(record)
        if record.state == verdict[0]:
            console.print(
                f"{spec.name} has all its {spec.budget.trials} trials; "
                f"for more: python -m tuner resume {spec.name} --set budget.trials={2 * spec.budget.trials}",
                highlight=False,
                soft_wrap=True,
            )
        else:
            study.write_text("study.json", to_json(spec))
            recorder = Recorder(record, journal, StudyControl(), [])
            _write_run(recorder, tracking_uri, overrides)
            Retention(record, study).tidy()
            _write_stop(recorder, *verdict)
        _finish_tracking(TrackingProcess(spec, study, journal.path, tracking_uri), spec.name, console)


def _verdict(record: StudyRecord) -> tuple[StudyEnd, str | None]:
    """How a study has ended whose trials, the last of them by now, have ended: (state, reason)."""
    ended = record.ended
    if len(ended) >= record.spec.failures.stop_after and all(trial.state == "failed" for trial in ended):
        return "failed", f"the first {len(ended)} trials all failed, the last: {ended[-1].reason}"
    return "finished", None


def _write_run(recorder: Recorder, tracking_uri: str, overrides: list[str]) -> None:
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    recorder.write(
        RunBegan(
            time.time(),
            number=recorder.record.runs + 1,
            host=socket.gethostname(),
            pid=os.getpid(),
            versions={"tuner": __version__, **versions},
            overrides=tuple(overrides),
            tracking_uri=without_secrets(tracking_uri),
        )
    )


def _write_stop(recorder: Recorder, state: StudyEnd, reason: str | None) -> None:
    recorder.write(RunEnded(time.time(), state, reason))


def _start(
    record: StudyRecord,
    spec: StudySpec,
    options: Options,
    tracking_uri: str,
    overrides: list[str],
    console: Console,
) -> StudyRecord:
    """Check all that can be checked, then write and run."""
    study = options.storage / spec.name
    if options.address is None:
        cluster.plan(spec.resources, *cluster.machine_capacity())
    if trouble := unreachable(tracking_uri):
        console.print(
            f"warning: {trouble}: the study runs, and MLflow gets all of it when it answers, or by "
            f"`python -m tuner sync {spec.name} --tracking-uri URI`",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    with console.status("reading the data, and decoding what isn't decoded yet …"):
        prepared = prepare(spec)
    console.print(f"{spec.name}: {prepared.summary}", highlight=False, soft_wrap=True)
    for warning in getattr(prepared, "warnings", ()):
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    with contextlib.ExitStack() as journals:
        with contextlib.ExitStack() as stack:
            with console.status("starting Ray …"):
                capacity = stack.enter_context(cluster.connected(options.address))
            plan = cluster.plan(spec.resources, *capacity)
            console.print(f"{spec.name}: {plan}", highlight=False, soft_wrap=True)
            journal = journals.enter_context(Journal(study))
            _check_unchanged(record, study)
            study.write_text("study.json", to_json(spec))
            tracker = TrackingProcess(spec, study, journal.path, tracking_uri)
            _Run(record, study, journal, tracker, plan, console).fit(tracking_uri, overrides)
        # After Ray has ended: a slow MLflow must not hold devices.
        _finish_tracking(tracker, spec.name, console)
    return record


def _check_unchanged(record: StudyRecord, study: Storage) -> None:
    """Raises StudyError if another process ran the study between our look at it and our taking of its lock."""
    runs = load_record(study).runs if study.read_text("study.json") is not None else 0
    if runs != record.runs:
        raise StudyError(
            f"study {record.spec.name} was run by another process a moment ago; "
            f"`python -m tuner show {record.spec.name}` says what became of it"
        )


class _Run:
    """One run of a study, from its first slot to its last event."""

    def __init__(
        self,
        record: StudyRecord,
        study: Storage,
        journal: Journal,
        tracker: TrackingProcess,
        plan: cluster.Plan,
        console: Console,
    ):
        self._record, self._study, self._plan, self._tracker = record, study, plan, tracker
        self._journal = journal
        self._progress = Progress(record, console, lambda: tracker.trouble, lambda: tracker.skipped)
        self._retention = Retention(record, study)
        self._slots = SlotPool(record.spec, study, plan)
        self._control = StudyControl(record.spec.budget.time_seconds)
        self._recorder = Recorder(record, journal, self._control, [self._progress.event, self._after])
        self._source = TrialSource(record, self._recorder, self._slots, self._control)
        self._reader: QueueReader | None = None
        self._waited_for = 0
        self._looked_at = time.monotonic()
        self._watchdog = Watchdog(self._recorder, self._source, self._control, study, self._progress.note)
        self._stop_noted = False
        self._refused: str | None = None

    def fit(self, tracking_uri: str, overrides: list[str]) -> None:
        _write_run(self._recorder, tracking_uri, overrides)
        self._tracker.start()
        self._retention.tidy()
        self._share_gpus()
        try:
            with self._progress, self._signals(), contextlib.closing(self._slots):
                self._fit()
        except KeyboardInterrupt:
            _write_stop(self._recorder, "interrupted", "Ctrl-C, twice")
            raise
        except StudyError as error:
            # A person can mend it, and continue: the storage takes nothing, say.
            with contextlib.suppress(StudyError):
                _write_stop(self._recorder, "interrupted", str(error))
            raise
        except BaseException as error:
            _write_stop(self._recorder, "failed", f"{type(error).__name__}: {error}"[:500])
            raise
        self._retention.study_ended()
        _write_stop(self._recorder, self._control.outcome or "finished", self._control.reason)

    def _fit(self) -> None:
        spec, plan = self._record.spec, self._plan
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        # Tune's own files serve nobody: the study's events and checkpoints are elsewhere.
        with (
            scratch("tune") as folder,
            contextlib.closing(QueueReader(self._recorder.receive, self._journal.sync)) as self._reader,
        ):
            ray.tune.Tuner(
                ray.tune.with_resources(
                    tune_function(spec, self._study, self._reader.queue),
                    lambda config: plan.trial_request(config["gpus"], config["place"]),
                ),
                tune_config=ray.tune.TuneConfig(
                    search_alg=self._source,
                    scheduler=WarmFifo(self._slots, self._source),
                    num_samples=-1,
                    reuse_actors=True,
                ),
                run_config=ray.tune.RunConfig(
                    name="tune",
                    storage_path=str(folder),
                    verbose=0,
                    stop=EachTurn(self._turn),
                    callbacks=[TuneEvents(self._recorder, self._source, self._control)],
                    failure_config=ray.tune.FailureConfig(max_failures=spec.failures.max_retries),
                ),
            ).fit()

    def _after(self, event: Event) -> None:
        """What follows from an event."""
        if not isinstance(event, TrialEnded):
            return
        self._retention.trial_ended(event.trial)
        self._share_gpus()
        state, reason = _verdict(self._record)
        if state == "failed":
            self._control.stop("failed", reason or "")

    def _share_gpus(self) -> None:
        """`gpus_per_worker = "auto"`: when a few trials have shown what memory they take, have them share GPUs."""
        if self._plan.gpus != 1 or self._record.spec.resources.gpus_per_worker != "auto":
            return
        used = [trial.gpu_share for trial in self._record.ended if trial.gpu_share][:_PROBES]
        if len(used) < _PROBES:
            return
        plan = self._plan.sharing(self._record.spec.resources, max(used))
        if plan is not self._plan:
            self._plan = plan
            self._slots.follow(plan)
            self._progress.note(
                f"the first {_PROBES} trials took at most {max(used):.0%} of a GPU's memory: "
                f"from now on {round(1 / plan.gpus)} share one, {plan.slots} trials at a time"
            )

    def _turn(self) -> bool:
        """What is to be done in every turn of Tune's loop. Returns whether the study is to stop."""
        if self._control.outcome == "interrupted" and not self._stop_noted:
            self._progress.note("stopping; every trial keeps its newest checkpoint (Ctrl-C again: at once)")
            self._stop_noted = True
        if self._reader:
            self._reader.check()
        self._journal.check()
        self._look_at_storage()
        if not self._control.stopping:
            self._watchdog.look()
        self._follow_cluster()
        return self._control.stopping

    def _look_at_storage(self) -> None:
        """Say what the storage refuses, and stop the study if that lasts: it can be gone on with when it is mended."""
        refusals = sorted(self._recorder.refusals.items(), key=lambda item: item[1].since)
        if not refusals:
            if self._refused is not None:
                self._progress.note("the storage takes what it refused; the study goes on")
            self._refused = None
            return
        trial, refusal = refusals[0]
        patience = self._record.spec.failures.storage_wait_seconds
        if self._refused is None:
            self._progress.note(
                f"trial {trial} waits for the storage, up to {patience:g} s: {refusal.sentence} "
                "(it goes on when that is mended; Ctrl-C stops the study)"
            )
            self._refused = refusal.sentence
        if time.monotonic() - refusal.since > patience:
            self._control.stop("interrupted", f"the storage refused for {patience:g} s: {refusal.sentence}")

    def _follow_cluster(self) -> None:
        """Nodes come and go: have as many slots as there is room for, and say what trials wait for."""
        if time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        self._slots.resize(cluster.slots_now(self._record.spec.resources, self._plan))
        waiting = self._source.waiting()
        if waiting and waiting != self._waited_for:
            self._progress.note(
                f"{waiting} of the trials wait for {self._plan.each}: a slot starts, or a node must come"
            )
        self._waited_for = waiting

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the study in order; a second Ctrl-C stops it at once."""

        def stop(number: int, _: object) -> None:
            if self._control.stopping:
                raise KeyboardInterrupt
            self._control.stop("interrupted", signal.Signals(number).name)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _finish_tracking(tracker: TrackingProcess, name: str, console: Console) -> None:
    """Have MLflow take what is left, and say so if it takes nothing for a minute, or will never take something."""
    tracker.start()
    with console.status("MLflow gets the last events …"):
        left = tracker.finish(_TRACKING_PATIENCE_SECONDS)
    if left:
        console.print(
            f"MLflow takes nothing ({tracker.trouble}): {left} events wait; `python -m tuner resume {name}` sends them",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if tracker.skipped:
        console.print(tracker.skipped, style="yellow", highlight=False, markup=False, soft_wrap=True)
