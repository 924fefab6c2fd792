"""Scores a split: each of its frames once, spread over all ranks.

Tensor names: N images, C classes, H W pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fcn.config import Config
from fcn.data.cache import Cache
from fcn.data.dataset import VOID, Dataset
from fcn.distributed import fail_together, rank, sum_over_ranks, world_size
from fcn.errors import TrainingError
from fcn.evaluation.metrics import Confusion, ThresholdCounts
from fcn.inputs.batches import Batches


def evaluate(
    predict: Callable[[Tensor], Tensor],
    cache: Cache,
    split: str,
    config: Config,
    device: torch.device,
    prefix: str = "val/",
    *,
    micro_batch: int | None = None,
    seen: Callable[[int, Tensor], None] | None = None,
) -> dict[str, float]:
    """Metrics of a split, under names that start with prefix; a metric that is undefined there is left out.

    predict: takes images_NCHW, normalised, on the device, and returns logits_NCHW on the device. To score in the
    precision of a run, call evaluate() within precision.autocast. micro_batch: the most images at once.
    seen: called for each frame that this rank scores, with its position in the split and the predicted classes (H, W).
    The loss is the mean over valid pixels, without class weights, so that runs with different hyperparameters compare.
    Raises TrainingError if the outputs are not finite.
    """
    indices = cache.dataset.splits[split]
    with torch.no_grad(), fail_together():
        batches = Batches(cache, indices, config, device, rank=rank(), world_size=world_size())
        score = _Score(cache.dataset, split, device)
        for step, (images_NCHW, target_NHW) in enumerate(batches.epoch(0, train=False)):
            first = step * config.batch_size
            positions = list(range(first + rank(), min(first + config.batch_size, len(indices)), world_size()))
            at_once = micro_batch or len(positions)
            for start in range(0, len(positions), at_once):
                part = slice(start, start + at_once)
                predicted_NHW = score.add(predict(images_NCHW[part]), target_NHW[part], positions[part])
                if seen is not None:
                    for position, predicted_HW in zip(positions[part], predicted_NHW, strict=True):
                        seen(position, predicted_HW)
    return {prefix + name: value for name, value in score.results(prefix).items()}


def metric_names(dataset: Dataset) -> tuple[str, ...]:
    """The metrics that evaluate() returns, without prefix, for a split in which every class occurs."""
    names = ["loss", "mean_iou", "mean_iou_classes", "pixel_accuracy", *(f"iou_{c}" for c in dataset.classes)]
    if dataset.positive is not None:
        names += ["max_f1", "max_f1_threshold", "average_precision", "precision", "recall", "fpr", "fnr"]
    return tuple(names)


def predicted_classes(logits_NCHW: Tensor) -> Tensor:
    """Predicted classes, int64 (N, H, W). On a tie the lower class wins."""
    if logits_NCHW.shape[1] == 2:
        return (logits_NCHW[:, 1] > logits_NCHW[:, 0]).long()
    # Not argmax: on a CPU it takes sixteen times as long over few channels.
    return logits_NCHW.max(dim=1).indices


def class_probability(logits_NCHW: Tensor, channel: int) -> Tensor:
    """Probability of one class by softmax, float32 (N, H, W)."""
    logits_NCHW = logits_NCHW.float()
    if logits_NCHW.shape[1] == 2:
        return (logits_NCHW[:, channel] - logits_NCHW[:, 1 - channel]).sigmoid()
    return logits_NCHW.softmax(dim=1)[:, channel]


class _Score:
    """The counts over a split. Only results() waits for the device."""

    def __init__(self, dataset: Dataset, split: str, device: torch.device) -> None:
        self._positive = dataset.positive
        self._confusion = Confusion(dataset.classes, device)
        categories = [dataset.frames[index].category or "" for index in dataset.splits[split]]
        names = tuple(sorted(set(categories)))
        self._thresholds = ThresholdCounts(names, device)
        self._categories_F = torch.tensor([names.index(name) for name in categories], device=device)
        # Summed loss, and number of valid pixels.
        self._loss = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, logits_NCHW: Tensor, target_NHW: Tensor, positions: list[int]) -> Tensor:
        """Counts a batch, and returns its predicted classes (N, H, W)."""
        logits_NCHW = logits_NCHW.float()
        self._loss[0] += functional.cross_entropy(logits_NCHW, target_NHW, ignore_index=VOID, reduction="sum")
        self._loss[1] += (target_NHW != VOID).sum()
        predicted_NHW = predicted_classes(logits_NCHW)
        self._confusion.update(predicted_NHW, target_NHW)
        if self._positive is not None:
            void = target_NHW == VOID
            of_class_NHW = torch.where(void, VOID, (target_NHW == self._positive).long())
            # The positions of a shard are evenly spaced, so a slice takes them without a copy to the device.
            step = positions[1] - positions[0] if len(positions) > 1 else 1
            categories_N = self._categories_F[positions[0] : positions[-1] + 1 : step]
            self._thresholds.update(class_probability(logits_NCHW, self._positive), of_class_NHW, categories_N)
        return predicted_NHW

    def results(self, prefix: str) -> dict[str, float]:
        sum_over_ranks(self._loss)
        self._confusion.all_reduce()
        self._thresholds.all_reduce()
        loss, pixels = self._loss.tolist()
        results = self._confusion.results()
        if pixels > 0:
            results["loss"] = loss / pixels
            if not torch.isfinite(self._loss[0]):
                raise TrainingError(
                    f"{prefix}loss is {loss / pixels}: the outputs are not finite; try a lower learning_rate"
                )
        if self._positive is not None:
            results |= self._thresholds.results()
        return results
