"""What the benchmarks print can be trusted, and what they write can be read by programs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.nodes import most_at_once
from benchmarks.report import ROOT, Report, interval
from benchmarks.study import gaps


def test_a_row_of_repeated_runs_is_their_median_with_the_least_and_the_greatest() -> None:
    report = Report("")
    assert report.median("a", "s", [5.0, 1.0, 9.0, 2.0]) == 3.5
    row = report.as_json()["rows"][0]
    assert row == {"name": "a", "value": 3.5, "unit": "s", "low": 1.0, "high": 9.0}


def test_a_row_of_seeds_is_their_mean_with_its_confidence_interval() -> None:
    report = Report("")
    report.mean("a", "s", [4.0, 6.0, 5.0, 5.0, 5.0])
    row = report.as_json()["rows"][0]
    # Student's t of 4 degrees of freedom at 97.5 % is 2.776; the sample's deviation is sqrt(0.5).
    reach = 2.776 * math.sqrt(0.5) / math.sqrt(5)
    assert row["value"] == 5.0
    assert (row["low"], row["high"]) == pytest.approx((5 - reach, 5 + reach))


def test_one_run_says_nothing_about_the_spread() -> None:
    assert interval([3.0]) == math.inf


def test_a_goal_is_met_missed_or_not_this_machines() -> None:
    report = Report("")
    report.at_most("quick enough", 0.1, 0.1)
    report.at_least("fast enough", 1.9, 2)
    report.at_least("fast enough on other hardware", 1.9, 2, applies=False)
    report.at_most("not measured", None, 1)
    assert [goal.met for goal in report.goals] == [True, False, None, None]


def test_the_first_trial_is_separate_from_the_time_between_ends() -> None:
    events = [
        {"event": "run", "time": 100.0},
        {"event": "start", "time": 108.0},
        {"event": "end", "time": 110.0},
        {"event": "end", "time": 110.5},
        {"event": "end", "time": 111.5},
    ]
    assert gaps(events) == (10.0, [0.5, 1.0])


def test_the_most_trials_at_a_time_are_counted_from_their_begins_and_ends() -> None:
    kinds = [("begin", 1), ("begin", 2), ("end", 1), ("begin", 3), ("begin", 2), ("begin", 4), ("end", 2)]
    events = [{"event": kind, "trial": trial, "time": float(time)} for time, (kind, trial) in enumerate(kinds)]
    assert most_at_once(events) == (3, 5.0)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.name)
def test_a_kept_result_says_on_what_it_was_measured(path: Path) -> None:
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert set(kept) == {"hardware", "versions", "rows", "goals"}
    assert {"cpu", "cores", "load_before", "load_after"} <= set(kept["hardware"])
    assert {"date", "commit", "torch"} <= set(kept["versions"])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_throughput_writes_the_documented_keys(tmp_path: Path) -> None:
    written = tmp_path / "throughput.json"
    command = [sys.executable, "-m", "benchmarks.throughput", "--quick", "--json", str(written)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    result = json.loads(written.read_text())
    assert set(result) == {"hardware", "versions", "rows", "goals"}
    assert all(set(row) == {"name", "value", "unit", "low", "high"} for row in result["rows"])
    assert all(set(goal) == {"name", "value", "goal", "met"} for goal in result["goals"])
    assert {row["unit"] for row in result["rows"]} == {"images/s", "ratio", "s", "ms/image"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in result["rows"])


def test_the_gpu_benchmark_ends_well_without_a_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=ROOT,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "gpu: skipped, there is no GPU here\n"), done.stderr


def test_the_gpu_benchmark_needs_no_ray() -> None:
    code = "import sys; import benchmarks.gpu; print(sorted({'ray', 'optuna', 'mlflow', 'tuner'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
