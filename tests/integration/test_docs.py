"""What the docs show is what runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_workload_in_the_docs_is_tuned_and_exported_as_written(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "workloads.md").read_text(encoding="utf-8")
    for language, name in (("python", "line.py"), ("toml", "line.toml")):
        block = re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)
        assert block is not None
        (tmp_path / name).write_text(block.group(1), encoding="utf-8")
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
    assert study["formats"] == {"json": {"file": "model.json", "parity": 0.0}}
