"""What Ray Tune calls once a trial, in a process that it keeps (reuse_actors) and gives the next trial.

A trial of one worker trains in that process. A trial of N workers trains on a worker group (group.py), which belongs to
the process that runs the study, and this one only waits for it. Nothing of the driver is imported here: a process
would start later for it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from tuner.spec.study import StudySpec
from tuner.spec.workload import uses_torch
from tuner.storage.storage import Storage
from tuner.worker.group import GroupNotStartedError, SlotDiedError, group_slot, quiet_run, ray_get
from tuner.worker.messages import Action, Assignment, Begun, Interruption, Send
from tuner.worker.report_queue import sender

_ASK_SECONDS = 1.0


@dataclass
class _Process:
    """All that a slot's process remembers from one trial to the next."""

    tainted: bool = False


_process = _Process()
_in_driver: dict[int, Callable[[dict[str, Any]], Any]] = {}


class InDriver:
    """A function of a trial's config that Tune calls in the driver alone, but pickles for the trials' processes too.

    There it is nothing, so that they import nothing of the driver.
    """

    def __init__(self, function: Callable[[dict[str, Any]], Any]):
        self._key = id(self)
        _in_driver[self._key] = function

    def __call__(self, config: dict[str, Any]) -> Any:
        return _in_driver[self._key](config)


def tune_function(spec: StudySpec, study: Storage, queue: Any) -> Callable[[dict[str, Any]], None]:
    """The function that Ray Tune calls once a trial, in a process that it keeps. queue: a ReportQueue.

    It returns when the trial has sent its end, and reports nothing to Tune.
    """

    def trial(config: dict[str, Any]) -> None:
        assignment = Assignment(config["trial"], config["params"], config["suggested_at"], config["gpus"], queue)
        if config["group"] is None:
            _run_here(assignment, spec, study)
        else:
            _run_on_group(assignment, config["group"])

    return trial


def _run_here(assignment: Assignment, spec: StudySpec, study: Storage) -> None:
    """Train in this process; with torch, through Ray Train's local mode on the device that Ray assigned."""
    if _process.tainted and spec.failures.max_retries:
        # Tune then runs the trial in a new process.
        os._exit(1)

    from tuner.worker.trial import run_trial

    send = sender(assignment)
    if not _may_run_here(send):
        return

    def loop(device: Any = None) -> None:
        _process.tainted = run_trial(assignment, spec, study, device=device, rank=0, send=send, send_from_rank=send)

    if not uses_torch(spec.workload):
        loop()
        return

    import ray.train.torch

    trainer = ray.train.torch.TorchTrainer(
        lambda: loop(ray.train.torch.get_device()),
        scaling_config=ray.train.ScalingConfig(num_workers=0),
        run_config=quiet_run(f"trial-{assignment.trial}", tempfile.gettempdir()),
    )
    trainer.fit()


def _may_run_here(send: Send) -> bool:
    """Ask the driver whether this attempt may begin on this node; waits while the node is being checked."""
    begun = Begun((ray.get_runtime_context().get_node_id(),))
    while (action := send(begun).action) is Action.WAIT:
        time.sleep(_ASK_SECONDS)
    return action is Action.CONTINUE


def _run_on_group(assignment: Assignment, slot_name: str) -> None:
    """Train on a worker group. Its slot sends the trial's messages."""
    try:
        ray_get(group_slot(slot_name).run.remote(assignment))
    except (ray.exceptions.RayActorError, SlotDiedError):
        # If it were raised, Tune would retry on the slot that is gone.
        sender(assignment)(Interruption("the process that holds its worker group died"))
    except GroupNotStartedError as error:
        # The lines before the last are Ray's traceback.
        sender(assignment)(Interruption(str(error).strip().rpartition("\n")[2].partition(": ")[2], at_start=True))
