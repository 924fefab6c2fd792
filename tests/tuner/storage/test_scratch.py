"""Folders for temporary files of processes that are really killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tuner.storage import scratch

HOLD = """
import sys
import tempfile
from tuner.storage.scratch import scratch
with scratch("tune") as folder:
    (folder / "inside").write_text("something")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of this process and of those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "MIN_AGE_SECONDS", -1.0)
    return tmp_path


class Holder:
    """A process that holds a folder."""

    def __init__(self) -> None:
        root = Path(__file__).parents[3]
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
        )
        assert self.process.stdout is not None
        self.folder = Path(self.process.stdout.readline().strip())

    def end(self, *, kill: bool) -> None:
        if kill:
            self.process.kill()
        self.process.communicate("" if not kill else None)


def test_folders_of_a_killed_process_are_removed_by_the_next_and_those_of_a_living_one_stay(temporary: Path) -> None:
    killed, living = Holder(), Holder()
    try:
        killed.end(kill=True)
        assert (killed.folder / "inside").exists()
        assert killed.folder.parent == temporary
        with scratch.scratch("tune") as mine:
            assert not killed.folder.exists()
            assert (living.folder / "inside").exists()
            assert list(mine.iterdir()) == []
        assert not mine.exists()
    finally:
        living.end(kill=False)
    assert not living.folder.exists()


def test_a_folder_that_was_just_made_is_left_alone(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "MIN_AGE_SECONDS", 60.0)
    young = temporary / "tuner-scratch-tune-abc"
    young.mkdir()
    with scratch.scratch("tune"):
        assert young.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_another_users_folder_is_left_alone(temporary: Path) -> None:
    theirs = temporary / "tuner-scratch-tune-abc"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with scratch.scratch("tune"):
        assert theirs.exists()


def test_a_link_is_not_followed(temporary: Path) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("keep")
    (temporary / "tuner-scratch-tune-abc").symlink_to(elsewhere)
    with scratch.scratch("tune"):
        assert (elsewhere / "file").read_text() == "keep"
