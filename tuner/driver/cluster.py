"""Connects to the Ray that a study runs on, its own or a cluster's, and plans how many trials fit on it."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
import ray._private.state
import ray._private.worker
import ray.exceptions
import ray.tune
from ray._common.utils import get_default_ray_temp_dir
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

from tuner.checks.nodes import alive_nodes
from tuner.checks.ray_access import private_token, reachable
from tuner.driver import autoscaler, local_ray
from tuner.errors import StudyError, first_line
from tuner.spec.study_tables import Resources

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray runs its workers at nice 15: beside anything else that computes on the machine, such as another person's data
    # loaders, a trial would get a thirtieth of a core. With the driver's priority it gets what a training script would.
    "RAY_worker_niceness": "0",
    # Ray refuses a variable that its job and the study both set. The job's value is in this process too, and is kept.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # slots start side by side; the study limits them
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be silenced completely
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same everywhere
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # trials report to the recorder, not to Tune
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study has its own handler
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # snapshots for a restore that a study doesn't use
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # A stopped trial's thread may be busy for a while; Tune would drop the trial after it.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    # The study itself watches which nodes are drained. Ray Train's watcher is one more process for each worker group.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # The C library hands memory of megabytes back as soon as it is freed, and gets it back page by page, cleared, for
    # the next layer's result. Kept until a trial ends, FCN-8s at full width trains a quarter faster on CPUs.
    "GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=4294967296"
    ":glibc.malloc.trim_threshold=4294967296",
}
_NODES_SECONDS = 300.0
_USABLE_MEMORY = 0.9  # of a GPU; the rest is lost to fragmentation in the processes' allocators
_SAID_BY_THE_STUDY = re.compile(r"The node with node id: \S+ .*has been marked dead|Raylet is terminated")
_MOST_CHARACTERS = 300  # of a message of Ray's

# Ray reads these variables when it is imported; the processes that it starts inherit them.
os.environ.update({key: value for key, value in _ENVIRONMENT.items() if key not in os.environ})


@dataclass(frozen=True)
class Plan:
    """How many trials run at a time, and what each of them gets."""

    slots: int
    cpus: float
    """Of each worker."""
    gpus: float
    """Of each worker."""
    workers: int
    """Of each trial."""
    cluster_cpus: float
    cluster_gpus: float
    """The cluster's, with the nodes that an autoscaler can add."""

    def trial_request(
        self, gpus: float, slot_number: int, left_out: frozenset[str] = frozenset()
    ) -> ray.tune.PlacementGroupFactory:
        """The resources that Tune reserves for a slot's process. left_out: ids of nodes on which it isn't placed.

        Tune lets a trial reuse any process that was started with the same request. So that each slot keeps its own, the
        requests differ: each asks for as many bytes of memory as the slot's number.
        """
        if self.workers > 1:
            # The group requests its workers' resources itself. A share of a CPU here could be what a worker lacks.
            return _request(left_out, memory=slot_number)
        return _request(left_out, CPU=self.cpus, GPU=gpus, memory=slot_number)

    def sharing(self, resources: Resources, used: float) -> Plan:
        """The plan with as many workers on each GPU as fit into its memory. used: the largest share that one used."""
        on_one = int(_USABLE_MEMORY / used)
        if resources.gpus_per_worker != "auto" or self.gpus != 1 or on_one < 2:
            return self
        # Ray rounds to ten thousandths: six workers of 0.1667 would be more than one GPU.
        gpus = math.floor(10_000 / on_one) / 10_000
        fits = _fits(resources, gpus, self.cluster_cpus, self.cluster_gpus)
        wanted = resources.max_concurrent_trials
        return replace(self, gpus=gpus, slots=fits if wanted == "auto" else min(wanted, fits))

    @property
    def per_trial(self) -> str:
        """The resources of one trial, in words."""
        device = f"{self.gpus:g} GPU" if self.gpus else f"{self.cpus:g} CPU"
        return device if self.workers == 1 else f"{self.workers} workers of {device}"

    def __str__(self) -> str:
        return (
            f"{self.slots} trial{'s' if self.slots > 1 else ''} at a time, each on {self.per_trial}; "
            f"there are {self.cluster_cpus:g} CPUs and {self.cluster_gpus:g} GPUs"
        )


