"""The gradient of a whole batch, however few of its images fit into memory at once.

Tensor names: N images of this rank's shard of the batch, C classes, H W pixels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fcn import memory
from fcn.config import Config
from fcn.data.dataset import VOID
from fcn.distributed import LocalFailure, sum_over_ranks
from fcn.errors import TrainingError
from fcn.model.fcn8s import FCN8s
from fcn.model.precision import autocast


class BatchGradient:
    """Computes the gradient of the mean loss over the valid pixels of a global batch, into each parameter's .grad.

    network: the model itself or a compiled form of it.
    class_weights: float32 (C,) on the device, or None.
    micro_batch: images at once; halved, and the batch repeated, when the device runs out of memory.
    local_failure: keeps an exception of this rank if there are others. From then on this rank's gradients are zero, so
    that the others' collectives end. The caller of take() passes local_failure.error to raise_on_all_ranks().
    """

    def __init__(
        self,
        model: FCN8s,
        network: Callable[..., Tensor],
        config: Config,
        device: torch.device,
        class_weights: Tensor | None,
        micro_batch: int,
    ) -> None:
        self._model, self._network = model, network
        self._config, self._device = config, device
        self._class_weights = class_weights
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.micro_batch = micro_batch
        self.local_failure = LocalFailure()

    def fit(self, height: int, width: int, to_allocate: int) -> None:
        """On a GPU, lowers micro_batch to what two small passes predict will fit, so that few steps are repeated.

        to_allocate: bytes that the run will allocate later, for the optimizer's state.
        """
        if self._device.type == "cuda" and self.micro_batch > 2:
            available = memory.gpu_memory(self._device).available - to_allocate
            at_most = memory.largest_batch(lambda count: self._peak(count, height, width), available)
            self.micro_batch = min(self.micro_batch, at_most)

    def warm_up(self, count: int, height: int, width: int) -> None:
        """A forward and backward pass over `count` black images, whose gradients are dropped."""
        images_NCHW = torch.zeros(count, 3, height, width, device=self._device)
        if self._device.type == "cuda":
            images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
        target_NHW = torch.zeros(count, height, width, dtype=torch.int64, device=self._device)
        # _try() and not take(): ranks warm up on different counts, so nothing may be summed over them.
        self._try(images_NCHW, target_NHW, [0] * count, torch.ones((), device=self._device))
        for parameter in self._parameters:
            parameter.grad = None

    def _peak(self, count: int, height: int, width: int) -> int:
        """Peak of the allocated bytes in a pass of `count` images."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self.warm_up(count, height, width)
        return torch.cuda.max_memory_allocated(self._device)

    def take(self, images_NCHW: Tensor, target_NHW: Tensor, seeds: Sequence[int]) -> Tensor:
        """Computes the gradient of one batch. Returns this rank's part of the loss, a scalar on the device.

        seeds: one an image, for its dropout. The loss is the sum of the parts over all ranks. Raises TrainingError if
        not even one image fits into memory; with several ranks the error is kept in local_failure instead.
        """
        weight_sum = self._weight_sum(target_NHW)
        loss = torch.zeros((), device=self._device)
        if self.local_failure.error is None:
            with self.local_failure.catch():
                loss = self._of_shard(images_NCHW, target_NHW, seeds, weight_sum)
        gradients = []
        for parameter in self._parameters:
            if parameter.grad is None or self.local_failure.error is not None:
                # This rank's shard of a short batch is empty, or this rank failed.
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        # After the backward pass, not during it: a rank that repeats its shard must not repeat the collective.
        sum_over_ranks(*gradients)
        return loss

    def _of_shard(self, images_NCHW: Tensor, target_NHW: Tensor, seeds: Sequence[int], weight_sum: Tensor) -> Tensor:
        """This rank's part of the loss and the gradient, in as many passes as its memory needs. No collectives."""
        while True:
            loss = self._try(images_NCHW, target_NHW, seeds, weight_sum)
            if loss is not None:
                return loss
            # Not in _try(), where the failed attempt's activations still take memory.
            self._halve(images_NCHW)

    def _try(self, images_NCHW: Tensor, target_NHW: Tensor, seeds: Sequence[int], weight_sum: Tensor) -> Tensor | None:
        """This rank's part of the loss; None if memory ran out."""
        for parameter in self._parameters:
            parameter.grad = None
        loss = torch.zeros((), device=self._device)
        try:
            for first in range(0, len(images_NCHW), self.micro_batch):
                part = slice(first, first + self.micro_batch)
                part_loss = self._loss(images_NCHW[part], target_NHW[part], seeds[part]) / weight_sum
                part_loss.backward()  # type: ignore[no-untyped-call]
                loss += part_loss.detach()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        return loss

    def _loss(self, images_NCHW: Tensor, target_NHW: Tensor, seeds: Sequence[int]) -> Tensor:
        keep = None
        if self._model.dropout > 0:
            height, width = images_NCHW.shape[2:]
            keep = self._model.keep_masks(height, width, seeds, self._device)
        with autocast(self._config, self._device):
            logits_NCHW = self._network(images_NCHW, keep)
        return functional.cross_entropy(
            logits_NCHW.float(), target_NHW, self._class_weights, ignore_index=VOID, reduction="sum"
        )

    def _weight_sum(self, target_NHW: Tensor) -> Tensor:
        """The summed weight of the valid pixels of the batch, over all ranks.

        The loss is divided by it once: a mean of the parts' means would weigh images with many void pixels too much.
        """
        valid = target_NHW != VOID
        if self._class_weights is None:
            weight_sum = valid.sum().float()
        else:
            weight_sum = (self._class_weights[torch.where(valid, target_NHW, 0)] * valid).sum()
        sum_over_ranks(weight_sum)
        # A batch of void pixels only has the loss 0 and the gradient 0.
        return torch.where(weight_sum > 0, weight_sum, 1)

    def _halve(self, images_NCHW: Tensor) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        at_once = min(self.micro_batch, len(images_NCHW))
        if at_once <= 1:
            height, width = images_NCHW.shape[2:]
            raise TrainingError(
                f"out of memory on {self._device} with one image of {height}x{width} at a time: "
                "make image_size, width or fc_width smaller"
            )
        self.micro_batch = at_once // 2
        memory.record_limit(self._config, self._device, self.micro_batch)


def is_out_of_memory(error: BaseException) -> bool:
    # A CPU's allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
