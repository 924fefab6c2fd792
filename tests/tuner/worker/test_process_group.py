"""Which network interface ranks on several hosts use, and the error if they can't connect."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from tuner.worker import process_group
from tuner.worker.process_group import (
    close_listeners,
    interface_of,
    not_connected,
    open_listener,
    unreached,
    use_interface,
)


def test_the_interface_is_the_one_that_has_the_address() -> None:
    named = {
        found.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for found in addresses
        if found.family == socket.AF_INET
    }
    assert named["127.0.0.1"] == interface_of("127.0.0.1")
    for address, name in named.items():
        assert interface_of(address) == name
    assert interface_of("203.0.113.9") is None


def test_an_interface_that_the_environment_names_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    use_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
    assert os.environ["NCCL_SOCKET_IFNAME"] == interface_of("127.0.0.1")


def test_the_error_for_ranks_that_cannot_connect_names_hosts_addresses_and_cause() -> None:
    error = RuntimeError("in gloo\nRuntimeError: connect [127.0.1.1]:4711: Connection refused")
    assert not_connected([("host1", "10.0.0.1"), ("host2", "10.0.0.2")], error) == (
        "its ranks can't be connected, rank 0 on host1 (10.0.0.1), rank 1 on host2 (10.0.0.2): "
        "RuntimeError: connect [127.0.1.1]:4711: Connection refused; all ports must be open between these hosts"
    )


def test_a_rank_that_is_not_reached_is_named_within_seconds_also_where_packets_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(process_group, "_REACH_SECONDS", 0.2)
    port = open_listener()
    assert unreached([(0, "127.0.0.1", port)]) is None
    # A queue of connections that is full drops packets, as a firewall does.
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as silent,
        socket.socket() as first,
        socket.socket() as second,
    ):
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        listeners = [(0, "127.0.0.1", port), (1, *silent.getsockname())]
        assert unreached(listeners) == f"does not reach rank 1 at 127.0.0.1:{silent.getsockname()[1]} (timed out)"
    close_listeners()
    assert "refused" in str(unreached([(0, "127.0.0.1", port)]))
