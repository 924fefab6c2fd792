"""How many images of a batch fit into a device's memory at once: predicted on a GPU, and remembered by the process.

A process that trains several runs, one after the other, starts each with the number that fitted before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fcn.config import Config

_FRAGMENTATION = 0.05  # fraction of the available memory that is left free, for the gaps between allocated blocks

_Key = tuple[str, tuple[int, int], float, int, str]
fitted: dict[_Key, int] = {}


def _key(config: Config, device: torch.device) -> _Key:
    """What an image's memory depends on."""
    return str(device), config.image_size, config.width, config.fc_width, config.precision


def initial_micro_batch(config: Config, device: torch.device) -> int:
    """Images at once at a run's start: config.micro_batch or a whole batch, but no more than fitted an earlier run."""
    most = min(config.micro_batch or config.batch_size, config.batch_size)
    return min(most, fitted.get(_key(config, device), most))


def record_limit(config: Config, device: torch.device, micro_batch: int) -> None:
    """Remembers that more images at once than this ran out of memory."""
    fitted[_key(config, device)] = micro_batch


def largest_batch(peak_of: Callable[[int], int], available: int) -> int:
    """The most images that fit into `available` bytes, at least one.

    peak_of: the bytes that a pass of so many images takes at its peak. It is called for 1 and 2: the memory grows by
    the same amount with each image.
    """
    one, two = peak_of(1), peak_of(2)
    an_image = max(1, two - one)
    return max(1, int((available * (1 - _FRAGMENTATION) - (one - an_image)) // an_image))


@dataclass(frozen=True)
class GpuMemory:
    """A GPU's memory in bytes, as seen by this process."""

    total: int
    free: int  # used by no process
    reserved: int  # by this process's allocator: in use, or kept for its next tensors
    share: float  # of total that this process may use, 0 to 1; less than 1 where trials share a GPU

    @property
    def available(self) -> int:
        """Bytes that this process may use in all, what it has reserved included."""
        return int(min(self.free + self.reserved, self.share * self.total))

    @property
    def headroom(self) -> int:
        """Bytes that this process may reserve beyond what it has reserved."""
        return max(0, self.available - self.reserved)


def gpu_memory(device: torch.device) -> GpuMemory:
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return GpuMemory(total, free, torch.cuda.memory_reserved(device), share)
