"""Of what processes died that really died."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import ray.exceptions
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from tuner.worker import death

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with warnings.catch_warnings(action="ignore"):  # it leaves files open
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        yield
        ray.shutdown()


def dying() -> Any:
    """An actor that dies on request; a class of this module couldn't be imported where it runs."""

    class Dying:
        def die(self, how: str) -> None:
            if how == "SIGSEGV":
                ctypes.string_at(0)
            if how == "exit":
                os._exit(1)
            os.kill(os.getpid(), signal.Signals[how])

    return ray.remote(Dying).options(num_cpus=0).remote()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("how", "cause", "advice"),
    [
        ("SIGSEGV", "SIGSEGV", "a native library crashed in it; try other hyperparameters"),
        ("SIGABRT", "SIGABRT", "a native library crashed in it"),
        ("SIGBUS", "SIGBUS", "make room in /dev/shm"),
        ("SIGTERM", "SIGTERM", "something on its machine ended it"),
        ("SIGKILL", "SIGKILL, or an exit without a message", "set resources.max_concurrent_trials lower"),
        ("exit", "SIGKILL, or an exit without a message", "most often the machine's memory ran out"),
    ],
)
def test_the_signal_that_a_process_died_of_is_named(local_ray: None, how: str, cause: str, advice: str) -> None:
    actor = dying()
    with pytest.raises(ray.exceptions.RayActorError) as died:
        ray.get(actor.die.remote(how))
    assert death.cause_of(died.value) == cause, str(died.value)
    assert advice in death.failure_message([cause])


def test_the_number_and_causes_of_deaths_are_reported() -> None:
    assert death.failure_message(["SIGSEGV"] * 4).startswith(
        "its process died 4 times (SIGSEGV): a native library crashed"
    )
    mixed = death.failure_message(["SIGBUS", "SIGSEGV", "SIGSEGV"])
    assert mixed.startswith("its process died 3 times (SIGSEGV × 2, SIGBUS × 1): a native library crashed")
    assert death.failure_message(["no idea"]) == "its process died once (no idea): see Ray's logs"


def test_a_group_says_which_rank_died() -> None:
    error: Any = RuntimeError("two lines\nof it")
    met = WorkerHealthCheckFailedError("A worker health check failed.", ray.exceptions.RayActorError())
    error.worker_failures = {0: ValueError("reset"), 1: met}
    assert death.cause_of_group(error) == f"the process of rank 1 died ({death.SIGKILL_OR_EXIT})"
    assert death.cause_of_group(RuntimeError("first\nlast")) == "last"
