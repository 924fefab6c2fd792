"""How torch's process group is set up for ranks on several hosts: over the addresses that Ray's nodes have.

By itself torch takes the address that a host's name resolves to, which on Debian is one that no other host reaches.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
import ray.train.torch
from ray.train.torch.config import _TorchBackend

_INTERFACE_SETTINGS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class ProcessGroup(ray.train.torch.TorchConfig):
    """Ray Train's, over the interfaces that the nodes' addresses belong to."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        hosts: list[tuple[str, str]] = worker_group.execute(_host)
        if len(set(hosts)) > 1:
            worker_group.execute(use_interface)
        try:
            super().on_start(worker_group, backend_config)
        except Exception as error:
            raise RuntimeError(not_connected(hosts, error)) from None


def not_connected(hosts: list[tuple[str, str]], error: Exception) -> str:
    """A sentence on ranks that didn't find each other. hosts: of each rank, name and address."""
    ranks = ", ".join(f"rank {rank} on {name} ({address})" for rank, (name, address) in enumerate(hosts))
    cause = str(error).strip().rpartition("\n")[2]
    return f"its ranks can't be connected, {ranks}: {cause}; all ports must be open between these hosts"


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an address; None if none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            return name
    return None


def use_interface() -> None:
    """Have torch use the interface of this node's address, unless the environment names one."""
    interface = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if interface is not None:
        for setting in _INTERFACE_SETTINGS:
            os.environ.setdefault(setting, interface)


def _host() -> tuple[str, str]:
    return os.uname().nodename, ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
