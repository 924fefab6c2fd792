"""Trials that fail in every way there is, in one study."""

from __future__ import annotations

import collections
from pathlib import Path

import psutil
import pytest

from tests.integration.study_process import curves, events, mlflow_curve, mlflow_runs, running, show, truth
from tests.studies import write_study
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]

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
        trial = psutil.Process(int((tmp_path / "log").read_text().split("0.1 ")[1].split()[2]))
        assert trial.nice() == psutil.Process().nice(), "it gets the share of a core that a training script would"
        trial.kill()
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
    starts = collections.Counter(event["trial"] for event in events(folder) if event["event"] == "start")
    assert (starts[1], starts[6]) == (2, 3)
    assert {event["trial"] for event in events(folder) if event["event"] == "back"} >= {1, 7}
    kept = {int(path.parent.parent.name) for path in folder.glob("trials/*/epoch-000004/weights.bin")}
    assert kept == {9, 8, 7}, "the best three, each with its best epoch"
    assert not list(folder.rglob("resume"))
    runs = mlflow_runs(storage, "fails")
    for number in (1, 7):
        assert mlflow_curve(storage, runs[str(number)]) == truth(0.1 * number, 4)
    assert runs["2"].info.status == "FAILED"
    assert runs["2"].data.tags["tuner.reason"] == named["raise"]["reason"]
