"""Images a second of fcn.train against a bare loop and against the usual recipe, and what the data path costs alone.

- bare: the same network, optimizer and precision over normalised tensors that are already in memory, nothing else;
- usual: float32, torch.optim.Adam as it comes, the loss read at each step, and a DataLoader whose workers decode and
  resize the files with Pillow in every epoch.

The three take turns, an epoch each, so that what else this machine does meets them alike; the first turn isn't
counted. The first two run in the environment that the tuner gives to trials, the last in a process as it comes. The
data path is timed by itself, in CPU time on one thread. Frames are drawn once, at KITTI's size, and written as PNG
files; --data-dir takes CamVid's instead.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import fcn
from benchmarks.report import Report, arguments, has_bfloat16
from fcn.data.cache import Cache, open_cache
from fcn.data.dataset import VOID
from fcn.data.image_files import read_image, read_indices, resize_image, resize_label
from fcn.data.readers.scenes import draw_scene
from fcn.data.scenes.ground import CLASSES
from fcn.inputs.batches import Batches
from fcn.model.fcn8s import build_model
from fcn.model.precision import autocast, precision_of, set_precision
from fcn.model.pretrained import normalisation
from fcn.training.optimizer import build_optimizer

KITTI_SIZE = (375, 1242)
SLIM: dict[str, Any] = {"image_size": (64, 192), "width": 0.25, "fc_width": 256, "batch_size": 4}
RECIPE: dict[str, Any] = {"image_size": (160, 576), "width": 1.0, "fc_width": 4096, "batch_size": 5, "frames": 12}

TUNABLES = "GLIBC_TUNABLES"

Pair = tuple[Path, Path]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="CamVid's folder, in place of drawn frames")
    options = parser.parse_args()
    if TUNABLES not in os.environ:
        import tuner.driver.cluster  # noqa: F401  sets what trials find; the C library reads it when a process begins

        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.throughput", *sys.argv[1:]])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report("FCN-8s training: images a second, and the data path")
    with tempfile.TemporaryDirectory(prefix="throughput-") as scratch:
        folder = Path(scratch)
        source = _source(options.data_dir, folder, 12 if options.quick else 120)
        sizes = {"64x192, a quarter of the width": (SLIM, 2 if options.quick else 12)}
        if not options.quick:
            sizes["160x576, the source recipe"] = (RECIPE, 3)
        ratios = {}
        for name, (shape, turns) in sizes.items():
            settings = {**source, **shape, "epochs": turns + 1, "cache_dir": folder / "cache"}
            ratios[name] = _compare(report, name, fcn.Config(**settings), device, turns)
        recipe = fcn.Config(**{**source, **RECIPE, "cache_dir": folder / "cache"})
        gain = _data_path(report, recipe, 1 if options.quick else 5)
    for name, (over_bare, _) in ratios.items():
        report.at_least(f"fcn.train over the bare loop, {name}", over_bare, 0.98)
    gpu = device.type == "cuda"
    bound, which = (5, "a GPU") if gpu else (2, "CPUs that compute in bfloat16")
    for name, (_, over_usual) in ratios.items():
        what = f"fcn.train over the usual recipe, {name} (goal of {which})"
        report.at_least(what, over_usual, bound, applies=gpu or has_bfloat16())
    report.at_least("decoding over the data path", gain, 50)
    report.finish(options.json)


def _source(data_dir: Path | None, folder: Path, count: int) -> dict[str, Any]:
    """Settings of a data set that lies in files."""
    common = {"weights": "none", "val_fraction": 0.1, "test_fraction": 0.0, "masks": 0, "init": "bilinear"}
    if data_dir is not None:
        return {**common, "dataset": "camvid", "data_dir": data_dir, "frames": 2 * count}
    drawn_frames(folder / "frames", count)
    return {**common, "dataset": "folder", "data_dir": folder / "frames"}


def drawn_frames(folder: Path, count: int) -> None:
    """Street scenes at KITTI's size as a folder of PNG files that fcn reads."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_draw, itertools.repeat(folder), range(count)))
    legend = "".join(f"{name} = {index}\n" for index, name in enumerate(CLASSES))
    (folder / "classes.toml").write_text(f"[classes]\n{legend}")


