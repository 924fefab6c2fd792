"""Batches follow from seed, epoch and position alone, and change images and labels together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fcn import memory
from fcn.config import Config
from fcn.data.cache import Cache, open_cache
from fcn.data.dataset import VOID, Dataset, Decoded, Frame
from fcn.inputs.augmentation import Augmentation
from fcn.inputs.batches import Batches, may_live_on
from fcn.memory import GpuMemory
from fcn.model.pretrained import normalisation

CPU = torch.device("cpu")
EVERYTHING = {
    "flip": 0.5,
    "scale_jitter": 0.3,
    "gamma": 0.3,
    "brightness": 0.2,
    "contrast": 0.2,
    "colour": 0.3,
}


def configure(**settings: Any) -> Config:
    return Config(**{"dataset": "scenes", "weights": "none", "image_size": (16, 24), "flip": 0.0, **settings})


def make_cache(count: int = 11, size: tuple[int, int] = (16, 24)) -> Cache:
    """Frames of noise; a label says where its image is bright, so that a pair can be checked."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    images[:, 0, 0] = np.arange(count)[:, None]  # tells which frame it is
    labels = (images[..., 0] > 127).astype(np.uint8)
    labels[:, -1] = VOID
    frames = tuple(Frame(f"f{i}", f"s{i}", None, None) for i in range(count))
    dataset = Dataset("noise", ("background", "road"), frames, {}, (), 1, lambda _: Decoded(images[0], labels[0]))
    return Cache(dataset, images, labels, Path(f"/nowhere/{count}x{size[0]}x{size[1]}"))


def to_pixels(images_NCHW: Tensor, config: Config) -> Tensor:
    norm = normalisation(config)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (norm.mean, norm.std))
    return (images_NCHW * std + mean) * 255


def frame_numbers(images_NCHW: Tensor, config: Config) -> list[int]:
    return [int(n) for n in to_pixels(images_NCHW, config)[:, 0, 0, 0].round()]


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_evaluation_gives_each_frame_once_in_order_normalised_as_the_weights_want(weights: str) -> None:
    config, cache = configure(weights=weights, batch_size=4, **({"width": 1.0})), make_cache()
    indices = [9, 2, 3, 7, 0, 1]
    batches = list(Batches(cache, indices, config, CPU).epoch(3, train=False))
    images_NCHW, target_NHW = (torch.cat(parts) for parts in zip(*batches, strict=True))
    norm = normalisation(config)
    expected = (cache.images[indices] / 255 - np.array(norm.mean)) / np.array(norm.std)
    np.testing.assert_allclose(images_NCHW.permute(0, 2, 3, 1), expected, atol=1e-5)
    np.testing.assert_array_equal(target_NHW, cache.labels[indices])
    assert (images_NCHW.dtype, target_NHW.dtype, images_NCHW.is_contiguous()) == (
        torch.float32,
        torch.int64,
        True,
    )


def test_training_shows_each_frame_once_an_epoch_in_another_order_each_epoch() -> None:
    config, cache = configure(batch_size=4), make_cache()
    batches = Batches(cache, range(11), config, CPU)
    assert len(batches) == 3
    orders = [
        [n for images, _ in batches.epoch(epoch, train=True) for n in frame_numbers(images, config)]
        for epoch in range(3)
    ]
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert [len(images) for images, _ in batches.epoch(0, train=True)] == [4, 4, 3]


