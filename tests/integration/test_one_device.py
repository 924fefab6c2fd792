"""Studies of one-worker trials on a real local Ray."""

from __future__ import annotations

import collections
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from tests.integration.study_process import curves, events, running, show, tuner
from tests.studies import write_study
from tests.waiting import wait_for
from tests.workloads.replay import Config, score

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]


def truth(x: float, epochs: int = 3) -> list[tuple[int, float]]:
    """The curve that a trial must have, from nothing but its setting."""
    config = Config(x=x, epochs=epochs)
    return [(epoch, score(config, epoch)) for epoch in range(1, epochs + 1)]


def mlflow_runs(storage: Path, name: str) -> dict[str, Any]:
    """MLflow's runs of a study, by the tag that says which trial; fails if two have the same."""
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    found = {run.data.tags["tuner.trial"]: run for run in runs}
    assert len(found) == len(runs), "a run is doubled"
    return found


def mlflow_curve(storage: Path, run: Any) -> list[tuple[int, float]]:
    history = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}").get_metric_history(run.info.run_id, "score")
    return sorted((metric.step, metric.value) for metric in history)


def started_again(folder: Path) -> dict[int, int]:
    """How often each trial was started."""
    return collections.Counter(event["trial"] for event in events(folder) if event["event"] == "start")


def test_a_study_that_is_stopped_killed_and_given_more_trials_is_as_if_unbroken(tmp_path: Path, storage: Path) -> None:
    settings = [0.9, 0.1, 0.5, 0.7, 0.3, 0.8]
    log = tmp_path / "log"
    file = write_study(
        tmp_path / "broken.toml",
        workload="tests.workloads.torch_replay",
        budget={"trials": len(settings) - 1},
        scheduler={"name": "none"},
        checkpoints={"keep": 2},
        fixed={"epochs": 6, "step_seconds": 0.3, "log": log},
        first_trials=[{"x": x} for x in settings],
        resources={"max_concurrent_trials": 2},
    )
    folder = storage / "broken"

    def ended() -> set[int]:
        return {event["trial"] for event in events(folder) if event["event"] == "end"}

    with running("run", file, "--storage", storage) as study:
        wait_for(lambda: ended() and events(folder)[-1]["event"] in ("report", "images"))
        study.tree()
        study.interrupt()
        began = time.monotonic()
        assert study.wait() == 130, study.output
        took = time.monotonic() - began
        assert took < 40, took  # seconds where nothing else runs
        assert study.left_behind() == []
        assert "python -m tuner resume broken" in study.output
        assert "Traceback" not in study.output
    assert events(folder)[-1]["state"] == "interrupted"
    assert "RUNNING" not in {run.info.status for run in mlflow_runs(storage, "broken").values()}

    before = ended()
    with running("resume", "broken", "--storage", storage) as study:
        wait_for(lambda: ended() - before and events(folder)[-1]["event"] in ("report", "images"))
        study.kill()
        assert study.left_behind() == []
    assert show(storage, "broken")["state"] == "interrupted"

    tuner("resume", "broken", "--storage", storage, "--set", f"budget.trials={len(settings)}")
    found = show(storage, "broken")
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * len(settings)
    assert curves(folder) == {number: truth(x, 6) for number, x in enumerate(settings, start=1)}
    starts = [event["trial"] for event in events(folder) if event["event"] == "start"]
    assert len(starts) <= len(settings) + 2 * 2, "at most two were under way at each break"
    assert len([event for event in events(folder) if event["event"] == "end"]) == len(settings), "none ended twice"
    # An epoch whose checkpoint is there is never trained again, be it journaled or not.
    trained = collections.Counter(tuple(line.split()[:2]) for line in log.read_text().splitlines())
    assert sum(count - 1 for count in trained.values()) <= 4, trained
    runs = mlflow_runs(storage, "broken")
    assert set(runs) == {"study", *map(str, range(1, len(settings) + 1))}
    for number, x in enumerate(settings, start=1):
        assert mlflow_curve(storage, runs[str(number)]) == truth(x, 6)
        assert runs[str(number)].info.status == "FINISHED"
        assert runs[str(number)].data.params["x"] == str(x)
    kept = {int(checkpoint.parent.name) for checkpoint in (folder / "trials").glob("*/epoch-*")}
    assert kept == {number for number, x in enumerate(settings, start=1) if x >= 0.8}
    assert not list(storage.rglob("resume"))


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


FAILURES = ["none", "raise", "nan", "missing", "sys_exit", "exit", "exit_once", "nan_side"]


def test_each_way_to_fail_ends_its_trial_alone_and_says_why(tmp_path: Path, storage: Path, shared_ray: str) -> None:
    file = write_study(
        tmp_path / "fails.toml",
        workload="tests.workloads.torch_replay",
        budget={"trials": len(FAILURES) + 1},
        scheduler={"name": "none"},
        space={"fail": {"type": "choice", "choices": FAILURES}},
        # Killed before their checkpoints are written, trials train epochs again that are in the journal.
        fixed={"epochs": 4, "log": tmp_path / "log", "step_seconds": 0.3, "snapshots": True, "write_seconds": 1},
        first_trials=[{"fail": fail, "x": 0.1 * n} for n, fail in enumerate(FAILURES, start=1)]
        + [{"fail": "none", "x": 1}],
        failures={"max_retries": 2},
    )
    folder = storage / "fails"
    with running("run", file, "--storage", storage, "--address", shared_ray) as study:
        # The first trial's process is killed from outside.
        wait_for(lambda: any(event["event"] == "report" and event["trial"] == 1 for event in events(folder)))
        psutil.Process(int((tmp_path / "log").read_text().split("0.1 ")[1].split()[2])).kill()
        assert study.wait() == 0, study.output
        assert study.left_behind() == []
        assert "Traceback" not in study.output
    trials = {trial["id"]: trial for trial in show(storage, "fails")["trials"]}
    named = {fail: trials[number] for number, fail in enumerate(FAILURES, start=1)}
    states = {fail: trial["state"] for fail, trial in named.items()}
    well = ("none", "exit_once", "nan_side")
    assert states == {fail: "finished" if fail in well else "failed" for fail in FAILURES}
    assert trials[9]["state"] == "finished"
    assert named["raise"]["reason"] == "ValueError: x is too small: 0.200"
    assert "ValueError: x is too small" in (folder / "trials" / "2" / "error.txt").read_text()
    assert "Traceback" in (folder / "trials" / "2" / "error.txt").read_text()
    assert named["nan"]["reason"] == "epoch 2: score must be finite, got nan"
    assert "must report 'score'" in named["missing"]["reason"]
    assert "SystemExit" in named["sys_exit"]["reason"]
    assert "its process died" in named["exit"]["reason"]
    for number, trial in trials.items():
        if trial["state"] == "finished":
            assert curves(folder)[number] == truth(trial["params"]["x"], 4)
    assert started_again(folder)[1] == 2
    assert started_again(folder)[6] == 3
    assert {event["trial"] for event in events(folder) if event["event"] == "back"} >= {1, 7}
    kept = {int(path.parent.parent.name) for path in folder.glob("trials/*/epoch-000004/weights.bin")}
    assert kept == {9, 8, 7}, "the best three, each with its best epoch"
    assert not list(folder.rglob("resume"))
    runs = mlflow_runs(storage, "fails")
    for number in (1, 7):
        assert mlflow_curve(storage, runs[str(number)]) == truth(0.1 * number, 4)
    assert runs["2"].info.status == "FAILED"
    assert runs["2"].data.tags["tuner.reason"] == named["raise"]["reason"]


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
