"""FCN-8s at 160x576 on a GPU: images a second, share of the GPU's bfloat16 matrix rate, memory, data path.

Needs fcn and what fcn needs, no more. Where there is no GPU it says so and ends well.

- fcn.train: epochs of a real run, bfloat16, for batches of 1 to 64;
- share: FLOPs of forward and backward, counted by torch, times images a second, over the rate of the best of three
  8192 x 8192 bfloat16 matrix products on random numbers;
- data path: gathering, augmenting and normalising an epoch's batches with nothing else, over the epoch's time;
- usual recipe: float32, torch.optim.Adam as it comes, the loss read at each step, DataLoader workers that resize.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import fcn
from benchmarks.report import Report, arguments
from benchmarks.throughput import UsualRecipe, drawn_frames
from fcn.data.cache import open_cache
from fcn.device import default_device
from fcn.inputs.batches import Batches
from fcn.model.fcn8s import Architecture, FCN8s

SIZE = (160, 576)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SETTINGS = {
    "dataset": "folder",
    "weights": "none",
    "init": "bilinear",
    "precision": "bfloat16",
    "val_fraction": 0.1,
    "test_fraction": 0.0,
    "masks": 0,
}


def main() -> None:
    options = arguments(__doc__).parse_args()
    if not torch.cuda.is_available():
        print("gpu: skipped, there is no GPU here")
        return
    device = default_device()
    report = Report("FCN-8s, 160x576, full width, on a GPU")
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
        folder = Path(scratch)
        drawn_frames(folder / "frames", 40 if options.quick else 160)
        base = fcn.Config(**SETTINGS, image_size=SIZE, data_dir=folder / "frames", cache_dir=folder / "cache")
        rate = matrix_rate(report, device)
        flops = flops_an_image()
        report.figure("forward and backward, counted", "GFLOP/image", flops / 1e9)
        best = path_share = 0.0
        for size in (1, 4) if options.quick else BATCHES:
            config = base.model_copy(update={"batch_size": size, "epochs": 2 if options.quick else 5})
            images = _train(report, config, device)
            share = images * flops / rate
            report.figure(f"fcn.train, batch {size}: share of the matrix rate", "ratio", share)
            data = _data_path(report, config, device) * images / 1000
            report.figure(f"fcn.train, batch {size}: data path's share", "ratio", data)
            best, path_share = max(best, share), max(path_share, data)
        gain = _over_usual(report, base.model_copy(update={"batch_size": 16, "epochs": 4}), device)
    report.at_least("share of the matrix rate, best batch", best, 0.4)
    report.at_most("data path's share of the time, worst batch", path_share, 0.03)
    report.at_least("fcn.train over the usual recipe, batch 16", gain, 5)
    report.finish(options.json)


def matrix_rate(report: Report, device: torch.device, side: int = 8192) -> float:
    """FLOP/s of bfloat16 matrix products."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for repeat in range(4):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(20):
            a @ b
        torch.cuda.synchronize()
        if repeat:
            rates.append(20 * 2 * side**3 / (time.perf_counter() - started))
    report.median("bfloat16 matrix product", "TFLOP/s", [found / 1e12 for found in rates])
    return max(rates)


def flops_an_image() -> float:
    """Of forward and backward at 160x576, full width, two classes; counted on tensors without memory."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        logits_NCHW = FCN8s(Architecture(2))(torch.empty(1, 3, *SIZE))
        target_NHW = torch.zeros(1, *SIZE, dtype=torch.int64)
        functional.cross_entropy(logits_NCHW, target_NHW).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())


def _train(report: Report, config: fcn.Config, device: torch.device) -> float:
    """Images a second: the median of the epochs after the first."""
    found: list[float] = []
    torch.cuda.reset_peak_memory_stats()
    fcn.train(config, report=lambda metrics, _: found.append(metrics["time/images_per_second"]), device=device)
    images = report.median(f"fcn.train, batch {config.batch_size}", "images/s", found[1:])
    peak = torch.cuda.max_memory_allocated() / 2**30
    report.figure(f"fcn.train, batch {config.batch_size}: peak memory", "GiB", peak)
    return images


def _data_path(report: Report, config: fcn.Config, device: torch.device) -> float:
    """Milliseconds an image."""
    cache = open_cache(config)
    frames = cache.dataset.splits["train"]
    batches = Batches(cache, frames, config, device)
    found = []
    for repeat in range(4):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in batches.epoch(1, train=True):
            pass
        torch.cuda.synchronize()
        if repeat:
            found.append(1000 * (time.perf_counter() - started) / len(frames))
    return report.median(f"fcn.train, batch {config.batch_size}: data path alone", "ms/image", found)


def _over_usual(report: Report, config: fcn.Config, device: torch.device) -> float:
    """Both in turns, an epoch each; the ratio of their medians."""
    usual = UsualRecipe(config, open_cache(config), device)
    ours: list[float] = []
    others: list[float] = []

    def take_turns(metrics: dict[str, float], _: fcn.Snapshot | None) -> None:
        ours.append(metrics["time/images_per_second"])
        others.append(usual.epoch())

    fcn.train(config, report=take_turns, device=device)
    fast = report.median("fcn.train, batch 16, beside the usual recipe", "images/s", ours[1:])
    return fast / report.median("usual recipe, batch 16", "images/s", others[1:])


if __name__ == "__main__":
    main()