def test_the_same_seed_and_epoch_give_the_same_batches_and_another_seed_others() -> None:
    cache = make_cache()
    runs = [
        torch.cat(
            [images for images, _ in Batches(cache, range(11), configure(seed=seed, **EVERYTHING), CPU).epoch(2, True)]
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_give_the_global_batches_of_one(world_size: int) -> None:
    config, cache = configure(batch_size=4, **EVERYTHING), make_cache()
    whole = list(Batches(cache, range(11), config, CPU).epoch(1, train=True))
    ranks = [
        list(Batches(cache, range(11), config, CPU, rank=rank, world_size=world_size).epoch(1, train=True))
        for rank in range(world_size)
    ]
    assert {len(shares) for shares in ranks} == {3}
    for step, (images_NCHW, target_NHW) in enumerate(whole):
        for rank in range(world_size):
            torch.testing.assert_close(ranks[rank][step][0], images_NCHW[rank::world_size], rtol=0, atol=1e-6)
            assert torch.equal(ranks[rank][step][1], target_NHW[rank::world_size])
    # 11 frames in batches of 4: a fourth rank has nothing left in the last one.
    assert world_size < 4 or len(ranks[3][2][0]) == 0


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_over_ranks_counts_no_frame_twice(world_size: int) -> None:
    config, cache = configure(batch_size=4), make_cache()
    seen = [
        n
        for rank in range(world_size)
        for images, _ in Batches(cache, range(11), config, CPU, rank=rank, world_size=world_size).epoch(0, train=False)
        for n in frame_numbers(images, config)
    ]
    assert sorted(seen) == list(range(11))


def test_an_epoch_taken_up_in_the_middle_goes_on_with_the_same_batches() -> None:
    config, cache = configure(batch_size=3, **EVERYTHING), make_cache()
    batches = Batches(cache, range(11), config, CPU)
    whole, rest = list(batches.epoch(5, True)), list(batches.epoch(5, True, start=2))
    assert len(rest) == 2
    for (images, target), (again, target_again) in zip(whole[2:], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(target, target_again)


def test_a_mirrored_image_has_its_label_mirrored() -> None:
    cache = make_cache()
    config = configure(flip=1.0, batch_size=11)
    images_NCHW, target_NHW = next(Batches(cache, range(11), config, CPU).epoch(0, train=True))
    pixels = to_pixels(images_NCHW, config).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    order = [int(n) for n in pixels[:, 0, -1, 0]]
    np.testing.assert_array_equal(pixels, cache.images[order][:, :, ::-1])
    np.testing.assert_array_equal(target_NHW, cache.labels[order][:, :, ::-1])


def test_half_of_the_images_are_mirrored_at_one_half() -> None:
    cache = make_cache(200, (4, 4))
    config = configure(flip=0.5, batch_size=200)
    images_NCHW, _ = next(Batches(cache, range(200), config, CPU).epoch(0, train=True))
    pixels = to_pixels(images_NCHW, config).round()
    plain = (pixels[:, :, 0, 0] == pixels[:, :1, 0, 0]).all(dim=1)  # the mark is still at the left
    assert 70 < plain.sum() < 130


def smooth_pair(count: int = 8, size: tuple[int, int] = (48, 64)) -> tuple[Tensor, Tensor]:
    """Images that are black and white beside a slanted edge, and labels that say which."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    label = ((columns + 0.5 * rows) > 44).to(torch.uint8)
    images_NCHW = (label * 255)[None, None].expand(count, 3, *size).contiguous()
    return images_NCHW, label.expand(count, *size).contiguous()


def test_scale_and_crop_move_image_and_label_together_and_leave_void_outside() -> None:
    images_NCHW, labels_NHW = smooth_pair()
    draws = torch.rand((8, Augmentation.DRAWS), generator=torch.Generator().manual_seed(0))
    fill = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)
    augmentation = Augmentation(configure(scale_jitter=0.5, flip=0.5))
    images, labels = augmentation(images_NCHW, labels_NHW, draws, fill)
    assert set(labels.flatten().tolist()) == {0, 1, VOID}
    inside = labels != VOID
    agree = (images[:, 0] > 127) == (labels == 1)
    # At the edges bilinear and nearest may differ by half a pixel.
    assert agree[inside].float().mean() > 0.97
    outside = torch.nn.functional.max_pool2d(inside[:, None].float(), 3, stride=1, padding=1)[:, 0] == 0
    assert outside.any()
    torch.testing.assert_close(images.permute(0, 2, 3, 1)[outside], fill.view(1, 3).expand(int(outside.sum()), 3))


def test_no_change_of_scale_gives_the_image_back() -> None:
    images_NCHW, labels_NHW = smooth_pair()
    draws = torch.full((8, Augmentation.DRAWS), 0.5)  # the middle of every range; 0.5 < 0.4 is false: not mirrored
    augmentation = Augmentation(configure(**{**EVERYTHING, "flip": 0.4}))
    images, labels = augmentation(images_NCHW, labels_NHW, draws, torch.zeros(1, 3, 1, 1))
    torch.testing.assert_close(images, images_NCHW.float(), rtol=0, atol=0.02)
    assert torch.equal(labels, labels_NHW)


def relit(
    settings: dict[str, float], draw: float, pixel: tuple[int, int, int], other: tuple[int, int, int]
) -> list[float]:
    """The first of two pixels, after one change at one end of its range."""
    images_NCHW = torch.tensor([pixel, other], dtype=torch.uint8).T.reshape(1, 3, 1, 2)
    draws = torch.full((1, Augmentation.DRAWS), draw)
    augmentation = Augmentation(configure(**settings))
    images, _ = augmentation(images_NCHW, torch.zeros((1, 1, 2), dtype=torch.uint8), draws, torch.zeros(1, 3, 1, 1))
    return [float(value) for value in images[0, :, 0, 0]]


def test_brightness_contrast_colour_and_gamma_are_what_their_formulas_say() -> None:
    pixel, other = (100, 50, 180), (20, 40, 60)
    grey = [float(np.dot((0.299, 0.587, 0.114), p)) for p in (pixel, other)]
    mean = sum(grey) / 2
    assert relit({"brightness": 0.2}, 0.0, pixel, other) == pytest.approx([80, 40, 144], abs=1e-3)
    assert relit({"gamma": 0.5}, 1.0, pixel, other) == pytest.approx([255 * (p / 255) ** 1.5 for p in pixel], abs=1e-3)
    assert relit({"contrast": 0.4}, 1.0, pixel, other) == pytest.approx(
        [mean + (p - mean) * 1.4 for p in pixel], abs=1e-3
    )
    assert relit({"colour": 0.5}, 0.0, pixel, other) == pytest.approx(
        [grey[0] + (p - grey[0]) * 0.5 for p in pixel], abs=1e-3
    )
    assert relit({"brightness": 0.9}, 1.0, (250, 250, 250), other) == [255.0, 255.0, 255.0]


def test_turning_one_change_on_leaves_the_others_as_they_fall() -> None:
    cache = make_cache()
    config = configure(flip=0.5, batch_size=11)
    with_light = config.model_copy(update={"brightness": 0.2})
    plain, lit = (
        next(Batches(cache, range(11), settings, CPU).epoch(0, train=True)) for settings in (config, with_light)
    )
    assert torch.equal(plain[1], lit[1])


def test_evaluation_is_never_augmented() -> None:
    config, cache = configure(batch_size=11, **EVERYTHING), make_cache()
    images_NCHW, _ = next(Batches(cache, range(11), config, CPU).epoch(0, train=False))
    np.testing.assert_allclose(to_pixels(images_NCHW, config).permute(0, 2, 3, 1), cache.images, atol=1e-3)


def test_no_index_is_no_batch() -> None:
    assert len(Batches(make_cache(), [], configure(), CPU)) == 0
    assert list(Batches(make_cache(), [], configure(), CPU).epoch(0, train=False)) == []


def test_batches_decode_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(frames=8, cache_dir=tmp_path, batch_size=4)
    open_cache(config)
    monkeypatch.setattr(Dataset, "read", lambda *_: pytest.fail("a frame was decoded"))
    cache = open_cache(config)
    assert sum(len(images) for images, _ in Batches(cache, range(8), config, CPU).epoch(0, train=True)) == 8


# On a GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("share", [0.3, 0.0])
def test_a_gpu_gets_the_batches_of_the_cpu_resident_or_streamed(share: float) -> None:
    config, cache = configure(batch_size=3, flip=0.5, gpu_cache_fraction=share), make_cache()
    device = torch.device("cuda", 0)
    on_cpu = list(Batches(cache, range(11), config, CPU).epoch(1, train=True))
    on_gpu = list(Batches(cache, range(11), config, device).epoch(1, train=True))
    for (images, target), (there, target_there) in zip(on_cpu, on_gpu, strict=True):
        assert there.device == device
        torch.testing.assert_close(there.cpu(), images, rtol=0, atol=1e-5)
        assert torch.equal(target_there.cpu(), target)


@pytest.mark.gpu
@needs_gpu
def test_two_sets_of_batches_share_one_copy_on_the_gpu() -> None:
    cache, device = make_cache(64, (64, 64)), torch.device("cuda", 0)
    first = Batches(cache, range(32), configure(), device)
    before = torch.cuda.memory_allocated(device)
    second = Batches(cache, range(32, 64), configure(), device)
    assert torch.cuda.memory_allocated(device) - before < cache.nbytes / 4
    del first, second


@pytest.mark.parametrize(
    ("share", "reserved", "stays"),
    [
        (1.0, 0, True),  # 0.3 of 70 GB
        (0.25, 0, False),  # 0.3 of 20 GB
        (0.5, 0, True),  # 0.3 of 40 GB
        (0.5, 20 * 10**9, False),  # 0.3 of the 20 GB that are left of 40
        (0.25, 30 * 10**9, False),  # more than its share already
    ],
)
def test_pixels_live_on_a_gpu_by_what_its_process_may_have_of_it(share: float, reserved: int, stays: bool) -> None:
    gpu = GpuMemory(total=80 * 10**9, free=70 * 10**9 - reserved, reserved=reserved, share=share)
    assert may_live_on(gpu, 10 * 10**9, fraction=0.3) == stays


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_trial_with_a_small_share_of_a_gpu_streams_what_a_whole_gpu_keeps() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    size = (1024, 2048)
    cache = make_cache(8, size)
    fraction = 4 * cache.nbytes / memory.gpu_memory(device).headroom
    config = configure(image_size=size, batch_size=4, gpu_cache_fraction=fraction)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.set_per_process_memory_fraction(0.1, device)
    try:
        streamed = Batches(cache, range(8), config, device)
        assert torch.cuda.memory_allocated(device) - before < cache.nbytes
        given = [images.cpu() for images, _ in streamed.epoch(0, train=False)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    resident = Batches(cache, range(8), config, device)
    assert torch.cuda.memory_allocated(device) - before >= cache.nbytes
    for one, other in zip(given, resident.epoch(0, train=False), strict=True):
        torch.testing.assert_close(one, other[0].cpu())
