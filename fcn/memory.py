"""How many images of a batch a device's memory holds at once: predicted on a GPU, and remembered in a process.

A process that trains one run after the other starts the next from what fitted before.
"""

from collections.abc import Callable

import torch

from fcn.config import Config

_SPARE = 0.05  # share of the room that is left: blocks of memory don't fit into each other without gaps

_Key = tuple[str, tuple[int, int], float, int, str]
_fitted: dict[_Key, int] = {}


def _key(config: Config, device: torch.device) -> _Key:
    """What an image's memory depends on."""
    return str(device), config.image_size, config.width, config.fc_width, config.precision


def first_micro_batch(config: Config, device: torch.device) -> int:
    """Images at once to begin a run with: the setting or a whole batch, at most what fitted an earlier run here."""
    most = min(config.micro_batch or config.batch_size, config.batch_size)
    return min(most, _fitted.get(_key(config, device), most))


def remember(config: Config, device: torch.device, micro_batch: int) -> None:
    """More than this ran out of memory."""
    _fitted[_key(config, device)] = micro_batch


def predicted(peak_of: Callable[[int], int], room: int) -> int:
    """Most images that fit into `room` bytes, at least one; peak_of says how many bytes so many images take.

    Two probes are enough: beside what is there anyhow, every image takes as much as the other.
    """
    one, two = peak_of(1), peak_of(2)
    an_image = max(1, two - one)
    return max(1, int((room * (1 - _SPARE) - (one - an_image)) // an_image))


def room(device: torch.device) -> int:
    """Bytes that this process may have allocated on a GPU, those that it has now among them."""
    free, total = torch.cuda.mem_get_info(device)
    limit = torch.cuda.get_per_process_memory_fraction(device) * total
    return int(min(free + torch.cuda.memory_reserved(device), limit))


def spare(device: torch.device) -> int:
    """Bytes that this process may allocate on a GPU beside all that training has had so far."""
    return room(device) - torch.cuda.memory_reserved(device)
