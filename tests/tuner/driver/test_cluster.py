"""What fits on what there is, with the arithmetic where it doesn't."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.studies import write_study
from tuner.driver.cluster import connected, plan
from tuner.errors import StudyError
from tuner.spec.study import Resources


def slots(cpus: float, gpus: float, **resources: Any) -> int:
    return plan(Resources(**resources), cpus, gpus).slots


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "expected"),
    [
        ({}, 2, 0, 2),
        ({"cpus_per_worker": 2}, 7, 0, 3),
        ({"cpus_per_worker": 0.5}, 2, 0, 4),
        ({"workers": 2}, 8, 0, 4),
        ({"workers": 2, "cpus_per_worker": 2}, 8, 0, 2),
        ({}, 16, 4, 4),
        ({"workers": 2}, 16, 5, 2),
        ({"workers": 4}, 16, 2, 4),  # fewer GPUs than workers: "auto" takes CPUs
        ({"gpus_per_worker": 0}, 16, 4, 16),
        ({"gpus_per_worker": 0.25}, 16, 2, 8),
        ({"gpus_per_worker": 0.4}, 16, 2, 4),  # two to a GPU; the rests of two GPUs are not one share
        ({"gpus_per_worker": 2, "cpus_per_worker": 1}, 16, 5, 2),
        ({"gpus_per_worker": 1, "cpus_per_worker": 8}, 16, 4, 2),
        ({"max_concurrent_trials": 3}, 16, 4, 3),
    ],
)
def test_as_many_trials_run_at_a_time_as_fit(resources: dict[str, Any], cpus: int, gpus: int, expected: int) -> None:
    assert slots(cpus, gpus, **resources) == expected


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"gpus_per_worker": 1}, "a trial of 1 worker of 1 GPU needs 1 GPUs; there are 0: set gpus_per_worker = 0"),
        ({"workers": 3}, "a trial of 3 workers of 1 CPU needs 3 CPUs; there are 2"),
        (
            {"max_concurrent_trials": 3},
            "3 trials of 1 CPUs and 0 GPUs need 3 CPUs and 0 GPUs; there are 2 and 0: "
            'set max_concurrent_trials to 2 or fewer, or "auto"',
        ),
    ],
)
def test_what_can_never_fit_is_refused_with_the_arithmetic(resources: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StudyError) as caught:
        plan(Resources(**resources), 2, 0)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("used", "gpus", "resources", "slots", "share"),
    [
        (0.2, 2, {}, 8, 1 / 4),
        (0.31, 1, {}, 2, 1 / 2),
        (0.15, 1, {}, 6, 0.1666),  # what Ray would round up,
        (0.46, 4, {}, 4, 1),  # two of them would not fit
        (0.05, 1, {}, 16, 0.0555),  # the CPUs are the limit
        (0.05, 1, {"cpus_per_worker": 4}, 4, 0.0555),
        (0.2, 2, {"max_concurrent_trials": 2}, 2, 1 / 4),
        (0.2, 2, {"workers": 2}, 4, 1 / 4),
        (0.2, 2, {"gpus_per_worker": 1}, 2, 1),  # what a person says holds
    ],
)
def test_as_many_trials_share_a_gpu_as_its_memory_holds(
    used: float, gpus: int, resources: dict[str, Any], slots: int, share: float
) -> None:
    table = Resources(**resources)
    shared = plan(table, 16, gpus).sharing(table, used)
    assert (shared.slots, shared.gpus) == (slots, share)


def test_a_study_without_gpus_shares_none() -> None:
    table = Resources()
    alone = plan(table, 8, 0)
    assert alone.sharing(table, 0.1) is alone


def test_a_plan_reads_as_a_sentence() -> None:
    assert str(plan(Resources(workers=2), 8, 4)) == (
        "2 trials at a time, each on 2 workers of 1 GPU; there are 8 CPUs and 4 GPUs"
    )


@pytest.mark.slow
def test_an_address_without_a_ray_is_reported() -> None:
    with (
        pytest.raises(StudyError, match=r"--address 127\.0\.0\.1:1: a running Ray is needed there"),
        connected("127.0.0.1:1"),
    ):
        pass


def test_a_ray_that_requires_a_token_is_reported_in_a_sentence(tmp_path: Path) -> None:
    """In a process of its own: Ray reads these settings when it is imported."""
    study = write_study(tmp_path / "roads.toml")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        command = [sys.executable, "-m", "tuner", "check", str(study), "--address", address]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: --address {address}: a running Ray is needed there, got: Token")
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH" in done.stderr
    assert done.stderr.count("\n") == 1
