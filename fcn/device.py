"""What a run computes on, in words."""

import os

import torch

from fcn.ranks import world


def described(device: torch.device) -> str:
    """A GPU's name and memory; of a CPU the cores in use, and why it is no GPU."""
    ranks = f" on each of {world()} ranks" if world() > 1 else ""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"{device} ({found.name}, {found.total_memory / 2**30:.0f} GiB){ranks}"
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    used = f"{threads} of {cores} cores" if threads < cores else f"{cores} core{'s' if cores > 1 else ''}"
    if torch.cuda.is_available():
        gpu = "a GPU is there and not used"
    elif torch.version.cuda is None and torch.version.hip is None:
        gpu = "this PyTorch is built for CPUs alone"
    else:
        gpu = "no GPU found"
    return f"{device} ({used}; {gpu}){ranks}"
