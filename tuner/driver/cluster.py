"""The Ray that a study runs on: this machine's own, or one that is there already; and what fits on it."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
import ray._private.state
import ray.exceptions
import ray.tune
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

from tuner.checks.nodes import alive_nodes
from tuner.checks.ray_access import own_token, reached
from tuner.driver import autoscaler, ray_cleanup
from tuner.errors import StudyError
from tuner.spec.study import Resources

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # slots start side by side; the study limits them
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be silenced whole
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same everywhere
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's last message is its end, not a measure
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study has one of its own
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # snapshots for a restore that a study doesn't use
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # A stopped trial's thread may be busy for a while; Tune would drop the trial after it.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    # The C library hands memory of megabytes back as soon as it is freed, and gets it back page by page, cleared, for
    # the next layer's result. Kept until a trial ends, FCN-8s at full width trains a quarter faster on CPUs.
    "GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=4294967296"
    ":glibc.malloc.trim_threshold=4294967296",
}
_NODES_SECONDS = 300.0
_USABLE_MEMORY = 0.9  # of a GPU: what is left over is for allocators that don't fit into each other

# Ray reads them when it is imported and when it starts its processes, which inherit them.
os.environ.update({key: value for key, value in _ENVIRONMENT.items() if key not in os.environ})


@dataclass(frozen=True)
class Plan:
    """How a study's trials are laid over what there is."""

    slots: int
    cpus: float
    """A worker's."""
    gpus: float
    """A worker's."""
    workers: int
    """A trial's."""
    cluster_cpus: float
    cluster_gpus: float
    """What there is, or can be where an autoscaler adds machines."""

    def trial_request(
        self, gpus: float, place: int, left_out: frozenset[str] = frozenset()
    ) -> ray.tune.PlacementGroupFactory:
        """What Tune sets aside for the process of the slot at this place. left_out: ids of nodes that it isn't put on.

        By what trials ask for, Tune tells whether one can have another's process: the slots ask for different bytes.
        """
        if self.workers > 1:
            # A group's workers are asked for by the group; any share of a CPU could be the one that a worker needs.
            return _request(left_out, memory=place)
        return _request(left_out, CPU=self.cpus, GPU=gpus, memory=place)

    def sharing(self, resources: Resources, used: float) -> Plan:
        """This plan with as many workers on a GPU as its memory holds. used: the most that one took of it, 0 to 1."""
        on_one = int(_USABLE_MEMORY / used)
        if resources.gpus_per_worker != "auto" or self.gpus != 1 or on_one < 2:
            return self
        # Ray counts in ten thousandths, and rounds: six times 0.1667 is more than there is.
        gpus = math.floor(10_000 / on_one) / 10_000
        fits = _fits(resources, gpus, self.cluster_cpus, self.cluster_gpus)
        wanted = resources.max_concurrent_trials
        return replace(self, gpus=gpus, slots=fits if wanted == "auto" else min(wanted, fits))

    @property
    def each(self) -> str:
        """What one trial takes."""
        device = f"{self.gpus:g} GPU" if self.gpus else f"{self.cpus:g} CPU"
        return device if self.workers == 1 else f"{self.workers} workers of {device}"

    def __str__(self) -> str:
        return (
            f"{self.slots} trial{'s' if self.slots > 1 else ''} at a time, each on {self.each}; "
            f"there are {self.cluster_cpus:g} CPUs and {self.cluster_gpus:g} GPUs"
        )


@functools.cache
def _request(left_out: frozenset[str], **resources: float) -> ray.tune.PlacementGroupFactory:
    """One for all trials that ask alike: Tune keeps every trial, and its request with it."""
    labels = labels_without(left_out)
    options: dict[str, Any] = {"bundle_label_selector": [labels]} if labels else {}
    return ray.tune.PlacementGroupFactory([resources], **options)


