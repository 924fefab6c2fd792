"""The ranks of a distributed run; a single process is rank 0 of 1.

A collective (a sum over the ranks, a broadcast) ends only when every rank has called it. If one rank left out a
collective because something failed there, the others would wait for it forever, or mix up its next collective with
theirs. So whatever can fail on one rank only, such as reading data, allocating memory and writing files, is done
between collectives; then every rank calls raise_on_all_ranks(), and if one rank failed, all of them raise.
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
    """Replaces each tensor by its sum over all ranks, in place. A collective."""
    if world_size() > 1:
        works = [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work in works:
            assert work is not None
            work.wait()


@torch.no_grad()
def broadcast_from(source: int, *tensors: Tensor) -> None:
    """Overwrites each tensor with the one of rank `source`, in place. A collective."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, source)


def raise_on_all_ranks(failure: Exception | None = None) -> None:
    """Raises on every rank if any rank failed. A collective: every rank has to call it.

    failure: the exception that this rank caught, None if all went well here. A rank that failed raises its own. The
    others raise the message of the first rank that failed, as an InputError if that rank's exception was a ValueError,
    which a person can fix, else as a TrainingError.
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
    """Keeps the first exception of a rank's work between collectives, so that the rank still takes part in the next.

    `error` goes to raise_on_all_ranks() at a point that all ranks reach. In a run of one rank nobody waits, and the
    exception is raised at once.
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
    """Around a block without collectives that every rank runs: if it raises on one rank, all ranks raise."""
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    raise_on_all_ranks(failure)


def _message_of(source: int, failure: Exception | None) -> str:
    """The message of the exception of rank `source`, on every rank. A collective."""
    text = torch.zeros(_MESSAGE_BYTES, dtype=torch.uint8)
    if rank() == source:
        message = (str(failure) or type(failure).__name__).encode()[:_MESSAGE_BYTES]
        text[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    text = text.to(_collective_device())
    broadcast_from(source, text)
    return bytes(text.tolist()).rstrip(b"\0").decode(errors="replace")


def _collective_device() -> torch.device:
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
