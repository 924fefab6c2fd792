"""One pass over the training split.

Tensor names: N images of this rank's shard of a batch, C channels, H W pixels.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fcn.config import Config
from fcn.data.cache import Cache
from fcn.data.dataset import VOID
from fcn.distributed import fail_together, raise_on_all_ranks, rank, sum_over_ranks, world_size
from fcn.errors import TrainingError
from fcn.inputs.batches import Batches
from fcn.training.optimizer import bytes_to_allocate, learning_rate, set_learning_rate
from fcn.training.state import RunState
from fcn.training.step import BatchGradient

# Called once an epoch, a failed one included, with the epoch and the loss of each of its batches over all ranks.
BatchLosses = Callable[[int, list[float]], None]


class EpochTrainer:
    """Trains a run's state, one epoch at a time."""

    def __init__(
        self,
        state: RunState,
        cache: Cache,
        config: Config,
        device: torch.device,
        batch_losses: BatchLosses | None = None,
    ) -> None:
        self._state, self._config, self._device = state, config, device
        self._batch_losses = batch_losses
        frames = cache.dataset.splits["train"]
        self._frame_count = len(frames)
        self._batches = Batches(cache, frames, config, device, rank=rank(), world_size=world_size())
        weights = balanced_weights(cache) if config.class_weights == "balanced" else None
        self._gradient = BatchGradient(
            state.model,
            _compiled(state.model) if config.compile else state.model,
            config,
            device,
            None if weights is None else weights.to(device),
            state.micro_batch,
        )
        self._compile_seconds = 0.0
        if config.compile:
            self._compile_seconds = self._warm_up()
        else:
            # Not for a compiled network, which would be compiled for the batch sizes of fit()'s two passes as well.
            self._gradient.fit(*config.image_size, to_allocate=bytes_to_allocate(state.optimizer))

    def _warm_up(self) -> float:
        """Compiles the network for each size of this rank's shard in an epoch. Returns the seconds that it took."""
        started = time.perf_counter()
        size, last = self._config.batch_size, self._frame_count % self._config.batch_size
        shards = {len(range(rank(), count, world_size())) for count in {min(size, self._frame_count), last}}
        for shard in sorted(shards - {0}):
            self._gradient.warm_up(shard, *self._config.image_size)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - started

    def run(self) -> dict[str, float]:
        """Trains the next epoch and returns its metrics. Raises TrainingError if the run cannot continue."""
        state = self._state
        epoch = state.epoch + 1
        # On the device until the epoch's end: reading a loss at each step would wait for the GPU.
        losses = torch.zeros(len(self._batches), dtype=torch.float64, device=self._device)
        data_seconds, started = 0.0, time.perf_counter()
        batches = self._batches.epoch(epoch, train=True)
        for step in range(len(self._batches)):
            asked = time.perf_counter()
            images_NCHW, target_NHW = self._next_shard(batches)
            data_seconds += time.perf_counter() - asked
            losses[step] = self._step(epoch, step, images_NCHW, target_NHW)
            if self._device.type == "cpu" and world_size() == 1 and not math.isfinite(losses[step]):
                # On a CPU reading the loss costs nothing, and the rest of a failed epoch needn't be computed.
                losses = losses[: step + 1]
                break
        sum_over_ranks(losses)
        found: list[float] = losses.tolist()
        with fail_together():
            if self._batch_losses is not None:
                self._batch_losses(epoch, found)
        for step, loss in enumerate(found):
            self._check_finite(loss, epoch, step)
        seconds = time.perf_counter() - started
        state.epoch, state.micro_batch = epoch, self._gradient.micro_batch
        compiling, self._compile_seconds = self._compile_seconds, 0.0
        return {
            "epoch": float(epoch),
            "train/loss": float(losses.mean()),
            "train/learning_rate": self._rate(epoch, len(self._batches) - 1),
            "train/micro_batch": float(state.micro_batch),
            "time/images_per_second": self._frame_count / seconds,
            "time/data_seconds": data_seconds,
            "time/compute_seconds": seconds - data_seconds,
            **({"time/compile_seconds": compiling} if self._config.compile else {}),
        }

    def _next_shard(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """This rank's shard of the next batch; without images if this rank failed."""
        local_failure = self._gradient.local_failure
        if local_failure.error is None:
            with local_failure.catch():
                return next(batches)
        size = self._config.image_size
        return (
            torch.empty(0, 3, *size, device=self._device),
            torch.empty(0, *size, dtype=torch.int64, device=self._device),
        )

    def _step(self, epoch: int, step: int, images_NCHW: Tensor, target_NHW: Tensor) -> Tensor:
        """Updates the weights once. Returns this rank's part of the loss before the update, on the device."""
        local_failure = self._gradient.local_failure
        if self._device.type == "cuda":
            images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
        try:
            loss = self._gradient.take(images_NCHW, target_NHW, self._seeds(epoch, step, len(images_NCHW)))
            if local_failure.error is None:
                with local_failure.catch():
                    self._update(epoch, step)
            # On a GPU only in the first and the last step, since it waits until the GPU is done.
            if self._device.type == "cpu" or step in (0, len(self._batches) - 1):
                raise_on_all_ranks(local_failure.error)
        except TrainingError as error:
            raise TrainingError(f"epoch {epoch}, step {step + 1}: {error}") from None
        return loss

    def _update(self, epoch: int, step: int) -> None:
        if self._config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._state.model.parameters(), self._config.clip_norm)
        set_learning_rate(self._state.optimizer, self._rate(epoch, step))
        self._state.optimizer.step()

    def _rate(self, epoch: int, step: int) -> float:
        steps = len(self._batches)
        return learning_rate(self._config, (epoch - 1) * steps + step, steps)

    def _seeds(self, epoch: int, step: int, count: int) -> list[int]:
        """A dropout seed for each image, from its position in the epoch: the same on any number of ranks."""
        first = step * self._config.batch_size + rank()
        return [image_seed(self._config.seed, epoch, first + place * world_size()) for place in range(count)]

    def _check_finite(self, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"epoch {epoch}, step {step + 1}: loss is {loss} "
                f"(learning_rate={self._rate(epoch, step):g}); try a lower learning_rate"
            )


def image_seed(seed: int, epoch: int, position: int) -> int:
    """A seed of 63 bits; those of neighbouring positions, epochs and seeds are unrelated."""
    digest = hashlib.blake2b(f"dropout {seed} {epoch} {position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def balanced_weights(cache: Cache) -> Tensor:
    """Class weights, float32 (C,): 1 / (classes present * the class's fraction of the training split's valid pixels).

    The mean weight of a valid pixel is 1. A class without a pixel in the training split gets the weight 0.
    """
    count = len(cache.dataset.classes)
    pixels = np.zeros(VOID + 1, np.int64)
    for index in cache.dataset.splits["train"]:
        pixels += np.bincount(cache.labels[index].ravel(), minlength=VOID + 1)
    per_class = torch.from_numpy(pixels[:count]).double()
    present = per_class > 0
    weights = torch.where(present, per_class.sum() / (present.sum() * per_class.clamp_min(1)), 0.0)
    return weights.float()


def _compiled(model: nn.Module) -> nn.Module:
    # torch limits how often a process may recompile, and past the limit runs the network uncompiled: forget what
    # earlier runs in this process compiled.
    torch.compiler.reset()
    compiled: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    return compiled
