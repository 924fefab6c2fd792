"""What fits on what there is, with the arithmetic where it doesn't."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.environment import of_a_person
from tests.studies import write_study
from tuner.driver import cluster
from tuner.driver.cluster import plan, plan_with_nodes
from tuner.errors import StudyError
from tuner.spec.study_tables import Resources

ROOT = Path(__file__).parents[3]


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


def test_a_study_waits_for_nodes_where_none_takes_trials_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    there = iter([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)])
    notes: list[str] = []
    monkeypatch.setattr(cluster, "_capacity", lambda: next(there))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    found = plan_with_nodes(Resources(workers=2), (0.0, 0.0), notes.append)
    assert found.cluster_cpus == 2
    assert notes == ["this Ray has no node for trials yet: waiting for nodes, up to 5 minutes"]
    with pytest.raises(StudyError, match="needs 2 CPUs; there are 1"):
        plan_with_nodes(Resources(workers=2), (1.0, 0.0), notes.append)
    assert len(notes) == 1, "a study that doesn't fit on the nodes that are there is told so at once"


def test_a_study_does_not_wait_for_ever_for_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_capacity", lambda: (0.0, 0.0))
    monkeypatch.setattr(cluster, "_NODES_SECONDS", 0.0)
    with pytest.raises(StudyError, match=r"there are 0: .* within 0 minutes: see `ray status` there"):
        plan_with_nodes(Resources(), (0.0, 0.0), lambda sentence: None)


# What a machine looks like that is so busy that the raylet doesn't get its turn.
WITHOUT_RAYLET = """
import runpy
from ray._private import services
start = services.start_ray_process
def changed(command, kind, *rest, **named):
    return start(["sleep", "infinity"] if kind == "raylet" else command, kind, *rest, **named)
services.start_ray_process = changed
runpy.run_module("tuner", run_name="__main__")
"""


@pytest.mark.slow
def test_a_ray_that_does_not_start_in_time_is_reported_in_one_sentence(tmp_path: Path) -> None:
    study = write_study(tmp_path / "street.toml")
    command = [sys.executable, "-c", WITHOUT_RAYLET, "run", str(study), "--storage", str(tmp_path / "studies")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: Ray does not start on this machine: The current node timed out during startup." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "name"), [("RAY_TMPDIR", "ä"), ("TMPDIR", "job-" + "0" * 100)])
def test_a_temporary_folder_that_ray_cannot_use_is_told_with_what_to_set(
    tmp_path: Path, variable: str, name: str
) -> None:
    study = write_study(tmp_path / "street.toml")
    folder = tmp_path / name
    folder.mkdir()
    command = [sys.executable, "-m", "tuner", "run", str(study), "--storage", str(tmp_path / "studies")]
    done = subprocess.run(
        command, cwd=ROOT, env=of_a_person() | {variable: str(folder)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    told = " ".join(done.stderr.split())
    assert f"Ray's temporary folder must have a short path of ASCII characters, got {folder}/ray" in told
    assert "set RAY_TMPDIR to another one" in told
    assert "Traceback" not in done.stderr
