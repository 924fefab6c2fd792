"""The metrics against scikit-learn and against the KITTI Road devkit's definitions in plain NumPy."""

import os
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, precision_recall_curve
from torch import Tensor

from fcn.evaluation.metrics import Confusion, ThresholdCounts, max_f1
from fcn.evaluation.scoring import class_probability, predicted_classes

CPU = torch.device("cpu")
VOID = 255


def frames(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities (N, H, W) that know something of the targets (N, H, W), and a tenth of void."""
    generator = torch.Generator().manual_seed(seed)
    target_NHW = torch.randint(0, 2, (count, 20, 30), generator=generator)
    noise_NHW = torch.rand(target_NHW.shape, generator=generator)
    probability_NHW = (0.4 * target_NHW + 0.6 * noise_NHW).clamp(0, 1)
    target_NHW[torch.rand(target_NHW.shape, generator=generator) < 0.1] = VOID
    return probability_NHW, target_NHW


def devkit(probability: npt.NDArray[np.float64], road: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Fritsch, Kuehnl, Geiger 2013, section IV, threshold by threshold."""
    rows = []
    for threshold in np.arange(256) / 255:
        taken = probability >= threshold
        tp, fp = int((taken & road).sum()), int((taken & ~road).sum())
        fn, tn = int((~taken & road).sum()), int((~taken & ~road).sum())
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn)
        f1 = 2 * precision * recall / (precision + recall) if tp else 0.0
        rows.append((f1, threshold, precision, recall, fp / (fp + tn), fn / (tp + fn), tp, tp + fn))
    best = max(rows, key=lambda row: (row[0], -row[1]))
    names = ("max_f1", "max_f1_threshold", "precision", "recall", "fpr", "fnr")
    levels = [max((row[2] for row in rows if row[6] * 10 >= tenth * row[7]), default=0.0) for tenth in range(11)]
    return dict(zip(names, best[:6], strict=True)) | {"average_precision": float(np.mean(levels))}


def test_iou_and_accuracy_agree_with_sklearn() -> None:
    generator = torch.Generator().manual_seed(0)
    target_NHW = torch.randint(0, 4, (5, 9, 11), generator=generator)
    index_NHW = torch.where(torch.rand(5, 9, 11, generator=generator) < 0.6, target_NHW, 3)
    target_NHW[0, 0] = VOID
    confusion = Confusion(("sky", "road", "car", "tree"), CPU)
    for image in range(5):
        confusion.update(index_NHW[image : image + 1], target_NHW[image : image + 1])
    valid = target_NHW != VOID
    true, predicted = target_NHW[valid].numpy(), index_NHW[valid].numpy()
    expected = jaccard_score(true, predicted, average=None)
    found = confusion.results()
    assert [found[f"iou_{name}"] for name in ("sky", "road", "car", "tree")] == pytest.approx(list(expected))
    assert found["mean_iou"] == pytest.approx(float(np.mean(expected)))
    assert found["mean_iou_classes"] == 4
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(true, predicted))


def test_an_absent_class_has_no_iou_and_the_mean_says_over_how_many_it_went() -> None:
    confusion = Confusion(("sky", "road", "car"), CPU)
    confusion.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 1, 1, 0]]]))
    assert confusion.results() == pytest.approx(
        {
            "iou_sky": 1 / 2,
            "iou_road": 2 / 3,
            "mean_iou": 7 / 12,
            "mean_iou_classes": 2,
            "pixel_accuracy": 3 / 4,
        }
    )


def test_a_class_that_is_only_predicted_has_an_iou_of_zero() -> None:
    confusion = Confusion(("sky", "road"), CPU)
    confusion.update(torch.tensor([[[1, 0]]]), torch.tensor([[[0, 0]]]))
    assert confusion.results()["iou_road"] == 0


def test_void_alone_gives_no_measure_at_all() -> None:
    void_NHW = torch.full((1, 4, 4), VOID)
    confusion, counts = Confusion(("background", "road"), CPU), ThresholdCounts(("",), CPU)
    confusion.update(torch.zeros(1, 4, 4, dtype=torch.int64), void_NHW)
    counts.update(torch.rand(1, 4, 4), void_NHW, torch.tensor([0]))
    assert confusion.results() == {}
    assert counts.results() == {}
    with pytest.raises(ValueError, match="F1 is undefined"):
        max_f1(*counts.pooled())


