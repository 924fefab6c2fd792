"""tuner.load: a study from Python, read and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import tuner
from tests.written_study import ROADS, end, report, run, start, stop, write_mask, write_study
from tuner.events.log import Journal

LOOK = """
import json, sys, time
began = time.monotonic()
import tuner
study = tuner.load("roads", storage=sys.argv[1])
assert len(study.trials) == 4 and len(study.metrics) == 5, (study.trials, study.metrics)
found = {"seconds": time.monotonic() - began, "modules": sorted(sys.modules)}
print(json.dumps(found))
"""


def test_a_study_is_loaded_without_ray_torch_or_mlflow_and_at_once(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS)
    done = subprocess.run([sys.executable, "-c", LOOK, str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert not {"ray", "torch", "mlflow", "torchvision", "plotly", "fcn"} & set(found["modules"])
    # 0.8 s on the two cores of 2026-11-25; importing Ray and MLflow took 5 s there.
    assert found["seconds"] < 5


def test_trials_are_a_table_with_the_documented_columns(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS)
    (tmp_path / "roads" / "tracking.json").write_text(json.dumps({"runs": {"1": "a1b2"}}))
    trials = tuner.load("roads", storage=tmp_path).trials
    assert list(trials.columns) == [
        "x", "batch_size", "optimizer", "momentum", "state", "value", "best_epoch", "epochs", "seconds",
        "startup_seconds", "started", "ended", "reason", "mlflow_run_id",
    ]  # fmt: skip
    assert list(trials.index) == [1, 2, 3, 4]
    assert trials.index.name == "trial"
    assert list(trials["state"]) == ["finished", "stopped", "failed", "interrupted"]
    assert trials["value"].tolist()[:2] == [0.25, 0.4]
    assert trials["value"].isna().tolist() == [False, False, True, False]
    assert trials["best_epoch"].tolist() == [2, 2, pd.NA, 1]
    assert trials["epochs"].tolist() == [2, 2, 0, 1]
    assert trials["momentum"].isna().tolist() == [True, False, True, True]
    assert trials["seconds"].tolist() == [7.0, 8.0, 1.0, 1.0]
    assert (trials["ended"] - trials["started"]).dt.total_seconds().tolist()[:3] == [7.0, 8.0, 1.0]
    assert trials.loc[3, "reason"] == "ValueError: loss is nan"
    assert trials.loc[1, "mlflow_run_id"] == "a1b2"
    assert pd.isna(trials.loc[2, "mlflow_run_id"])
    assert [str(trials[name].dtype) for name in ("x", "batch_size", "optimizer")] == ["float64", "Int64", "str"]


def test_metrics_are_a_row_a_trial_and_epoch_as_reported_last(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS)
    metrics = tuner.load("roads", storage=tmp_path).metrics
    assert list(metrics.columns) == ["trial", "epoch", "seconds", "score", "loss"]
    assert metrics[["trial", "epoch", "score"]].to_numpy().tolist() == [
        [1, 1, 0.1], [1, 2, 0.25], [2, 1, 0.3], [2, 2, 0.4], [4, 1, 0.05],
    ]  # fmt: skip
    assert metrics["loss"].tolist()[:2] == [0.9, 0.75]
    assert metrics["loss"].isna().tolist() == [False, False, True, True, True]
    assert metrics["seconds"].tolist() == [3.0, 7.0, 4.0, 9.0, 14.0]


def test_the_best_trial_may_be_one_that_was_stopped(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS)
    study = tuner.load("roads", storage=tmp_path)
    params = {"x": 0.5, "batch_size": 8, "optimizer": "sgd", "momentum": 0.5}
    assert study.best == tuner.BestTrial(trial=2, value=0.4, epoch=2, params=params, values={"score": 0.4})
    assert study.front == []
    assert repr(study) == "<Study roads: interrupted, 4 trials, best score 0.4 (trial 2)>"
    assert str(study.space["x"]) == "0.001 to 1, log"


def test_masks_are_the_images_of_the_best_epoch_or_of_one_that_is_asked_for(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS)
    first = write_mask(tmp_path, "roads", 1, 1)
    best = [write_mask(tmp_path, "roads", 1, 2, name) for name in ("frame_a.png", "frame_b.png")]
    study = tuner.load("roads", storage=tmp_path)
    assert study.masks(1) == best
    assert study.masks(1, epoch=1) == [first]
    assert study.masks(1, epoch=7) == study.masks(2) == study.masks(3) == []
    with pytest.raises(
        tuner.StudyError, match="study roads: must have the trial, got 9; it has 1 to 4: give one of these"
    ):
        study.masks(9)


def test_a_study_whose_objective_was_never_reported_has_no_best(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", run(), start(1, x=0.5), end(1, "failed", "no"), stop("failed", "all failed"))
    study = tuner.load("roads", storage=tmp_path)
    assert study.best is None
    assert study.trials["value"].isna().all()
    assert list(study.metrics.columns) == ["trial", "epoch", "seconds"]
    assert len(study.metrics) == 0
    assert (study.state, study.reason) == ("failed", "all failed")


def test_a_running_study_is_loaded_as_it_is_and_stays_so(tmp_path: Path) -> None:
    folder = write_study(tmp_path, "roads", run(), start(1, x=0.5), report(1, 1, 0.5))
    with Journal(folder) as journal:
        study = tuner.load("roads", storage=tmp_path)
        with journal.path.open("a") as file:
            file.write(json.dumps({**report(1, 2, 0.6), "time": 1_790_000_009.0}) + "\n")
        assert study.state == "running"
        assert study.trials["epochs"].tolist() == [1]
        assert study.metrics["epoch"].tolist() == [1]
        assert tuner.load("roads", storage=tmp_path).metrics["epoch"].tolist() == [1, 2]


def test_a_missing_or_damaged_study_is_reported_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(tuner.StudyError, match="a study is needed there, got none"):
        tuner.load("roads", storage=tmp_path)
    write_study(tmp_path, "roads", *ROADS)
    events = tmp_path / "roads" / "events.jsonl"
    events.write_text(events.read_text().replace('"event": "end"', '"event": "end', 1))
    with pytest.raises(tuner.StudyError, match=r"events\.jsonl, line 9: "):
        tuner.load(storage=tmp_path)
