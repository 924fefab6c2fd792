"""One run of a study, from its first slot to its last event."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator

import ray.tune
from rich.console import Console

from tuner.checks.nodes import Nodes
from tuner.display.live import Progress
from tuner.driver import cluster
from tuner.driver.control import StudyControl
from tuner.driver.recorder import Recorder
from tuner.driver.retention import Retention
from tuner.driver.slots import SlotPool
from tuner.driver.tune_adapter import StepHook, TrialSource, TuneEvents, WarmFifo
from tuner.driver.watchdog import Watchdog
from tuner.errors import StudyError
from tuner.events.event import Event, NodeDraining, RunBegan, RunEnded, StudyEnd, TrialEnded
from tuner.events.log import Journal
from tuner.events.state import StudyRecord
from tuner.storage.scratch import scratch
from tuner.storage.storage import Storage
from tuner.tracking.process import TrackingProcess
from tuner.worker.report_queue import QueueReader
from tuner.worker.trial_process import InDriver, tune_function

_MEMORY_PROBES = 3  # trials whose use of memory decides how many share a GPU
_CAPACITY_CHECK_SECONDS = 10.0
_FIRST_CHECKS_SECONDS = 60.0


class StudyRun:
    """One run of a study: sets up Ray Tune, and does the study's own work in each step of Tune's loop."""

    def __init__(
        self,
        record: StudyRecord,
        study: Storage,
        journal: Journal,
        tracker: TrackingProcess,
        plan: cluster.Plan,
        nodes: Nodes | None,
        console: Console,
    ):
        """nodes: those of the cluster that the study was given; None if the study started a Ray of its own."""
        self._record, self._study, self._plan, self._tracker = record, study, plan, tracker
        self._journal = journal
        self._progress = Progress(record, console, lambda: tracker.error, lambda: tracker.skipped)
        self._retention = Retention(record, study)
        self._slots = SlotPool(record.spec, study, plan)
        self._control = StudyControl(record.spec.budget.time_seconds)
        self._nodes = nodes
        self._recorder = Recorder(
            record,
            journal,
            self._control,
            [self._progress.event, self._on_event],
            *((nodes.placement, nodes.are_draining) if nodes else ()),
        )
        self._source = TrialSource(record, self._recorder, self._slots, self._control, self._progress.note)
        self._reader: QueueReader | None = None
        self._last_waiting = 0
        self._capacity_checked_at = time.monotonic()
        self._watchdog = Watchdog(self._recorder, self._source, self._control, study, self._progress.note)
        self._stop_noted = self._drain_noted = False
        self._storage_wait_noted = False

    def fit(self, began: RunBegan) -> None:
        self._recorder.write(began)
        self._tracker.start()
        self._retention.tidy()
        self._share_gpus()
        try:
            with self._progress, self._signals(), contextlib.closing(self._slots):
                self._fit()
        except KeyboardInterrupt:
            self._end("interrupted", "Ctrl-C, twice")
            raise
        except StudyError as error:
            # The user can fix the cause, a storage that can't be written for example, and resume the study.
            with contextlib.suppress(StudyError):
                self._end("interrupted", str(error))
            raise
        except BaseException as error:
            self._end("failed", f"{type(error).__name__}: {error}"[:500])
            raise
        self._retention.study_ended()
        self._end(self._control.outcome or "finished", self._control.reason)

    def _fit(self) -> None:
        spec, plan = self._record.spec, self._plan
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        # Tune's own files go to a scratch folder: the study has its own events and checkpoints.
        if self._nodes:
            self._check_nodes(self._nodes)
            if self._control.stopping:
                return
        with (
            scratch("tune") as folder,
            contextlib.closing(QueueReader(self._recorder.receive, self._journal.sync)) as self._reader,
        ):
            ray.tune.Tuner(
                ray.tune.with_resources(
                    tune_function(spec, self._study, self._reader.queue),
                    InDriver(lambda at: plan.trial_request(at["gpus"], at["slot_number"], at["left_out"])),
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
                    stop=StepHook(self._step),
                    callbacks=[TuneEvents(self._recorder, self._source, self._control)],
                    failure_config=ray.tune.FailureConfig(max_failures=spec.failures.max_retries),
                ),
            ).fit()

    def _end(self, state: StudyEnd, reason: str | None) -> None:
        self._recorder.write(RunEnded(time.time(), state, reason))

    def _on_event(self, event: Event) -> None:
        """Do what a trial's end requires: delete checkpoints, share GPUs, end a study whose trials all fail."""
        if not isinstance(event, TrialEnded):
            return
        self._retention.trial_ended(event.trial)
        self._share_gpus()
        state, reason = self._record.verdict()
        if state == "failed":
            self._control.stop("failed", reason or "")

    def _share_gpus(self) -> None:
        """`gpus_per_worker = "auto"`: let trials share GPUs, once a few of them have shown how much memory they use."""
        if self._plan.gpus != 1 or self._record.spec.resources.gpus_per_worker != "auto":
            return
        used = [trial.gpu_share for trial in self._record.ended if trial.gpu_share][:_MEMORY_PROBES]
        if len(used) < _MEMORY_PROBES:
            return
        plan = self._plan.sharing(self._record.spec.resources, max(used))
        if plan is not self._plan:
            self._plan = plan
            self._slots.use_plan(plan)
            self._progress.note(
                f"the first {_MEMORY_PROBES} trials used at most {max(used):.0%} of a GPU's memory: "
                f"from now on {round(1 / plan.gpus)} share one, {plan.slots} trials at a time"
            )

    def _step(self) -> bool:
        """The study's part of each step of Tune's loop. Returns whether the study is to stop."""
        if self._control.outcome == "interrupted" and not self._stop_noted:
            self._progress.note("stopping; every trial keeps its newest checkpoint (Ctrl-C again: at once)")
            self._stop_noted = True
        elif self._control.ending and not self._control.stopping and not self._drain_noted:
            self._progress.note(f"the study ends: {self._control.reason}; running trials end at their next report")
            self._drain_noted = True
        if self._reader:
            self._reader.check()
        self._journal.check()
        self._check_storage()
        if not self._control.stopping:
            self._watchdog.check()
        if self._nodes and not self._control.stopping:
            self._update_nodes(self._nodes)
        self._resize_slots()
        return self._control.stopping

    def _check_nodes(self, nodes: Nodes) -> None:
        """Wait for the checks of the nodes; for at most a minute once one has passed."""
        began = time.monotonic()
        self._progress.note("checking each node before its first trial: versions, data, storage")
        while True:
            self._update_nodes(nodes)
            waited_long = time.monotonic() - began > _FIRST_CHECKS_SECONDS and nodes.some_passed
            if self._control.stopping or not nodes.being_checked or waited_long:
                break
            time.sleep(0.1)
        if nodes.none_left:
            raise StudyError(str(self._control.reason))
        self._slots.resize(cluster.slots_that_fit(self._record.spec.resources, self._plan, nodes.left_out))

    def _update_nodes(self, nodes: Nodes) -> None:
        for event in nodes.poll():
            self._recorder.write(event)
            if isinstance(event, NodeDraining):
                self._capacity_checked_at = -_CAPACITY_CHECK_SECONDS  # no slot may count on that node
        self._slots.leave_out(nodes.left_out, bool(nodes.being_checked))
        if nodes.none_left:
            self._control.stop(
                "interrupted",
                f"no node can run trials: {_first('; ', nodes.problems)}; fix one, then "
                f"`python -m tuner resume {self._record.spec.name}`",
            )

    def _check_storage(self) -> None:
        """Report a failure of the storage; stop the study if it lasts too long, to be resumed when it is fixed."""
        # A copy: the reader's thread changes the dictionary meanwhile.
        problems = sorted(self._recorder.storage_problems.items(), key=lambda item: item[1].since)
        if not problems:
            if self._storage_wait_noted:
                self._progress.note("the storage works again; the study continues")
            self._storage_wait_noted = False
            return
        trial, problem = problems[0]
        patience = self._record.spec.failures.storage_wait_seconds
        if not self._storage_wait_noted:
            self._progress.note(
                f"trial {trial} waits for the storage, up to {patience:g} s: {problem.message} "
                "(it continues when this is fixed; Ctrl-C stops the study)"
            )
            self._storage_wait_noted = True
        if time.monotonic() - problem.since > patience:
            self._control.stop("interrupted", f"the storage refused for {patience:g} s: {problem.message}")

    def _resize_slots(self) -> None:
        """Adapt the number of slots to the nodes that are there, and report trials that wait for a slot to start."""
        if time.monotonic() - self._capacity_checked_at < _CAPACITY_CHECK_SECONDS:
            return
        self._capacity_checked_at = time.monotonic()
        left_out = self._nodes.left_out if self._nodes else frozenset()
        self._slots.resize(cluster.slots_that_fit(self._record.spec.resources, self._plan, left_out))
        waiting = self._source.waiting()
        if waiting and waiting != self._last_waiting:
            checked = _first(", ", self._nodes.being_checked) if self._nodes else ""
            self._progress.note(
                f"trials that wait for {self._plan.per_trial}: {waiting}; "
                "their slots are starting, or a node has to join the cluster"
                + (f"; nodes being checked: {checked}" if checked else "")
            )
        self._last_waiting = waiting

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the study cleanly; a second Ctrl-C stops it at once."""

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


def _first(separator: str, nodes: list[str]) -> str:
    """The first three of what is said of nodes, and how many more there are: a cluster may have hundreds."""
    more = [f"and {len(nodes) - 3} more"] if len(nodes) > 3 else []
    return separator.join([*nodes[:3], *more])