def test_the_devkits_figures_hold_per_category_and_for_urban() -> None:
    names = ("um", "umm", "uu")
    counts = ThresholdCounts(names, CPU)
    pooled: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    for batch in range(6):
        probability_NHW, target_NHW = frames(3, seed=batch)
        # A frame of each category in each batch, and harder ones in uu.
        probability_NHW[2] = probability_NHW[2] ** 2
        counts.update(probability_NHW, target_NHW, torch.tensor([0, 1, 2]))
        for place, name in enumerate(names):
            pooled[name].append((probability_NHW[place], target_NHW[place]))

    def expected(parts: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        probability = torch.stack([part[0] for part in parts]).double().numpy()
        target = torch.stack([part[1] for part in parts]).numpy()
        return devkit(probability[target != VOID], target[target != VOID] == 1)

    for name in names:
        assert counts.results(name) == pytest.approx(expected(pooled[name]), abs=1e-6)
    urban = expected([part for parts in pooled.values() for part in parts])
    assert counts.results() == pytest.approx(urban, abs=1e-6)
    assert 0.5 < urban["max_f1"] < 1


def test_max_f1_agrees_with_sklearns_precision_recall_curve() -> None:
    _, target_NHW = frames(4)
    level_NHW = torch.randint(0, 256, target_NHW.shape, generator=torch.Generator().manual_seed(3))
    level_NHW = (level_NHW + 90 * (target_NHW == 1)).clamp(max=255).to(torch.uint8)
    counts = ThresholdCounts(("",), CPU)
    counts.update(level_NHW, target_NHW, torch.zeros(4, dtype=torch.int64))
    valid = target_NHW != VOID
    precision, recall, thresholds = precision_recall_curve(
        (target_NHW[valid] == 1).numpy(), level_NHW[valid].numpy() / 255
    )
    f1 = 2 * precision * recall / (precision + recall)
    found = counts.results()
    assert found["max_f1"] == pytest.approx(float(np.nanmax(f1)), abs=1e-12)
    assert found["max_f1_threshold"] == pytest.approx(float(thresholds[np.nanargmax(f1)]))


def test_the_levels_of_a_png_and_their_probabilities_differ_by_no_pixel() -> None:
    level_NHW = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    target_NHW = (level_NHW > 100).long()
    category = torch.zeros(1, dtype=torch.int64)
    levels, probabilities = ThresholdCounts(("",), CPU), ThresholdCounts(("",), CPU)
    levels.update(level_NHW, target_NHW, category)
    probabilities.update(level_NHW.double() / 255, target_NHW, category)
    for one, other in zip(levels.pooled(), probabilities.pooled(), strict=True):
        assert torch.equal(one, other)


def test_the_lowest_threshold_wins_a_tie() -> None:
    counts = ThresholdCounts(("",), CPU)
    counts.update(torch.tensor([[[0.2, 0.8]]]), torch.tensor([[[0, 1]]]), torch.tensor([0]))
    found = counts.results()
    assert found["max_f1"] == 1
    assert found["max_f1_threshold"] == 52 / 255  # the first above 0.2


def test_a_split_without_background_has_no_false_positive_rate() -> None:
    counts = ThresholdCounts(("",), CPU)
    counts.update(torch.tensor([[[0.9]]]), torch.tensor([[[1]]]), torch.tensor([0]))
    assert "fpr" not in counts.results()
    assert counts.results()["max_f1"] == 1


def test_counts_take_the_same_memory_however_many_frames_there_are() -> None:
    counts = ThresholdCounts(("um", "umm", "uu"), CPU)
    empty = len(pickle.dumps(counts))
    for batch in range(20):
        probability_NHW, target_NHW = frames(2, seed=batch)
        counts.update(probability_NHW, target_NHW, torch.tensor([0, 2]))
    assert len(pickle.dumps(counts)) == empty


@pytest.mark.parametrize("classes", [2, 5])
def test_predicted_classes_and_probabilities_are_those_of_the_softmax(classes: int) -> None:
    logits_NCHW = 5 * torch.randn(2, classes, 6, 7, generator=torch.Generator().manual_seed(1))
    softmax = logits_NCHW.softmax(1)
    assert torch.equal(predicted_classes(logits_NCHW), softmax.argmax(1))
    for channel in range(classes):
        torch.testing.assert_close(class_probability(logits_NCHW, channel), softmax[:, channel])


def test_a_perfect_mask_scores_one_on_real_kitti_labels(tmp_path: Path) -> None:
    folder = os.environ.get("FCN_TEST_DATA")
    if folder is None:
        pytest.skip("FCN_TEST_DATA names no folder with kitti_road_tiny")
    from fcn import Config
    from fcn.data.cache import open_cache

    config = Config(data_dir=Path(folder) / "kitti_road_tiny", weights="none", cache_dir=tmp_path)
    cache = open_cache(config)
    counts, confusion = ThresholdCounts(("um",), CPU), Confusion(cache.dataset.classes, CPU)
    for labels in cache.labels:
        target_NHW = torch.from_numpy(np.array(labels)).long()[None]
        assert (target_NHW == VOID).any()
        perfect_NHW = (target_NHW == 1).long()
        counts.update(perfect_NHW.float(), target_NHW, torch.tensor([0]))
        confusion.update(perfect_NHW, target_NHW)
    assert counts.results()["max_f1"] == 1
    assert confusion.results()["mean_iou"] == 1


def test_what_a_bilinear_resize_does_to_real_kitti_labels_is_what_the_docs_say(tmp_path: Path) -> None:
    folder = os.environ.get("FCN_TEST_DATA")
    if folder is None:
        pytest.skip("FCN_TEST_DATA names no folder with kitti_road_tiny")
    from fcn import Config
    from fcn.data.cache import open_cache

    docs = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8").replace("\n", " ")
    config = Config(data_dir=Path(folder) / "kitti_road_tiny", weights="none", cache_dir=tmp_path)
    cache = open_cache(config)
    for frame, labels in zip(cache.dataset.frames, cache.labels, strict=True):
        assert frame.label is not None
        with Image.open(frame.label) as image:
            colours = np.asarray(image.convert("RGB").resize((576, 160), Image.Resampling.BILINEAR))
        not_red = (colours != (255, 0, 0)).any(axis=2)
        road, valid = labels == 1, labels != VOID
        assert f"{not_red.mean():.1%} road instead of {road.mean():.1%}".replace("%", " %") in docs
        # road lies in what is not pure red, so the intersection is the road, and the union the rest
        assert f"{road.sum() / not_red.sum():.2f}" in docs
        assert f"on valid pixels only {road.sum() / (not_red & valid).sum():.2f} on both" in docs
