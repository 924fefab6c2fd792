"""Files and folders appear whole or not at all, and a full disk is told from other faults."""

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fcn import files
from fcn.errors import InputError, TrainingError
from fcn.files import atomic_write, fresh_directory
from tests.power_cut import PowerCut

KILLED = """
import os, signal, sys
from pathlib import Path
from fcn.files import atomic_write
with atomic_write(Path(sys.argv[1]), durable=False) as partial:
    if sys.argv[2] == "file":
        partial.write_text("half")
    else:
        partial.mkdir()
        (partial / "one").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_of_two_at_once_the_second_is_told_and_deletes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(InputError, match="must be new or empty"), fresh_directory(output, bytes_needed=1) as second:  # noqa: PT012
        (second / "file").write_text("second")
        with fresh_directory(output, bytes_needed=1) as first:
            (first / "file").write_text("first")
    assert (output / "file").read_text() == "first"
    assert names(tmp_path) == ["out"]


def test_a_file_that_came_there_meanwhile_stays(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(InputError, match="must be new or empty"), fresh_directory(output, bytes_needed=1):
        output.write_text("mine")
    assert output.read_text() == "mine"
    assert names(tmp_path) == ["out"]


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    with atomic_write(target, durable=True) as partial:
        write(partial)


def interrupted(path: Path) -> None:
    path.write_text("half")
    raise KeyboardInterrupt


def test_a_block_that_fails_leaves_the_old_file_and_nothing_of_the_new(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)  # as long as a name can be
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_whole(target, interrupted)
    assert (names(tmp_path), target.read_text()) == ([target.name], "old")
    write_whole(target, lambda path: path.write_text("new"))
    assert (names(tmp_path), target.read_text()) == ([target.name], "new")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_of_one_target_is_removed_and_of_others_is_not(tmp_path: Path, kind: str) -> None:
    for name in ("one", "other"):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name), kind], check=False)
        assert killed.returncode == -9
    assert len(names(tmp_path)) == 2
    files.remove_leftovers(tmp_path / "one")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(files.PARTIAL_PREFIX)
    files.remove_leftovers(tmp_path / "other")
    assert names(tmp_path) == []


def test_a_power_cut_at_any_moment_leaves_a_durable_file_old_or_new(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "file").write_text("0")
    cut = PowerCut(disk, tmp_path / "disks")
    with cut.watching():
        for version in (1, 2):
            with atomic_write(disk / "file", durable=True) as partial:
                partial.write_text(str(version))
            cut.promised = version
    for left in cut.disks():
        assert left.promised <= int((left.path / "file").read_text()) <= left.promised + 1, left


def fill(path: Path) -> None:
    path.symlink_to("/dev/full")  # Linux answers every write to it as a full disk does
    path.write_text("more than fits")


def fill_by_torch(path: Path) -> None:
    path.symlink_to("/dev/full")
    torch.save(torch.zeros(100_000), path)


@pytest.mark.parametrize("write", [fill, fill_by_torch])
def test_whatever_library_meets_a_full_disk_it_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1234))
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(tmp_path / "out", write)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []
    sentence = "out: the disk is full; about 5,000 bytes are needed, 1,234 are free: make room or choose another"
    with pytest.raises(InputError, match=sentence), fresh_directory(tmp_path / "out", bytes_needed=5000) as folder:
        write(folder / "weights")
    assert names(tmp_path) == []


def test_a_run_that_fails_on_a_nearly_full_disk_says_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(TrainingError, match="the loss is nan"), atomic_write(tmp_path / "out", durable=False):
        raise TrainingError("the loss is nan")
