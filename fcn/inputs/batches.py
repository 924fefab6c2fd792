"""Batches on the device: gathered from the cache, augmented together with their labels, normalised.

Which images form a batch, and how each is augmented, follows from the seed, the epoch and the position in the epoch's
order only. It is the same on any number of ranks and after a resume.

Tensor names: N images of this rank's shard of a batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn import memory
from fcn.config import Config
from fcn.data.cache import Cache
from fcn.inputs.augmentation import Augmentation
from fcn.memory import GpuMemory
from fcn.model.pretrained import normalisation

_ORDER, _AUGMENTATION = 1, 2  # part of the seed, so that the two uses get different random numbers


class Batches:
    """Batches of the frames `indices` (into cache.dataset.frames): of each batch, the shard of this rank.

    A global batch is config.batch_size positions of the epoch's order; the last batch may be shorter. Of its positions
    rank r gets r, r + world_size, ... A shard may be empty (N = 0), so that all ranks make the same number of steps.
    """

    def __init__(
        self,
        cache: Cache,
        indices: Sequence[int],
        config: Config,
        device: torch.device,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._indices = np.asarray(indices, dtype=np.int64)
        self._config = config
        self._device = device
        self._rank, self._world_size = rank, world_size
        self._source = _source(cache, device, config.gpu_cache_fraction)
        self._augmentation = Augmentation(config)
        norm = normalisation(config)
        mean = torch.tensor(norm.mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        std = torch.tensor(norm.std, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        # (pixel / 255 - mean) / std as one multiplication and one addition.
        self._scale, self._shift = 1 / (255 * std), -mean / std
        self._fill = 255 * mean  # zero after normalising

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self._indices) // self._config.batch_size)

    def epoch(self, epoch: int, train: bool, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images_NCHW, target_NHW) on the device: float32, normalised; int64, 255 for void.

        train: shuffled and augmented; else in the order of `indices` and unchanged. start: batches to skip.
        """
        order = np.arange(len(self._indices))
        if train:
            order = np.random.default_rng((self._config.seed, epoch, _ORDER)).permutation(len(order))
        draws = None
        if train and self._augmentation.active:
            rng = np.random.default_rng((self._config.seed, epoch, _AUGMENTATION))
            # All random numbers of an epoch at once, a row a position, so that a step draws and copies none.
            draws = torch.from_numpy(rng.random((len(order), Augmentation.DRAWS), dtype=np.float32)).to(self._device)
        size = self._config.batch_size
        shards = [
            np.arange(first + self._rank, min(first + size, len(order)), self._world_size)
            for first in range(start * size, len(order), size)
        ]
        pixels = self._source.stream([self._indices[order[positions]] for positions in shards])
        for positions, (images_NHWC, labels_NHW) in zip(shards, pixels, strict=True):
            images_NCHW = images_NHWC.permute(0, 3, 1, 2)
            if draws is not None and len(positions):
                # The positions are evenly spaced, so a slice takes them without sending indices to the device.
                rows = draws[positions[0] : positions[-1] + 1 : self._world_size]
                images_NCHW, labels_NHW = self._augmentation(images_NCHW, labels_NHW, rows, self._fill)
            # One copy converts to float and makes the memory contiguous.
            floats_NCHW = images_NCHW.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
            yield floats_NCHW.mul_(self._scale).add_(self._shift), labels_NHW.long()


class _Resident:
    """All pixels are on the device, and a batch is gathered there."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def stream(self, batches: Sequence[npt.NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.images.device
        everything = np.concatenate(batches) if batches else np.empty(0, np.int64)
        frames = torch.from_numpy(everything).to(device)
        first = 0
        for batch in batches:
            chosen = frames[first : first + len(batch)]
            first += len(batch)
            yield self.images[chosen], self.labels[chosen]


class _Mapped:
    """For the CPU: a batch is gathered from the memory map."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def stream(self, batches: Sequence[npt.NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            yield (
                torch.from_numpy(np.asarray(self.cache.images[batch])),
                torch.from_numpy(np.asarray(self.cache.labels[batch])),
            )


class _Streamed:
    """For a GPU that can't hold all pixels: each batch is copied, through one of two pinned buffers, during a step."""

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self.cache = cache
        self.device = device

    def stream(self, batches: Sequence[npt.NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        most = max((len(batch) for batch in batches), default=0)
        shape = self.cache.images.shape[1:]
        pinned = [
            (torch.empty((most, *shape), dtype=torch.uint8, pin_memory=True),
             torch.empty((most, *shape[:2]), dtype=torch.uint8, pin_memory=True))
            for _ in range(2)
        ]  # fmt: skip
        copied = [torch.cuda.Event(), torch.cuda.Event()]  # type: ignore[no-untyped-call]
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

        def send(step: int) -> tuple[Tensor, Tensor]:
            images, labels = pinned[step % 2]
            count = len(batches[step])
            copied[step % 2].synchronize()  # until the previous copy out of this buffer is done
            # With mode="clip" numpy writes into `out` without a buffer of its own; all indices are in range.
            np.take(self.cache.images, batches[step], axis=0, out=images.numpy()[:count], mode="clip")
            np.take(self.cache.labels, batches[step], axis=0, out=labels.numpy()[:count], mode="clip")
            with torch.cuda.stream(side):
                sent = (
                    images[:count].to(self.device, non_blocking=True),
                    labels[:count].to(self.device, non_blocking=True),
                )
                copied[step % 2].record(side)
            return sent

        coming = send(0) if batches else None
        for step in range(len(batches)):
            assert coming is not None
            images, labels = coming
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied[step % 2])
            # So that the allocator doesn't reuse their memory before `current` is done with them.
            for tensor in (images, labels):
                tensor.record_stream(current)
            coming = send(step + 1) if step + 1 < len(batches) else None
            yield images, labels


# One copy of the pixels serves training, validation and the next run on the same device.
_on_device: WeakValueDictionary[tuple[str, str], _Resident] = WeakValueDictionary()


def _source(cache: Cache, device: torch.device, gpu_fraction: float) -> _Resident | _Mapped | _Streamed:
    if device.type == "cpu":
        return _Mapped(cache)
    key = (str(device), str(cache.path))
    resident = _on_device.get(key)
    if resident is not None:
        return resident
    if device.type == "cuda" and not may_live_on(memory.gpu_memory(device), cache.nbytes, gpu_fraction):
        return _Streamed(cache, device)
    resident = _Resident(_upload(cache.images, device), _upload(cache.labels, device))
    _on_device[key] = resident
    return resident


def may_live_on(gpu: GpuMemory, nbytes: int, fraction: float) -> bool:
    """Whether `nbytes` of pixels are at most this fraction of the memory that the process may still reserve."""
    return nbytes <= fraction * gpu.headroom


def _upload(pixels: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Copies a memory map to the device, a few frames at a time, so that host memory never holds all of it."""
    whole = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    chunk = max(1, 64 * 2**20 // max(1, pixels[:1].nbytes))
    for first in range(0, len(pixels), chunk):
        whole[first : first + chunk] = torch.from_numpy(np.array(pixels[first : first + chunk]))
    return whole