def _draw(folder: Path, number: int) -> None:
    image, label = draw_scene(number, 0, KITTI_SIZE)
    Image.fromarray(image).save(folder / "images" / f"{number:03d}.png")
    Image.fromarray(label).save(folder / "masks" / f"{number:03d}.png")


def _compare(report: Report, name: str, config: fcn.Config, device: torch.device, turns: int) -> tuple[float, float]:
    """The three in turns. Returns fcn.train over bare and over usual: medians of the turns' ratios."""
    cache = open_cache(config)
    bare = _BareLoop(config, cache, device)
    ours: list[float] = []
    others: dict[str, list[float]] = {"bare": [], "usual": []}
    copies: list[float] = []
    writes: list[float] = []

    def take_turns(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert snapshot is not None
        ours.append(metrics["time/images_per_second"])
        _write_checkpoint(snapshot, copies, writes)
        epochs: dict[str, Callable[[], float]] = {
            "bare": bare.epoch,
            "usual": lambda: usual.submit(_usual_epoch).result(),
        }
        # In either order: whoever comes after the usual recipe finds the processor's caches full of other things.
        for which in list(epochs) if len(ours) % 2 else reversed(epochs):
            others[which].append(epochs[which]())

    with _process_as_it_comes(config, device) as usual:
        fcn.train(config, report=take_turns, device=device)
    assert len(ours) == turns + 1
    report.median(f"fcn.train, {name}, {precision_of(config, device).name}", "images/s", ours[1:])
    report.median(f"bare loop, {name}", "images/s", others["bare"][1:])
    report.median(f"usual recipe, {name}", "images/s", others["usual"][1:])
    ratios = [[a / b for a, b in zip(ours[1:], others[which][1:], strict=True)] for which in ("bare", "usual")]
    report.median(f"a checkpoint with optimizer: copying, {name}", "s", copies[1:])
    report.median(f"a checkpoint with optimizer: writing, beside training in a study, {name}", "s", writes[1:])
    over_bare = report.median(f"fcn.train over the bare loop, {name}", "ratio", ratios[0])
    return over_bare, report.median(f"fcn.train over the usual recipe, {name}", "ratio", ratios[1])


def _write_checkpoint(snapshot: fcn.Snapshot, copies: list[float], writes: list[float]) -> None:
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        started = time.perf_counter()
        copy = snapshot.copy(resume=True)
        copied = time.perf_counter()
        copy.write(Path(folder) / "checkpoint")
        copies.append(copied - started)
        writes.append(time.perf_counter() - copied)


class _BareLoop:
    """Nothing but the arithmetic."""

    def __init__(self, config: fcn.Config, cache: Cache, device: torch.device):
        self._config, self._device = config, device
        self._model = build_model(config, len(cache.dataset.classes)).to(device)
        if device.type == "cuda":
            self._model = self._model.to(memory_format=torch.channels_last)
        set_precision(self._model, config, device)
        self._optimizer = build_optimizer(self._model, config)
        frames = cache.dataset.splits["train"]
        batches = Batches(cache, frames, config, device).epoch(1, train=False)
        images, targets = zip(*batches, strict=True)
        self._images, self._targets = torch.cat(images), torch.cat(targets)

    def epoch(self) -> float:
        """Images a second."""
        size = self._config.batch_size
        _synchronise(self._device)
        started = time.perf_counter()
        order = torch.randperm(len(self._images), device=self._device)
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            images_NCHW = self._images[chosen]
            if self._device.type == "cuda":
                images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
            self._optimizer.zero_grad(set_to_none=True)
            with autocast(self._config, self._device):
                logits_NCHW = self._model(images_NCHW)
            loss = functional.cross_entropy(logits_NCHW.float(), self._targets[chosen], ignore_index=VOID)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        _synchronise(self._device)
        return len(order) / (time.perf_counter() - started)


class _Files(Dataset[tuple[Tensor, Tensor]]):
    """An image and its label, decoded, resized, mirrored at random and normalised whenever they are asked for."""

    def __init__(self, pairs: list[Pair], config: fcn.Config):
        self._pairs, self._size = pairs, config.image_size
        norm = normalisation(config)
        self._mean = torch.tensor(norm.mean).view(3, 1, 1)
        self._std = torch.tensor(norm.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, label_path = self._pairs[index]
        image = resize_image(read_image(image_path), self._size)
        label = resize_label(read_indices(label_path), self._size)
        image_CHW = torch.from_numpy(image).permute(2, 0, 1).float().div_(255).sub_(self._mean).div_(self._std)
        # Which class is road doesn't matter for the time; two are trained.
        target_HW = torch.from_numpy((label == 1).astype(np.int64))
        if torch.rand(()) < 0.5:
            image_CHW, target_HW = image_CHW.flip(-1), target_HW.flip(-1)
        return image_CHW, target_HW


class UsualRecipe:
    """A training loop as tutorials have it."""

    def __init__(self, config: fcn.Config, cache: Cache, device: torch.device):
        self._device = device
        self._model = build_model(config, len(cache.dataset.classes)).to(device)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=config.learning_rate)
        pairs = [_files(cache, index) for index in cache.dataset.splits["train"]]
        workers = min(8, len(os.sched_getaffinity(0)))
        self._loader = DataLoader(
            _Files(pairs, config),
            batch_size=config.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )

    def epoch(self) -> float:
        """Images a second."""
        images = 0
        started = time.perf_counter()
        for images_NCHW, target_NHW in self._loader:
            self._optimizer.zero_grad()
            logits_NCHW = self._model(images_NCHW.to(self._device))
            loss = functional.cross_entropy(logits_NCHW, target_NHW.to(self._device))
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            loss.item()
            images += len(images_NCHW)
        return images / (time.perf_counter() - started)


@contextlib.contextmanager
def _process_as_it_comes(config: fcn.Config, device: torch.device) -> Iterator[ProcessPoolExecutor]:
    """A process without what this one's environment has for trials; it has a UsualRecipe."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=_start_usual, initargs=(config, device)) as pool:
        tunables = os.environ.pop(TUNABLES)
        try:
            pool.submit(os.getpid).result()
        finally:
            os.environ[TUNABLES] = tunables
        yield pool


_usual: UsualRecipe


def _start_usual(config: fcn.Config, device: torch.device) -> None:
    global _usual
    assert TUNABLES not in os.environ
    _usual = UsualRecipe(config, open_cache(config), device)


def _usual_epoch() -> float:
    return _usual.epoch()


def _data_path(report: Report, config: fcn.Config, repeats: int) -> float:
    """CPU time an image from the cache, and from the files, on one thread. Returns files over cache."""
    cache = open_cache(config)
    frames = list(range(len(cache.dataset.frames)))
    batches = Batches(cache, frames, config, torch.device("cpu"))
    files = _Files([_files(cache, index) for index in frames], config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as one worker of a DataLoader has
    try:
        mapped = _milliseconds(lambda: batches.epoch(1, train=True), len(frames), repeats)
        decoded = _milliseconds(lambda: (files[index] for index in frames), len(frames), repeats)
    finally:
        torch.set_num_threads(threads)
    height, width = config.image_size
    size = f"{height}x{width}, one thread"
    path = report.median(f"data path alone: cache to normalised batch, {size}", "ms/image", mapped)
    decoding = report.median(f"decoding, resizing and normalising the files, {size}", "ms/image", decoded)
    return decoding / path


def _milliseconds(epoch: Callable[[], Iterable[object]], images: int, repeats: int) -> list[float]:
    """CPU milliseconds an image of going through everything once, after a first time that isn't counted."""
    found = []
    for _ in range(repeats + 1):
        started = time.process_time()
        for _ in epoch():
            pass
        found.append(1000 * (time.process_time() - started) / images)
    return found[1:]


def _files(cache: Cache, index: int) -> Pair:
    frame = cache.dataset.frames[index]
    assert frame.image is not None
    assert frame.label is not None
    return frame.image, frame.label


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
