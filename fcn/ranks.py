"""The ranks of a distributed run; one process alone is rank 0 of 1."""

import torch
from torch import Tensor, distributed


def rank() -> int:
    return distributed.get_rank() if _distributed() else 0


def world() -> int:
    return distributed.get_world_size() if _distributed() else 1


def sum_over_ranks(*tensors: Tensor) -> None:
    """In place, on every rank the same sums."""
    if world() > 1:
        works = [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work in works:
            assert work is not None
            work.wait()


@torch.no_grad()
def copy_from_rank_0(*tensors: Tensor) -> None:
    if world() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