@functools.cache
def _request(left_out: frozenset[str], **resources: float) -> ray.tune.PlacementGroupFactory:
    """Cached, since Tune keeps the request of every trial to the study's end."""
    labels = labels_excluding(left_out)
    options: dict[str, Any] = {"bundle_label_selector": [labels]} if labels else {}
    return ray.tune.PlacementGroupFactory([resources], **options)


def labels_excluding(left_out: frozenset[str]) -> dict[str, str] | None:
    """A label selector of Ray that matches all nodes but these, given by their ids; None to match any node."""
    # A negative selector: an autoscaler starts no node for a selector that requires a certain id.
    return {"ray.io/node-id": f"!in({','.join(sorted(left_out))})"} if left_out else None


def plan(resources: Resources, cpus: float, gpus: float) -> Plan:
    """Plan trials on this many CPUs and GPUs. Raises StudyError, with the arithmetic, if the study doesn't fit."""
    per_worker = resources.gpus_per_worker
    share = (1.0 if gpus >= resources.workers else 0.0) if per_worker == "auto" else float(per_worker)
    need_cpus, need_gpus = resources.workers * resources.cpus_per_worker, resources.workers * share
    workers = f"{resources.workers} worker{'s' if resources.workers > 1 else ''} of"
    if need_gpus > gpus:
        raise StudyError(
            f"resources.gpus_per_worker: a trial of {workers} {share:g} GPU needs {need_gpus:g} GPUs; "
            f"there are {gpus:g}: set gpus_per_worker = 0 to train on CPUs, or give --address of a cluster with GPUs"
        )
    if need_cpus > cpus:
        raise StudyError(
            f"resources.cpus_per_worker: a trial of {workers} {resources.cpus_per_worker:g} CPU needs "
            f"{need_cpus:g} CPUs; there are {cpus:g}: set cpus_per_worker or workers lower"
        )
    fits = _fits(resources, share, cpus, gpus)
    wanted = resources.max_concurrent_trials
    if wanted != "auto" and wanted > fits:
        raise StudyError(
            f"resources.max_concurrent_trials: {wanted} trials of {need_cpus:g} CPUs and {need_gpus:g} GPUs need "
            f"{wanted * need_cpus:g} CPUs and {wanted * need_gpus:g} GPUs; there are {cpus:g} and {gpus:g}: "
            f'set max_concurrent_trials to {fits} or fewer, or "auto"'
        )
    slots = fits if wanted == "auto" else wanted
    return Plan(slots, resources.cpus_per_worker, share, resources.workers, cpus, gpus)


def plan_with_nodes(resources: Resources, capacity: tuple[float, float], note: Callable[[str], None]) -> Plan:
    """The plan for a cluster's capacity (CPUs, GPUs). Waits for nodes if there are none yet, as just after `ray up`.

    note: shows a message to the user.
    Raises StudyError if the study doesn't fit, after minutes of waiting if there were no nodes at first.
    """
    if capacity[0] > 0:
        return plan(resources, *capacity)
    note(f"this Ray has no node for trials yet: waiting for nodes, up to {_NODES_SECONDS / 60:g} minutes")
    until = time.monotonic() + _NODES_SECONDS
    while True:
        try:
            return plan(resources, *_capacity())
        except StudyError as error:
            if time.monotonic() > until:
                raise StudyError(
                    f"{error}; no more has joined within {_NODES_SECONDS / 60:g} minutes: see `ray status` there"
                ) from None
        time.sleep(1.0)


def slots_that_fit(resources: Resources, plan: Plan, left_out: frozenset[str] = frozenset()) -> int:
    """How many slots the cluster has room for now. At least one: if there is no room, its trial waits for a node.

    left_out: ids of nodes that get no trials.
    """
    fits = _fits(resources, plan.gpus, *_capacity(left_out))
    wanted = resources.max_concurrent_trials
    return max(1, fits if wanted == "auto" else min(fits, wanted))


