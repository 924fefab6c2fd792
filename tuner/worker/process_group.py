"""Sets up torch's process group so that ranks on several hosts connect over the addresses of Ray's nodes.

By itself torch uses the address that the host's name resolves to. On Debian that is a loopback address. It also waits
for half an hour where a firewall drops what ranks send each other, so the ranks try to reach each other first.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil
import ray
import ray.train.torch
from ray.train.torch.config import _TorchBackend

_INTERFACE_SETTINGS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_REACH_SECONDS = 20.0

_listeners: list[socket.socket] = []
"""Where this rank listens while the others try to reach it."""


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
            if len(set(hosts)) > 1:
                _check_reachable(worker_group)
            super().on_start(worker_group, backend_config)
        except Exception as error:
            raise RuntimeError(not_connected(hosts, error)) from None


def _check_reachable(worker_group: Any) -> None:
    """Raises RuntimeError if one rank doesn't reach another within seconds."""
    try:
        ports: list[int] = worker_group.execute(open_listener)
        hosts: list[tuple[str, str]] = worker_group.execute(_host)
        listeners = [(rank, address, port) for rank, ((_, address), port) in enumerate(zip(hosts, ports, strict=True))]
        problems = worker_group.execute(unreached, listeners)
    finally:
        worker_group.execute(close_listeners)
    found = [f"rank {rank} {problem}" for rank, problem in enumerate(problems) if problem]
    if found:
        raise RuntimeError(", ".join(found))


def open_listener() -> int:
    """Listen at this node's address. Returns the port, which the system chose among those that torch gets too."""
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    _listeners.append(socket.create_server((address, 0), family=family))
    return int(_listeners[-1].getsockname()[1])


def unreached(listeners: list[tuple[int, str, int]]) -> str | None:
    """The first of these (rank, address, port) that can't be reached from here, and why; None if all can be."""
    for rank, address, port in listeners:
        try:
            socket.create_connection((address, port), timeout=_REACH_SECONDS).close()
        except OSError as error:
            return f"does not reach rank {rank} at {address}:{port} ({error})"
    return None


def close_listeners() -> None:
    """End what open_listener began."""
    while _listeners:
        _listeners.pop().close()


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
