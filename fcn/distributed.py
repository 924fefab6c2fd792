"""The ranks of a distributed run; one process alone is rank 0 of 1.

A collective is right only where every rank is sure to come. What can fail on one rank alone, its data, its memory, its
disk, is done between collectives, and the ranks agree() on how it went before they meet again: else the others wait for
a rank that is gone, or take its next collective for the one they are in.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from fcn.errors import InputError, TrainingError

_MESSAGE_BYTES = 1000


def rank() -> int:
    return distributed.get_rank() if _distributed() else 0


def world_size() -> int:
    return distributed.get_world_size() if _distributed() else 1


def sum_over_ranks(*tensors: Tensor) -> None:
    """In place, on every rank the same sums."""
    if world_size() > 1:
        works = [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work in works:
            assert work is not None
            work.wait()


@torch.no_grad()
def broadcast_from(source: int, *tensors: Tensor) -> None:
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, source)


def raise_on_all_ranks(failure: Exception | None = None) -> None:
    """Every rank comes here, and every rank raises if one brings a failure.

    A rank raises its own; the others InputError if a person can fix that of the first rank that failed, else
    TrainingError, both with its message.
    """
    if world_size() > 1:
        failed = torch.zeros(world_size(), dtype=torch.int32, device=_collective_device())
        failed[rank()] = 0 if failure is None else 1 if isinstance(failure, ValueError) else 2
        sum_over_ranks(failed)
        kinds = failed.tolist()
        if any(kinds):
            first = next(place for place, kind in enumerate(kinds) if kind)
            message = _message_of(first, failure)
            if failure is None:
                raise (InputError if kinds[first] == 1 else TrainingError)(f"rank {first}: {message}")
    if failure is not None:
        raise failure


class LocalFailure:
    """What a rank does by itself between collectives, to which it comes in any case: a failure is kept for agree().

    A process without other ranks has nobody to wait for it: there a failure is raised at once.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    @contextmanager
    def catch(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if world_size() == 1:
                raise
            self.error = self.error or error


@contextmanager
def fail_together() -> Iterator[None]:
    """A block without collectives that every rank goes through: if it fails on one, it fails on all."""
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    raise_on_all_ranks(failure)


def _message_of(source: int, failure: Exception | None) -> str:
    """What rank `source` has to say, on every rank."""
    text = torch.zeros(_MESSAGE_BYTES, dtype=torch.uint8)
    if rank() == source:
        said = (str(failure) or type(failure).__name__).encode()[:_MESSAGE_BYTES]
        text[: len(said)] = torch.frombuffer(bytearray(said), dtype=torch.uint8)
    text = text.to(_collective_device())
    broadcast_from(source, text)
    return bytes(text.tolist()).rstrip(b"\0").decode(errors="replace")


def _collective_device() -> torch.device:
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
