"""How many images of a batch a device's memory holds at once: predicted on a GPU, and remembered in a process.

A process that trains one run after the other starts the next from what fitted before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fcn.config import Config

_SPARE = 0.05  # share of the room that is left: blocks of memory don't fit into each other without gaps

_Key = tuple[str, tuple[int, int], float, int, str]
fitted: dict[_Key, int] = {}


def _key(config: Config, device: torch.device) -> _Key:
    """What an image's memory depends on."""
    return str(device), config.image_size, config.width, config.fc_width, config.precision


def initial_micro_batch(config: Config, device: torch.device) -> int:
    """Images at once to begin a run with: the setting or a whole batch, at most what fitted an earlier run here."""
    most = min(config.micro_batch or config.batch_size, config.batch_size)
    return min(most, fitted.get(_key(config, device), most))


def record_limit(config: Config, device: torch.device, micro_batch: int) -> None:
    """More than this ran out of memory."""
    fitted[_key(config, device)] = micro_batch


def largest_batch(peak_of: Callable[[int], int], room: int) -> int:
    """Most images that fit into `room` bytes, at least one; peak_of says how many bytes so many images take.

    Two probes are enough: beside what is there anyhow, every image takes as much as the other.
    """
    one, two = peak_of(1), peak_of(2)
    an_image = max(1, two - one)
    return max(1, int((room * (1 - _SPARE) - (one - an_image)) // an_image))


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of a GPU, as one process finds them."""

    total: int
    free: int  # of the whole GPU: what no process has
    reserved: int  # this process's, in use or kept for its next tensor
    share: float  # of total that this process may have: a trial may own a quarter of a GPU

    @property
    def room(self) -> int:
        """What this process may have, with what it has now."""
        return int(min(self.free + self.reserved, self.share * self.total))

    @property
    def spare(self) -> int:
        """What this process may have beside all that it has had so far."""
        return max(0, self.room - self.reserved)


def gpu_memory(device: torch.device) -> GpuMemory:
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return GpuMemory(total, free, torch.cuda.memory_reserved(device), share)
