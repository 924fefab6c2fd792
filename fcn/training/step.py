"""The gradient of a whole batch, whatever part of it fits into memory at once.

Legend of tensor names: N images of this rank's share, C classes, H W pixels.
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
    """Leaves in each parameter's .grad the gradient of the mean loss over the valid pixels of a global batch.

    network: the model itself or a compiled form of it.
    class_weights: float32 (C,) on the device, or None.
    micro_batch: images at once; halved, and the batch repeated, when the device runs out of memory.
    alone: keeps what fails on one of several ranks, which gives zeros from then on, so that the others' collectives
    end; whoever calls take() has the ranks agree() on it.
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
        """On a GPU, lower micro_batch to what two small passes say will fit, so that few steps are repeated.

        to_allocate: bytes that the run will allocate later, its optimizer's state.
        """
        if self._device.type == "cuda" and self.micro_batch > 2:
            room = memory.gpu_memory(self._device).room - to_allocate
            at_most = memory.largest_batch(lambda count: self._peak(count, height, width), room)
            self.micro_batch = min(self.micro_batch, at_most)

    def warm_up(self, count: int, height: int, width: int) -> None:
        """A pass over so many black images, of which nothing stays."""
        images_NCHW = torch.zeros(count, 3, height, width, device=self._device)
        if self._device.type == "cuda":
            images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
        target_NHW = torch.zeros(count, height, width, dtype=torch.int64, device=self._device)
        # Of no whole batch: ranks warm up on different numbers, so nothing may be summed over them.
        self._try(images_NCHW, target_NHW, [0] * count, torch.ones((), device=self._device))
        for parameter in self._parameters:
            parameter.grad = None

    def _peak(self, count: int, height: int, width: int) -> int:
        """Bytes allocated at most in a pass of so many images."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self.warm_up(count, height, width)
        return torch.cuda.max_memory_allocated(self._device)

    def take(self, images_NCHW: Tensor, target_NHW: Tensor, seeds: Sequence[int]) -> Tensor:
        """seeds: of each image's dropout. Returns this rank's part of the loss, a scalar on the device.

        The sum of the parts over all ranks is the loss. Raises TrainingError where one image doesn't fit, unless there
        are other ranks: see alone.
        """
        weight_sum = self._weight_sum(target_NHW)
        loss = torch.zeros((), device=self._device)
        if self.local_failure.error is None:
            with self.local_failure.catch():
                loss = self._share(images_NCHW, target_NHW, seeds, weight_sum)
        gradients = []
        for parameter in self._parameters:
            if parameter.grad is None or self.local_failure.error is not None:
                # An empty share of a short batch, or a rank that failed.
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        # After the backward pass, not during it: a rank that repeats its share must not leave others waiting.
        sum_over_ranks(*gradients)
        return loss

    def _share(self, images_NCHW: Tensor, target_NHW: Tensor, seeds: Sequence[int], weight_sum: Tensor) -> Tensor:
        """This rank's part of the loss and of the gradient, in as many passes as its memory wants. No collectives."""
        while True:
            loss = self._try(images_NCHW, target_NHW, seeds, weight_sum)
            if loss is not None:
                return loss
            # Out here the failed attempt's activations are gone.
            self._halve(images_NCHW)

    def _try(self, images_NCHW: Tensor, target_NHW: Tensor, seeds: Sequence[int], weight_sum: Tensor) -> Tensor | None:
        """None: out of memory."""
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
        """The whole batch's, over all ranks: means of parts would weigh images with much void too heavily."""
        valid = target_NHW != VOID
        if self._class_weights is None:
            weight_sum = valid.sum().float()
        else:
            weight_sum = (self._class_weights[torch.where(valid, target_NHW, 0)] * valid).sum()
        sum_over_ranks(weight_sum)
        # A batch of void alone has the loss 0 and the gradient 0.
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
