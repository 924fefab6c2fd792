"""The folder of a run of fcn.train: whole after a kill at any moment, and of one run alone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fcn
from fcn import Config
from fcn.model import checkpoint
from fcn.training.run_folder import RunFolder

Invoke = Callable[[list[str]], tuple[int, str]]
BEST_METRIC = "val/mean_iou"

# fcn.train, ended as kill -9 ends it right after so many checkpoints of it have their names.
KILLED = """
import os, runpy, signal, sys
from fcn.model import checkpoint
whole, left = checkpoint.replace, [int(sys.argv.pop(1))]
def replace(source, target):
    whole(source, target)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.replace = replace
sys.argv.insert(1, "train")
runpy.run_module("fcn", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    chosen: dict[str, Any] = {
        "dataset": "scenes",
        "frames": 20,
        "image_size": [32, 64],
        "weights": "none",
        "width": 1 / 16,
        "fc_width": 16,
        "init": "bilinear",
        "learning_rate": 3e-3,
        "epochs": 4,
        "precision": "float32",
        "cache_dir": str(tmp_path_factory.mktemp("pixels")),
    }
    return [f"--set={name}={json.dumps(value)}" for name, value in chosen.items()]


def kill_after(checkpoints: int, output: Path, settings: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(fcn.__file__).parents[1])}
    arguments = [str(checkpoints), "--output", str(output), "--device", "cpu", *settings]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr


def best_is_of_the_run(output: Path) -> None:
    """best/ is the best of the epochs that metrics.jsonl has, as it has them."""
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    best = checkpoint.load(output / "best")
    assert best.metrics == metrics[best.epoch - 1]
    assert best.metrics[BEST_METRIC] == max(measured[BEST_METRIC] for measured in metrics)


@pytest.mark.slow
def test_a_run_killed_between_its_first_two_checkpoints_hands_no_best_to_another(
    invoke: Invoke, settings: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    kill_after(1, output, settings)
    # No mask changes by so small a step: a best/ that was inherited would stay the best.
    others = ["--output", str(output), "--device", "cpu", *settings, "--set=learning_rate=1e-12", "--set=seed=5"]
    status, text = invoke(others)
    assert (status, "holds a run already: add --resume" in text) == (2, True)
    status, text = invoke(["--output", str(output), "--device", "cpu", "--resume"])
    assert status == 0, text
    assert sorted(path.name for path in output.iterdir()) == ["best", "curves.png", "last", "metrics.jsonl"]
    best_is_of_the_run(output)
    assert not (output / "best" / "resume").exists()


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_settings_drops_the_best_of_an_epoch_it_does_not_have(
    invoke: Invoke, settings: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    kill_after(3, output, settings)
    assert checkpoint.load(output / "best").epoch > checkpoint.load(output / "last").epoch
    status, text = invoke(["--output", str(output), "--device", "cpu", "--resume", "--set=learning_rate=1e-12"])
    assert status == 0, text
    best_is_of_the_run(output)


def test_the_losses_of_batches_lie_beside_the_metrics_and_a_resumed_run_has_each_once(
    invoke: Invoke, settings: list[str], tmp_path: Path
) -> None:
    output, losses = tmp_path / "run", tmp_path / "run" / "batch_losses.jsonl"
    arguments = ["--output", str(output), "--device", "cpu", "--batch-losses"]
    status, text = invoke([*arguments, *settings, "--set=epochs=1"])
    assert status == 0, text
    # What a kill leaves of an epoch that no checkpoint has.
    losses.write_text(losses.read_text() + '{"epoch": 2, "step": 1, "loss": 9.0}\n{"epoch": 2, "st')
    status, text = invoke([*arguments, "--resume", "--set=epochs=2"])
    assert status == 0, text
    lines = [json.loads(line) for line in losses.read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(e, s) for e in (1, 2) for s in (1, 2, 3)]
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    for epoch in (1, 2):
        found = [line["loss"] for line in lines if line["epoch"] == epoch]
        assert metrics[epoch - 1]["train/loss"] == pytest.approx(sum(found) / 3)


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_best_without_a_last_is_refused_and_left_alone(
    invoke: Invoke, settings: list[str], tiny_checkpoint: Path, tmp_path: Path, more: list[str]
) -> None:
    output = tmp_path / "run"
    shutil.copytree(tiny_checkpoint, output / "best")
    status, text = invoke(["--output", str(output), "--device", "cpu", *settings, *more])
    assert (status, text) == (
        2,
        f"error: {output} holds best/ of another run and no last/ to resume from: "
        "choose another --output, or move it away\n",
    )
    assert [path.name for path in output.iterdir()] == ["best"]


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".fcn-3f2a").write_text("half of metrics.jsonl")
    (tmp_path / ".fcn-last").mkdir()
    (tmp_path / ".fcn-last" / "config.json").write_text("{")
    (tmp_path / "notes").mkdir()
    RunFolder(tmp_path).tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_new_run_takes_out_curves_and_metrics_of_one_whose_checkpoints_are_gone_and_nothing_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "curves.png").write_bytes(b"of another run")
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1.0}\n')
    (tmp_path / "batch_losses.jsonl").write_text('{"epoch": 1, "step": 1, "loss": 0.5}\n')
    (tmp_path / "run.toml").write_text("seed = 3")
    folder = RunFolder(tmp_path)
    assert folder.start(resume=False) is None
    folder.open(None, Config())
    assert folder.metrics() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "run.toml"]