def _fits(resources: Resources, gpus_per_worker: float, cpus: float, gpus: float) -> int:
    by_cpu = int(cpus // (resources.workers * resources.cpus_per_worker))
    if gpus_per_worker == 0:
        return by_cpu
    if gpus_per_worker < 1:
        # A worker's share of a GPU must come from one GPU.
        return min(by_cpu, int(gpus) * int(1 / gpus_per_worker) // resources.workers)
    return min(by_cpu, int(gpus // (resources.workers * gpus_per_worker)))


def machine_capacity() -> tuple[float, float]:
    """(CPUs, GPUs) of this machine that this process may use."""
    accelerators: Any = get_accelerator_manager_for_resource("GPU")
    gpus = accelerators.get_current_node_num_accelerators()
    visible = accelerators.get_current_process_visible_accelerator_ids()
    return float(len(os.sched_getaffinity(0))), float(gpus if visible is None else min(gpus, len(visible)))


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[tuple[float, float]]:
    """A block in which Ray is connected. Yields its (CPUs, GPUs).

    address: None to start a Ray on this machine, which ends with the block.
    Raises StudyError if there is no Ray at the address, or if it can't be used from here.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "tuner"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(messages_shortened())
        try:
            if address is None:
                stack.enter_context(private_token())
                cpus, gpus = machine_capacity()
                resources: dict[str, Any] = {"num_cpus": int(cpus), "num_gpus": int(gpus)}
                with local_ray.few_processes():
                    ray.init(address="local", include_dashboard=False, **resources, **options)
            else:
                found = stack.enter_context(reachable(address))
                environment = {name: os.environ[name] for name in _ENVIRONMENT}
                ray.init(address=found, runtime_env={"env_vars": environment}, **options)
        except StudyError:
            raise
        except Exception as error:  # Ray has none of its own for a start that takes too long
            raise StudyError(_why_not(address, error)) from None
        stack.callback(ray.shutdown)
        if address is None:
            stack.enter_context(local_ray.ended_with_driver(ray.get_runtime_context().get_session_name()))
        yield _capacity()


def _why_not(address: str | None, error: Exception) -> str:
    """In a sentence, why Ray can't be used."""
    if address:
        return f"--address {address}: that Ray can't be used: {first_line(error)}"
    folder: str = get_default_ray_temp_dir()  # type: ignore[no-untyped-call]
    if isinstance(error, UnicodeEncodeError) or "AF_UNIX path length" in str(error):
        return (
            f"Ray's temporary folder must have a short path of ASCII characters, got {folder} ({first_line(error)}): "
            "set RAY_TMPDIR to another one, such as /tmp"
        )
    return f"Ray does not start on this machine: {first_line(error)}; its logs are in {folder}/session_latest/logs"


@contextlib.contextmanager
def messages_shortened() -> Iterator[None]:
    """A block in which Ray's messages to its driver are shortened. Ray prints them even with log_to_driver = False."""
    original = ray._private.worker.print_to_stdstream
    ray._private.worker.print_to_stdstream = _print_messages
    try:
        yield
    finally:
        ray._private.worker.print_to_stdstream = original


def _print_messages(data: dict[str, Any], ignore_prefix: bool) -> None:
    del ignore_prefix
    for message in data["lines"]:
        if line := message_line(message):
            print(line, file=sys.stderr if data["is_err"] else sys.stdout, flush=True)


def message_line(message: str) -> str | None:
    """A message of Ray's as a line; None if the study says the same."""
    words = " ".join(message.split())
    if not words or _SAID_BY_THE_STUDY.match(words):
        return None
    return f"Ray: {words}" if len(words) <= _MOST_CHARACTERS else f"Ray: {words[:_MOST_CHARACTERS]} …"


def remove_orphaned_groups() -> None:
    """Remove the placement groups of this job whose creator's process has died.

    Ray would hold their CPUs and GPUs until the job ends. Ray Train's own cleanup needs the dashboard, which a study's
    Ray doesn't have.
    """
    job = ray.get_runtime_context().get_job_id()
    table: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # generated when Ray is built
    for data in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = table.FromString(data)
        made_by_actor = bool(group.creator_actor_id.strip(b"\xff"))
        if (
            made_by_actor
            and group.creator_actor_dead
            and group.creator_job_id.hex() == job
            and group.state != table.REMOVED
        ):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def _capacity(left_out: frozenset[str] = frozenset()) -> tuple[float, float]:
    """(CPUs, GPUs) of all nodes but these, with the nodes that an autoscaler can add."""
    present = cast(dict[str, float], ray.cluster_resources())  # type: ignore[no-untyped-call]
    possible = autoscaler.limits(ray.get_runtime_context().gcs_address)
    excluded = [node["Resources"] for node in alive_nodes() if node["NodeID"] in left_out] if left_out else []
    cpus, gpus = (
        float(max(present.get(key, 0), possible.get(key, 0)) - sum(node.get(key, 0) for node in excluded))
        for key in ("CPU", "GPU")
    )
    return cpus, gpus