def labels_without(left_out: frozenset[str]) -> dict[str, str] | None:
    """What Ray's labels of a node must be for it to be none of these; None if that's any node."""
    # By what a node must not be: an autoscaler starts nodes for it, which it doesn't for nodes that must have an id.
    return {"ray.io/node-id": f"!in({','.join(sorted(left_out))})"} if left_out else None


def plan(resources: Resources, cpus: float, gpus: float) -> Plan:
    """Lay trials over this many CPUs and GPUs. Raises StudyError, with the arithmetic, if the study can't fit."""
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
    """The plan for a cluster's capacity. Where no node takes trials yet, as just after `ray up`, waits for nodes.

    Raises StudyError if the study can't fit, or not on what has come after minutes.
    """
    if capacity[0] > 0:
        return plan(resources, *capacity)
    note(f"no node of this Ray takes trials yet: waiting for nodes, up to {_NODES_SECONDS / 60:g} minutes")
    until = time.monotonic() + _NODES_SECONDS
    while True:
        try:
            return plan(resources, *_capacity())
        except StudyError as error:
            if time.monotonic() > until:
                raise StudyError(
                    f"{error}; this is what there was after {_NODES_SECONDS / 60:g} minutes: look at `ray status` there"
                ) from None
        time.sleep(1.0)


def slots_now(resources: Resources, plan: Plan, left_out: frozenset[str] = frozenset()) -> int:
    """How many slots the nodes that are there now have room for; at least one, whose trial then waits for a node.

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
        # A share can't be pieced together from two devices.
        return min(by_cpu, int(gpus) * int(1 / gpus_per_worker) // resources.workers)
    return min(by_cpu, int(gpus // (resources.workers * gpus_per_worker)))


def machine_capacity() -> tuple[float, float]:
    """CPUs and GPUs of this machine that this process may use."""
    accelerators: Any = get_accelerator_manager_for_resource("GPU")
    gpus = accelerators.get_current_node_num_accelerators()
    visible = accelerators.get_current_process_visible_accelerator_ids()
    return float(len(os.sched_getaffinity(0))), float(gpus if visible is None else min(gpus, len(visible)))


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[tuple[float, float]]:
    """Ray, quiet, and what it has: (CPUs, GPUs). address None: a Ray of this machine's own, ended with the block.

    Raises StudyError if there is no Ray at the address, or none that can be used from here.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "tuner"}
    with contextlib.ExitStack() as stack:
        try:
            if address is None:
                stack.enter_context(own_token())
                cpus, gpus = machine_capacity()
                ray.init(address="local", num_cpus=int(cpus), num_gpus=int(gpus), include_dashboard=False, **options)
            else:
                found = stack.enter_context(reached(address))
                ray.init(address=found, runtime_env={"env_vars": _ENVIRONMENT}, **options)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            what = f"--address {address}: that Ray can't be used" if address else "Ray does not start on this machine"
            raise StudyError(
                f"{what}: {str(error).splitlines()[0]}; its logs are in /tmp/ray/session_latest/logs"
            ) from None
        stack.callback(ray.shutdown)
        if address is None:
            stack.enter_context(ray_cleanup.ended_with_driver(ray.get_runtime_context().get_session_name()))
        yield _capacity()


def remove_orphaned_groups() -> None:
    """Free what worker groups of this job hold whose maker's process is gone.

    Such a placement group belongs to the job: until that ends nobody else gets its CPUs and GPUs. Ray Train's own
    cleaner asks the dashboard, which a study's Ray doesn't have.
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
    """CPUs and GPUs of all nodes but these, or those that an autoscaler may bring it to, if these are more."""
    now = cast(dict[str, float], ray.cluster_resources())  # type: ignore[no-untyped-call]
    later = autoscaler.limits(ray.get_runtime_context().gcs_address)
    useless = [node["Resources"] for node in alive_nodes() if node["NodeID"] in left_out] if left_out else []
    cpus, gpus = (
        float(max(now.get(key, 0), later.get(key, 0)) - sum(node.get(key, 0) for node in useless))
        for key in ("CPU", "GPU")
    )
    return cpus, gpus
