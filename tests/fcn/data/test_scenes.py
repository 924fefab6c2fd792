"""Generated scenes are the same everywhere, look like streets, and tell a good model from a trivial one."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fcn.config import Config
from fcn.data.dataset import Dataset
from fcn.data.readers import open_dataset
from fcn.data.readers.scenes import FRAMES_A_SEQUENCE, draw_scene
from fcn.data.scenes.ground import CLASSES, ROAD, SKY

SIZE = (64, 192)


def scenes(frames: int = 24, classes: str = "road", seed: int = 0) -> Dataset:
    return open_dataset(
        Config(dataset="scenes", weights="none", image_size=SIZE, frames=frames, classes=classes, seed=seed)
    )


def test_a_scene_is_the_same_each_time_and_whatever_the_runs_seed() -> None:
    first = [scenes(seed=0).read(index) for index in (0, 7)]
    second = [scenes(seed=5).read(index) for index in (0, 7)]
    for (image, label), (again, label_again) in zip(first, second, strict=True):
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(label, label_again)


def test_the_number_of_frames_does_not_change_a_scene() -> None:
    np.testing.assert_array_equal(scenes(24).read(5)[0], scenes(6).read(5)[0])


def test_no_two_scenes_are_the_same() -> None:
    dataset = scenes()
    seen = {hashlib.sha256(dataset.read(index)[0].tobytes()).hexdigest() for index in range(len(dataset.frames))}
    assert len(seen) == len(dataset.frames)


def test_frames_of_one_street_are_more_alike_than_frames_of_two() -> None:
    dataset = scenes()
    pixels = np.stack([dataset.read(index)[0] for index in range(len(dataset.frames))]).astype(np.float32)
    means = pixels.mean(axis=(1, 2))  # frames x RGB: the light and the camera
    street = np.arange(len(means)) // FRAMES_A_SEQUENCE
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1)
    same = (street[:, None] == street[None]) & ~np.eye(len(means), dtype=bool)
    assert apart[same].mean() < 0.6 * apart[street[:, None] != street[None]].mean()


def test_no_street_lies_in_two_splits() -> None:
    dataset = scenes(60)
    parts = [set(dataset.sequences(split)) for split in ("train", "val", "test")]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_every_class_appears_and_the_road_lies_below_the_sky() -> None:
    labels = np.stack([draw_scene(street, 0, SIZE)[1] for street in range(24)])
    assert set(np.unique(labels)) == set(range(len(CLASSES)))
    rows = np.arange(SIZE[0])[None, :, None]
    assert (rows * (labels == SKY)).sum() / (labels == SKY).sum() < 24
    assert (rows * (labels == ROAD)).sum() / (labels == ROAD).sum() > 40


def test_a_fixed_mask_scores_far_below_what_a_network_reaches() -> None:
    dataset = scenes(72)
    labels = np.stack([dataset.read(index)[1] for index in range(len(dataset.frames))])
    train, val = (labels[list(dataset.splits[split])] == 1 for split in ("train", "val"))
    best = max(_iou(train.mean(axis=0) > threshold, val) for threshold in (0.3, 0.4, 0.5, 0.6))
    assert best < 0.72, f"a mask that looks at no pixel scores {best:.3f}"


def test_colour_alone_does_not_find_the_road() -> None:
    dataset = scenes(48)
    pixels, roads = zip(*(dataset.read(index) for index in range(len(dataset.frames))), strict=True)
    images, road = np.stack(pixels).astype(np.float32), np.stack(roads) == 1
    grey = images.mean(axis=-1)
    saturation = images.max(axis=-1) - images.min(axis=-1)
    best = max(
        _iou((np.abs(grey - middle) < width) & (saturation < limit), road)
        for middle in (60, 80, 100, 120)
        for width in (20, 40, 60)
        for limit in (15, 30, 60)
    )
    assert best < 0.65, f"a threshold on colours scores {best:.3f}"


@pytest.mark.parametrize("size", [(16, 16), (33, 57), (96, 128), (160, 576)])
def test_scenes_are_drawn_at_any_size(size: tuple[int, int]) -> None:
    image, label = draw_scene(0, 0, size)
    assert (image.shape, label.shape) == ((*size, 3), size)


def _iou(mask: np.ndarray, roads: np.ndarray) -> float:
    return float((mask & roads).sum() / (mask | roads).sum())
