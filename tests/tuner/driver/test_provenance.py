"""What a run says of where its results come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from tuner.driver.provenance import git_state, hardware, run_began


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=trunk"]
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With one commit."""
    git(tmp_path, "init")
    (tmp_path / "train.py").write_text("1")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_the_commit_and_whether_the_tree_is_as_in_it(repository: Path) -> None:
    folder = repository / "deep"
    folder.mkdir()
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state(folder) == {"commit": commit, "branch": "trunk", "tree": "clean"}
    (repository / "train.py").write_text("2")
    (folder / "ümlaut new.py").write_text("")
    git(repository, "remote", "add", "origin", "https://me:s3cret@host/x.git")
    assert git_state(folder) == {
        "commit": commit,
        "branch": "trunk",
        "tree": "1 changed, 1 untracked",
        "repository": "https://me:***@host/x.git",
    }


def test_outside_of_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None, "no git at all"


def test_a_run_says_its_command_without_secrets_and_what_it_ran_on(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["python", "-m", "tuner", "run", "my study.toml", "--tracking-uri=http://me:s3cret@host"]
    monkeypatch.setattr(sys, "orig_argv", [*words, "--set", "fixed.hub_token=s3cret", "--set", "fixed.sigma=1"])
    event = run_began(1, ["fixed.hub_token=s3cret"], "http://me:s3cret@host", {"split": "9 train"})
    assert event.command == (
        "python -m tuner run 'my study.toml' '--tracking-uri=http://me:***@host' "
        "--set 'fixed.hub_token=***' --set fixed.sigma=1"
    )
    assert "s3cret" not in str(event)
    assert event.versions["numpy"] == numpy.__version__
    assert event.versions["python"] == sys.version.split()[0]
    assert event.data == {"split": "9 train"}
    assert event.hardware is not None
    assert set(event.hardware) == {"cpu", "cores", "memory", "gpus"}


def test_gpus_are_named_where_there_is_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'NVIDIA H100, 81559 MiB, 550.1\\nNVIDIA H100, 81559 MiB, 550.1\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware()["gpus"] == "NVIDIA H100, 81559 MiB, 550.1; NVIDIA H100, 81559 MiB, 550.1"
    program.write_text("#!/bin/sh\necho 'no driver'; exit 9\n")
    assert hardware()["gpus"] == "none"
