"""The device that a run computes on: how it is chosen and described."""

import os

import torch

from fcn.distributed import world_size
from fcn.errors import InputError


def default_device() -> torch.device:
    """This process's GPU, or the CPU if there is none."""
    if torch.cuda.is_available():
        return with_index(torch.device("cuda"))
    return torch.device("cpu")


def with_index(device: torch.device) -> torch.device:
    """The same device; of "cuda" alone, which some of torch's functions refuse, the current one: cuda:0, say."""
    if str(device) == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return device


def chosen_device(wanted: str | None) -> torch.device:
    """The device of --device; wanted: its value, None if it was left out. Raises InputError."""
    if wanted is None:
        return default_device()
    try:
        chosen = torch.device(wanted)
    except RuntimeError:
        raise InputError(f"--device must be cpu, cuda or cuda:NUMBER, got {wanted}") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {wanted}: there is no GPU here; leave it out")
    count = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise InputError(f"--device {wanted}: must be one of cuda:0 to cuda:{count - 1}; nvidia-smi lists them")
    return with_index(chosen)


def described(device: torch.device) -> str:
    """A description for people: a GPU's name and memory, or a CPU's cores in use and why no GPU is used."""
    ranks = f" on each of {world_size()} ranks" if world_size() > 1 else ""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"{device} ({found.name}, {found.total_memory / 2**30:.0f} GiB){ranks}"
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    used = f"{threads} of {cores} cores" if threads < cores else f"{cores} core{'s' if cores > 1 else ''}"
    if torch.cuda.is_available():
        gpu = "there is a GPU, which is not used"
    elif torch.version.cuda is None and torch.version.hip is None:
        gpu = "this PyTorch is built for CPUs only"
    else:
        gpu = "no GPU found"
    return f"{device} ({used}; {gpu}){ranks}"
