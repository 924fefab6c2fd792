"""Metrics from counts that are summed over batches and ranks, so that memory doesn't grow with the number of frames.

Tensor names: N images, H W pixels. A pixel with target 255 is void and isn't counted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fcn.data.dataset import VOID
from fcn.distributed import sum_over_ranks

THRESHOLDS = 256


class Confusion:
    """Confusion matrix: the number of pixels of each true class that were predicted as each class."""

    def __init__(self, classes: tuple[str, ...], device: torch.device) -> None:
        self.classes = classes
        self._counts = _Histogram(len(classes) ** 2, device)

    @property
    def counts(self) -> Tensor:
        """int64 (true class, predicted class)."""
        return self._counts.bins.view(len(self.classes), -1)

    def update(self, index_NHW: Tensor, target_NHW: Tensor) -> None:
        """index_NHW: predicted class of each pixel; target_NHW: its true class, or 255."""
        self._counts.add(target_NHW * len(self.classes) + index_NHW, target_NHW != VOID)

    def all_reduce(self) -> None:
        sum_over_ranks(self._counts.bins)

    def results(self) -> dict[str, float]:
        """iou_CLASS for each class that occurs, mean_iou, mean_iou_classes (how many occur), pixel_accuracy.

        A class occurs if a pixel is of it or is predicted as it. Empty if there is no valid pixel.
        """
        counts = self.counts.cpu().double()
        hit, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        if counts.sum() == 0:
            return {}
        union = true + predicted - hit
        ious = {f"iou_{name}": float(hit[i] / union[i]) for i, name in enumerate(self.classes) if union[i] > 0}
        return ious | {
            "mean_iou": sum(ious.values()) / len(ious),
            "mean_iou_classes": float(len(ious)),
            "pixel_accuracy": float(hit.sum() / counts.sum()),
        }


class ThresholdCounts:
    """KITTI Road's counts: the pixels of the class, and of the rest, at each of 256 levels of probability.

    Counted for each category of frames (um, umm, uu); KITTI calls all categories together URBAN.
    Source: Fritsch, Kuehnl, Geiger, ITSC 2013, and its devkit.
    """

    def __init__(self, categories: tuple[str, ...], device: torch.device) -> None:
        self.categories = categories
        self._counts = _Histogram(len(categories) * 2 * THRESHOLDS, device)

    def update(self, probability_NHW: Tensor, target_NHW: Tensor, categories_N: Tensor) -> None:
        """probability_NHW: of the class, floating-point in [0, 1], or uint8 levels 0..255 as in the server's PNGs.

        target_NHW: 1 for the class, 0 for the rest, 255 for void. categories_N: int64, indices into categories.
        At threshold k / 255, the pixels whose probability is at least k / 255 are predicted as the class.
        """
        if probability_NHW.dtype == torch.uint8:
            level = probability_NHW.long()
        else:
            # In float64 the product is exact (24 + 8 bits), so each pixel is on the right side of every threshold.
            # nan_to_num: outputs that are not finite are reported with the loss, not here as an index out of bounds.
            level = (probability_NHW.double().nan_to_num() * (THRESHOLDS - 1)).long()
        row = 2 * categories_N.view(-1, 1, 1) + target_NHW
        self._counts.add(row * THRESHOLDS + level, target_NHW != VOID)

    def all_reduce(self) -> None:
        sum_over_ranks(self._counts.bins)

    def pooled(self, category: str | None = None) -> tuple[Tensor, Tensor]:
        """True and false positives at each threshold, int64 (256,), on the CPU. category: None for all together."""
        counts = self._counts.bins.view(len(self.categories), 2, THRESHOLDS).cpu()
        rest, of_class = counts.sum(0) if category is None else counts[self.categories.index(category)]
        return of_class.flip(0).cumsum(0).flip(0), rest.flip(0).cumsum(0).flip(0)

    def results(self, category: str | None = None) -> dict[str, float]:
        """max_f1, max_f1_threshold, average_precision, and at that threshold precision, recall, fpr and fnr.

        Empty if no pixel is of the class, since F1 is then undefined; without fpr if no pixel is of the rest.
        """
        true_positives, false_positives = self.pooled(category)
        # At the lowest threshold, 0, every pixel is predicted as the class.
        positives, negatives = int(true_positives[0]), int(false_positives[0])
        if positives == 0:
            return {}
        best = max_f1(true_positives, false_positives)
        at = best.level
        results = {
            "max_f1": best.f1,
            "max_f1_threshold": at / (THRESHOLDS - 1),
            "average_precision": average_precision(true_positives, false_positives),
            "precision": float(true_positives[at] / (true_positives[at] + false_positives[at])),
            "recall": int(true_positives[at]) / positives,
            "fnr": 1 - int(true_positives[at]) / positives,
        }
        if negatives:
            results["fpr"] = int(false_positives[at]) / negatives
        return results


@dataclass(frozen=True)
class MaxF1:
    f1: float
    level: int  # of its threshold, level / 255


def max_f1(true_positives: Tensor, false_positives: Tensor) -> MaxF1:
    """The highest F1 over all thresholds: KITTI Road's MaxF.

    Counts: int64 (256,), from ThresholdCounts.pooled(). On a tie the lowest threshold wins.
    Raises ValueError if no valid pixel is of the class: F1 is then undefined, not zero.
    Source: Fritsch, Kuehnl, Geiger, ITSC 2013.
    """
    positives = int(true_positives[0])
    if positives == 0:
        raise ValueError("F1 is undefined: no valid pixel is of the class")
    # F1 = 2 TP / (2 TP + FP + FN), and TP + FN are the pixels of the class.
    f1 = 2 * true_positives.double() / (true_positives + false_positives + positives)
    values: list[float] = f1.tolist()
    level = max(range(THRESHOLDS), key=lambda k: (values[k], -k))
    return MaxF1(values[level], level)


def average_precision(true_positives: Tensor, false_positives: Tensor) -> float:
    """Mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or above (Pascal VOC 2007).

    Counts: int64 (256,), from ThresholdCounts.pooled(), with at least one pixel of the class.
    """
    positives = true_positives[0]
    taken = true_positives + false_positives
    # Where no pixel is predicted as the class, precision is undefined and counts as 0, as in the devkit.
    precision = torch.where(true_positives > 0, true_positives.double() / taken.clamp_min(1), 0.0)
    # Compared in integers, since 0.3 in floating point isn't exactly 3/10.
    best = [precision[10 * true_positives >= tenth * positives].max() for tenth in range(11)]
    return float(torch.stack(best).mean())


class _Histogram:
    """Counts of the indices 0..size-1. Adding doesn't wait for the device."""

    def __init__(self, size: int, device: torch.device) -> None:
        # An extra bin counts the invalid pixels: selecting the valid ones would wait for the device to count them.
        self._all = torch.zeros(size + 1, dtype=torch.int64, device=device)
        self.bins = self._all[:size]

    def add(self, index: Tensor, valid: Tensor) -> None:
        index = torch.where(valid, index, len(self.bins)).flatten()
        self._all.scatter_add_(0, index, self._all.new_ones(()).expand_as(index))
