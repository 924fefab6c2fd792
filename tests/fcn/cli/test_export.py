"""python -m fcn export, as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "always", "-m", "fcn", "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


@pytest.mark.slow
def test_the_command_prints_its_result_and_no_library_prints_anything(tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = run(tiny_checkpoint, "--output", tmp_path / "out", "--device", "cpu", "--json")

    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    result = json.loads(done.stdout)
    assert set(result) == {"output", "formats", "metrics", "test_metrics"}
    assert {name: found["file"] for name, found in result["formats"].items()} == {
        "safetensors": "weights.safetensors",
        "pt2": "model.pt2",
        "onnx": "model.onnx",
    }
    assert (tmp_path / "out" / "README.md").is_file()


@pytest.mark.slow
def test_what_a_person_can_mend_is_one_sentence_and_status_two(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere", "--output", tmp_path / "out")

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'nowhere'} is no checkpoint")
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
