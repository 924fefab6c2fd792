"""Studies of one-worker trials on a real local Ray."""

from __future__ import annotations

import collections
import shutil
import statistics
from pathlib import Path

import pytest

from tests.integration.study_process import curves, events, running, show, tuner
from tests.studies import write_study
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]


def test_the_same_study_in_two_storages_at_once_gives_the_same_metrics(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    file = write_study(
        tmp_path / "twin.toml",
        budget={"trials": 14},
        space={"batch_size": {"type": "int", "low": 1, "high": 64, "log": True}},
        fixed={"epochs": 4, "step_seconds": 0.1},
        resources={"max_concurrent_trials": 1},
    )
    a, b = storage, tmp_path / "b"
    shutil.copytree(a, b)
    address = ("--address", shared_ray)
    with (
        running("run", file, "--storage", a, *address) as first,
        running("run", file, "--storage", b, *address) as second,
    ):
        wait_for(lambda: events(a / "twin"))
        study = (a / "twin" / "study.json").read_bytes()
        # One that runs is nobody else's.
        refused = tuner("resume", "twin", "--storage", a, "--set", "budget.trials=99", status=2)
        assert "run by another process" in refused.output
        assert (a / "twin" / "study.json").read_bytes() == study
        for process in (first, second):
            assert process.wait() == 0, process.output
            assert process.left_behind() == []
    assert curves(a / "twin") == curves(b / "twin")
    twins = [show(folder, "twin")["trials"] for folder in (a, b)]
    # After the first, which holds the process's start. How little it takes, benchmarks/ says: this machine may be busy.
    assert statistics.median(trial["startup_seconds"] for trials in twins for trial in trials[1:]) < 2.0
    outcomes = [[(trial["params"], trial["state"]) for trial in trials] for trials in twins]
    assert outcomes[0] == outcomes[1]
    assert {state for _, state in outcomes[0]} == {"finished", "stopped"}


def test_trials_that_end_together_start_no_process_beyond_one_a_slot(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    log = tmp_path / "log"
    file = write_study(
        tmp_path / "short.toml",
        budget={"trials": 40},
        scheduler={"name": "none"},
        search={"sampler": "random"},
        fixed={"epochs": 2, "log": log},
        resources={"max_concurrent_trials": 4, "cpus_per_worker": 0.5},
    )
    study = tuner("run", file, "--storage", storage, "--address", shared_ray)
    assert "trial_" not in study.output, "Ray Tune's own lines"
    assert [trial["state"] for trial in show(storage, "short")["trials"]] == ["finished"] * 40
    processes = collections.Counter(line.split()[3] for line in log.read_text().splitlines())
    assert sum(processes.values()) == 80
    assert len(processes) <= 4, processes


def test_a_study_ends_early_when_all_fails_or_its_time_is_over(tmp_path: Path, storage: Path, shared_ray: str) -> None:
    hopeless = write_study(
        tmp_path / "hopeless.toml",
        budget={"trials": 50},
        fixed={"fail": "raise", "fail_epoch": 1},
        failures={"stop_after": 3},
        resources={"max_concurrent_trials": 1, "cpus_per_worker": 0.5},
    )
    timed = write_study(
        tmp_path / "timed.toml",
        budget={"trials": 100, "time_seconds": 6},
        scheduler={"name": "none"},
        fixed={"epochs": 10_000, "step_seconds": 0.2},
        resources={"max_concurrent_trials": 2, "cpus_per_worker": 0.5},
    )
    shutil.copytree(storage, tmp_path / "other")
    address = ("--address", shared_ray)
    with running("run", timed, "--storage", storage, *address) as long:
        short = tuner("run", hopeless, "--storage", tmp_path / "other", *address, status=1)
        assert long.wait() == 0, long.output
        assert long.left_behind() == []
    found = show(tmp_path / "other", "hopeless")
    assert found["state"] == "failed"
    assert "the first 3 trials all failed" in found["reason"]
    assert len(found["trials"]) == 3
    assert "x is too small" in short.output

    found = show(storage, "timed")
    assert found["state"] == "finished"
    assert "time budget of 6 s" in found["reason"]
    assert {trial["state"] for trial in found["trials"]} <= {"stopped"}
    ended = [event for event in events(storage / "timed") if event["event"] == "end"]
    assert len(ended) == len(found["trials"])
    # The best checkpoint of each that was stopped is there, and nothing to go on from.
    for end in ended:
        checkpoints = list((storage / "timed" / "trials" / str(end["trial"])).glob("epoch-*"))
        assert [folder.name for folder in checkpoints] == [f"epoch-{end['best_epoch']:06d}"]
        assert not (checkpoints[0] / "resume").exists()


def test_a_study_ends_at_its_target_and_goes_on_with_a_higher_one(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    file = write_study(
        tmp_path / "target.toml",
        budget={"trials": 40, "stop_when": {"value": 0.4}},
        scheduler={"name": "none"},
        fixed={"epochs": 100, "step_seconds": 0.1},
        first_trials=[{"x": 0.3}, {"x": 0.5}, {"x": 0.9}],
        resources={"max_concurrent_trials": 2, "cpus_per_worker": 0.5},
    )
    where = ("--storage", storage, "--address", shared_ray)
    assert "score has reached 0.4" in tuner("run", file, *where).output
    found = show(storage, "target")
    assert (found["state"], {trial["state"] for trial in found["trials"]}) == ("finished", {"stopped"})
    assert "budget.stop_when.value = 0.4" in found["reason"]
    assert len(found["trials"]) == 2
    assert "target has ended: score has reached" in tuner("resume", "target", *where).output
    tuner("resume", "target", *where, "--set", "budget.stop_when.value=0.8")
    again = show(storage, "target")
    assert "budget.stop_when.value = 0.8" in again["reason"]
    assert again["best"]["value"] >= 0.8
    assert again["trials"][:2] == found["trials"]
