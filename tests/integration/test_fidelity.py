"""Studies whose trials train cheaper up to their rungs, as a person runs them."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.study_process import curves, events, mlflow_runs, new_storage, running, show, tuner
from tests.studies import write_study
from tests.waiting import wait_for
from tests.workloads.replay import Config, score

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]

EPOCHS = 9
XS = [0.5, 0.9, 0.8, 0.1]
PARTS = [0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
BONUS = {0.25: 2.0, 0.5: 1.0, 1.0: 0.0}
ONE_PROCESS = {"workload": "tests.workloads.replay", "resources": {"max_concurrent_trials": 1}}
TWO_RANKS = {"workload": "tests.workloads.torch_replay", "resources": {"workers": 2, "max_concurrent_trials": 1}}


def truth(x: float) -> list[float]:
    return [score(Config(x=x, bonus=BONUS[part]), epoch) for epoch, part in enumerate(PARTS, start=1)]


@pytest.mark.parametrize(
    ("slot", "scheduler", "snapshots"),
    [
        pytest.param(ONE_PROCESS, "asha", False, id="one process", marks=pytest.mark.long),
        pytest.param(TWO_RANKS, "promotion", True, id="two ranks", marks=pytest.mark.long),
    ],
)
def test_a_killed_study_goes_on_at_the_fidelity_of_each_epoch(
    slot: dict[str, Any], scheduler: str, snapshots: bool, tmp_path: Path, database: Path
) -> None:
    storage = new_storage(tmp_path, database)
    log = tmp_path / "log"
    file = write_study(
        tmp_path / "cheap.toml",
        **slot,
        budget={"trials": len(XS)},
        scheduler={
            "name": scheduler,
            "grace_epochs": 2,
            "fidelity": {"part": sorted(BONUS), "bonus": [BONUS[part] for part in sorted(BONUS)]},
        },
        fixed={
            "epochs": EPOCHS,
            "step_seconds": 0.1,
            "log": log,
            "snapshots": snapshots,
            "collective": bool(snapshots),
        },
        first_trials=[{"x": x} for x in XS],
    )
    study = storage / "cheap"
    with running("run", file, "--storage", storage) as process:
        wait_for(lambda: any(e.get("trial") == 2 and e.get("epoch") == 4 for e in events(study)), 120)
        process.kill()
        assert process.left_behind() == []

    resumed = tuner("resume", "cheap", "--storage", storage)

    assert "part 1" in resumed.output
    shown = show(storage, "cheap")
    assert shown["best"]["trial"] == 2
    assert shown["best"]["value"] == pytest.approx(truth(0.9)[-1])  # though epoch 2 of any trial was measured higher
    assert shown["best"]["epoch"] == EPOCHS
    for number, curve in curves(study).items():
        assert [value for _, value in curve] == pytest.approx(truth(XS[number - 1])[: len(curve)])
    lines = [line.split() for line in log.read_text().splitlines()]
    assert all(float(part) == PARTS[int(epoch) - 1] for _, epoch, _, _, part in lines)
    # Only the trial that ran at the kill may have trained an epoch twice.
    trained = collections.Counter((x, epoch, rank) for x, epoch, rank, *_ in lines)
    assert {x for (x, _, _), count in trained.items() if count > 1} <= {repr(0.9)}
    if slot is ONE_PROCESS:
        assert len({pid for x, _, _, pid, _ in lines if x == repr(0.5)}) == 1, "a change needs no new process"
    metrics = mlflow_runs(storage, "cheap")["2"].data.metrics
    assert (metrics["fidelity/part"], metrics["fidelity/stretch"]) == (1.0, 3.0)
    refused = tuner("resume", "cheap", "--storage", storage, "--set", "scheduler.grace_epochs=1", status=2)
    assert "scheduler.fidelity: it, and the rungs at which it changes, can't be changed" in refused.output


@pytest.mark.long
@pytest.mark.parametrize(
    ("field", "values"), [("train_fraction", [0.25, 1.0]), ("image_size", [[16, 48], [32, 96]])], ids=["part", "size"]
)
def test_fcn_trains_first_on_a_part_or_on_small_images_and_exports_the_full_one(
    field: str, values: list[Any], tmp_path: Path, database: Path
) -> None:
    storage = new_storage(tmp_path, database)
    file = tmp_path / "small.toml"
    file.write_text(f"""
        objective = {{ metric = "val/mean_iou" }}
        budget = {{ trials = 3 }}
        scheduler = {{ grace_epochs = 2, fidelity = {{ {field} = {values} }} }}
        space = {{ learning_rate = {{ type = "float", low = 1e-3, high = 1e-2, log = true }} }}
        [fixed]
        dataset = "scenes"
        frames = 24
        image_size = [32, 96]
        weights = "none"
        width = 0.0625
        fc_width = 16
        init = "bilinear"
        epochs = 4
        precision = "float32"
        masks = 1
        cache_dir = "{tmp_path / "cache"}"
    """)
    checked = tuner("check", file, "--storage", storage).output
    assert "with scheduler.fidelity it takes less" in " ".join(checked.split())
    tuner("run", file, "--storage", storage)
    shown = show(storage, "small")
    assert shown["best"]["epoch"] > 2
    reported = [event for event in events(storage / "small") if event["event"] == "report"]
    assert {event["metrics"]["fidelity/stretch"] for event in reported if event["epoch"] <= 2} == {1}
    assert {event["metrics"]["fidelity/stretch"] for event in reported if event["epoch"] > 2} == {2}
    output = tmp_path / "best"
    command = [sys.executable, "-m", "tuner.best", "small", "--storage", str(storage), "--output", str(output)]
    exported = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert exported.returncode == 0, exported.stdout + exported.stderr
    config = json.loads((output / "export.json").read_text())["config"]
    assert config[field] == values[-1]
