"""Sets up torch's process group so that ranks on several hosts connect over the addresses of Ray's nodes.

By itself torch uses the address that the host's name resolves to. On Debian that is a loopback address.
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
    """Ray Train's torch backend, on the network interfaces of the nodes' addresses."""

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
    """The error message for ranks that couldn't connect. hosts: name and address of each rank's host."""
    ranks = ", ".join(f"rank {rank} on {name} ({address})" for rank, (name, address) in enumerate(hosts))
    cause = str(error).strip().rpartition("\n")[2]
    return f"its ranks can't be connected, {ranks}: {cause}; all ports must be open between these hosts"


def interface_of(address: str) -> str | None:
    """The name of this machine's network interface with this address; None if there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            return name
    return None


def use_interface() -> None:
    """Have gloo and NCCL use the interface of this node's address, unless the environment names another."""
    interface = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if interface is not None:
        for setting in _INTERFACE_SETTINGS:
            os.environ.setdefault(setting, interface)


def _host() -> tuple[str, str]:
    return os.uname().nodename, ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
