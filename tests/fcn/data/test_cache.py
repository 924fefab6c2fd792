"""Decoded pixels are built once, shared by all processes, and never read torn or stale."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcn.config import Config, cache_folder
from fcn.data.cache import Cache, open_cache
from fcn.errors import InputError

SIZE = (16, 24)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Twelve frames of 40x60 of three drives, in CamVid's layout."""
    rng = np.random.default_rng(0)
    for number in range(12):
        name = f"drive{number % 3}_{number}.png"
        for kind, pixels in (
            ("images", rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)),
            ("labels", rng.integers(0, 12, (40, 60), dtype=np.uint8)),
        ):
            path = tmp_path / "camvid" / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return Config(
        dataset="camvid", data_dir=tmp_path / "camvid", classes="all", weights="none",
        image_size=SIZE, cache_dir=tmp_path / "cache",
    )  # fmt: skip


class Counter:
    """A progress callable that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


def built(config: Config) -> tuple[Cache, bool]:
    counter = Counter()
    return open_cache(config, counter), bool(counter.calls)


def test_the_cache_holds_each_frame_resized_bilinear_and_its_label_nearest(config: Config) -> None:
    cache = open_cache(config)
    assert (cache.images.shape, cache.labels.shape) == ((12, *SIZE, 3), (12, *SIZE))
    for index, frame in enumerate(cache.dataset.frames):
        assert frame.image is not None
        assert frame.label is not None
        image = Image.open(frame.image).resize((24, 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(cache.images[index], np.asarray(image))
        # Nearest by hand: the source pixel that each target pixel's centre falls on.
        rows = ((np.arange(16) + 0.5) * 40 / 16).astype(int)
        columns = ((np.arange(24) + 0.5) * 60 / 24).astype(int)
        label = np.asarray(Image.open(frame.label))[rows][:, columns]
        np.testing.assert_array_equal(cache.labels[index], np.where(label == 11, 255, label))


def test_building_reports_each_frame_and_opening_again_builds_nothing(config: Config) -> None:
    counter = Counter()
    open_cache(config, counter)
    assert counter.calls == [(done, 12) for done in range(1, 13)]
    assert not built(config)[1]


def test_opening_again_reads_no_image(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    open_cache(config)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    open_cache(config)


def test_the_pixels_can_not_be_written_to(config: Config) -> None:
    cache = open_cache(config)
    with pytest.raises(ValueError, match="read-only"):
        cache.images[0, 0, 0, 0] = 1


def test_a_copy_in_another_folder_finds_the_same_pixels(config: Config, tmp_path: Path) -> None:
    first = open_cache(config)
    shutil.copytree(tmp_path / "camvid", tmp_path / "copy")
    second, was_built = built(config.model_copy(update={"data_dir": str(tmp_path / "copy")}))
    assert not was_built
    assert second.path == first.path


def test_settings_that_change_no_pixel_share_one_cache(config: Config) -> None:
    first = open_cache(config)
    for change in (
        {"learning_rate": 0.1},
        {"seed": 3},
        {"split_seed": 4},
        {"val_fraction": 0.4},
        {"flip": 0.0},
    ):
        second, was_built = built(config.model_copy(update=change))
        assert (second.path, was_built) == (first.path, False)


@pytest.mark.parametrize("change", [{"image_size": (16, 32)}, {"classes": "road"}, {"frames": 9}])
def test_settings_that_change_pixels_have_their_own_cache(config: Config, change: dict[str, Any]) -> None:
    first = open_cache(config)
    second, was_built = built(config.model_copy(update=change))
    assert was_built
    assert second.path != first.path


def test_a_changed_image_is_decoded_again(config: Config) -> None:
    path = open_cache(config).dataset.frames[4].image
    assert path is not None
    before = path.stat()
    Image.fromarray(np.full((40, 60, 3), 77, dtype=np.uint8)).save(path, compress_level=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    cache, was_built = built(config)
    assert was_built
    assert (cache.images[4] == 77).all()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def overwrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, lengthen, overwrite, remove])
@pytest.mark.parametrize("name", ["images.bin", "labels.bin", "index.json"])
def test_a_damaged_cache_is_rebuilt_never_read(config: Config, name: str, damage: Any) -> None:
    first = open_cache(config)
    truth = np.array(first.images), np.array(first.labels)
    damage(first.path / name)
    second, was_built = built(config)
    assert was_built
    np.testing.assert_array_equal(second.images, truth[0])
    np.testing.assert_array_equal(second.labels, truth[1])


def test_a_listing_that_points_nowhere_is_mended(config: Config) -> None:
    open_cache(config)
    for listing in (cache_folder(config) / "listings").iterdir():
        listing.write_text("nonsense")
    assert not built(config)[1]


def test_every_damaged_file_is_named_and_nothing_is_left(config: Config, tmp_path: Path) -> None:
    damaged = sorted((tmp_path / "camvid" / "images").iterdir())[2:5]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError) as caught:
        open_cache(config)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [str(path) for path in damaged]
    left = [path.name for path in cache_folder(config).iterdir() if path.suffix != ".lock"]
    assert left == ["listings"]


def test_a_cache_folder_that_is_a_file_is_explained(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"the cache can't be written .*set cache_dir to a folder"):
        open_cache(config.model_copy(update={"cache_dir": tmp_path / "file"}))


def test_a_full_disk_is_told_with_path_and_bytes(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        InputError, match=rf"{cache_folder(config)}: the cache of 12 frames of 16x24 needs 0 MB, got 0 MB"
    ):
        open_cache(config)


def test_the_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = Config(dataset="scenes", weights="none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(config) == tmp_path / "fcn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(config) == tmp_path / ".cache" / "fcn"


# Several processes

OPEN = """
import logging, sys
from fcn.data.cache import open_cache
from fcn.config import Config, cache_folder

