"""What the docs show is what runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def write_block(page: str, language: str, file: Path) -> None:
    block = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    file.write_text(block.group(1), encoding="utf-8")


@pytest.mark.slow
def test_the_workload_in_the_docs_is_tuned_and_exported_as_written(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "workloads.md").read_text(encoding="utf-8")
    write_block("workloads.md", "python", tmp_path / "line.py")
    write_block("workloads.md", "toml", tmp_path / "line.toml")
    commands = [line.strip() for line in page.splitlines() if line.startswith("    python -m tuner")]
    assert len(commands) == 2
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in commands:
        _, *words = command.split()
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / "exports" / "line" / "study.json").read_text())
    assert study["value"] < 1e-3
    assert "<h1>line</h1>" in (tmp_path / "studies" / "line" / "report.html").read_text(encoding="utf-8")
    assert study["formats"] == {"json": {"file": "model.json", "parity": 0.0}}


@pytest.mark.slow
def test_the_example_of_studies_from_python_runs_as_written(tmp_path: Path) -> None:
    write_block("workloads.md", "python", tmp_path / "line.py")
    write_block("workloads.md", "toml", tmp_path / "line.toml")
    write_block("python.md", "python", tmp_path / "example.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "<Study short: finished, 4 trials, best loss " in done.stdout
    assert "nosuch: a study is needed there, got none" in done.stdout