class Waiting(logging.Handler):
    # What the lock's library says when another process has it.
    def emit(self, record):
        if "not acquired" in record.getMessage():
            print("waiting", flush=True)
            logging.getLogger("filelock").removeHandler(self)

logging.getLogger("filelock").setLevel(logging.DEBUG)
logging.getLogger("filelock").addHandler(Waiting())
config = Config.model_validate_json(sys.argv[1])
calls = []

def progress(done, total):
    calls.append(done)
    if len(calls) == 1:
        print("building", flush=True)
        sys.stdin.readline()

cache = open_cache(config, progress)
print("built" if calls else "found", int(cache.images.sum()), flush=True)
sys.stdin.readline()
"""


def start(config: Config, code: str = OPEN) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, config.model_dump_json()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip


def go_on(process: subprocess.Popen[str]) -> None:
    """A process that builds stands still until it is told to go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_of_two_processes_at_once_one_builds_and_the_other_waits_for_it(config: Config) -> None:
    first = start(config)
    assert read_line(first) == "building"
    second = start(config)
    assert read_line(second) == "waiting"
    go_on(first)
    answers = [read_line(first), read_line(second)]
    end(first, second)
    assert [answer.split()[0] for answer in answers] == ["built", "found"]
    assert answers[0].split()[1] == answers[1].split()[1]


def test_a_killed_builder_leaves_nothing_torn_and_the_waiting_process_builds(config: Config) -> None:
    first = start(config)
    assert read_line(first) == "building"
    second = start(config)
    assert read_line(second) == "waiting"
    os.kill(first.pid, signal.SIGKILL)
    answers = [read_line(second)]
    go_on(second)
    answers.append(read_line(second))
    end(first, second)
    assert answers[0] == "building"
    assert answers[1].startswith("built")
    assert not list(cache_folder(config).glob(".*"))
    cache, was_built = built(config)
    assert not was_built
    assert int(answers[1].split()[1]) == int(cache.images.sum())


READ = """
import re, sys
from fcn.data.cache import open_cache
from fcn.config import Config, cache_folder

cache = open_cache(Config.model_validate_json(sys.argv[1]))
print(int(cache.images.sum()), flush=True)
for _ in sys.stdin:
    # Pages of the mapping, this process's share of them, in KiB.
    share = 0
    inside = False
    for line in open("/proc/self/smaps"):
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = "images.bin" in line
        elif inside and line.startswith("Pss:"):
            share += int(line.split()[1])
    print(share, flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="shares of memory are only told by Linux")
def test_three_processes_hold_the_pixels_once(tmp_path: Path) -> None:
    config = Config(dataset="scenes", weights="none", image_size=(64, 192), frames=24, cache_dir=tmp_path)
    size = open_cache(config).images.nbytes / 1024
    readers = [start(config, code=READ) for _ in range(3)]
    sums = {read_line(reader) for reader in readers}
    shares = []
    for reader in readers:
        go_on(reader)
        shares.append(int(read_line(reader)))
    end(*readers)
    assert len(sums) == 1
    # This process has them mapped too, but has read only a few pages.
    assert sum(shares) <= 1.1 * size, f"{shares} KiB together for {size:.0f} KiB of pixels"
    assert min(shares) > 0.2 * size
