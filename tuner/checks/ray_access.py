"""Connecting to a Ray: whether it is reachable, and whether it requires a token. Raises one sentence where it fails.

Ray sends a token if it finds one in the environment or in ~/.ray, whether or not the cluster requires one. A mismatch
ends in a traceback. So the cluster is asked first.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import ray.exceptions
from ray._private import services
from ray._private.grpc_utils import init_grpc_channel
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]  # compiled

from tuner.errors import StudyError, first_line

_MODE, _TOKEN, _TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_TIMEOUT_SECONDS = 10.0
_ALIVE = 0  # a node's state in Ray's protocol
_ALTERNATIVE = (
    "run this command on a node of that Ray, or have it run there: "
    "python -m tuner submit STUDY_FILE --address http://HEAD:8265 --storage …"
)


@contextlib.contextmanager
def private_token() -> Iterator[None]:
    """A block in which a Ray that this process starts has a token of its own, which is never written to disk.

    Ray itself would write one to ~/.ray/auth_token, from where every Ray and driver of this user would read it.
    """
    if (os.environ.get(_MODE) or "token").lower() != "token":
        yield
        return
    with _environment({_MODE: "token", _TOKEN: secrets.token_hex(32)}):
        yield


@contextlib.contextmanager
def reachable(address: str) -> Iterator[str]:
    """A block in which this process can connect to the Ray at an address. Yields the address as HOST:PORT.

    Raises StudyError, within seconds, if it can't.
    """
    at = f"--address {address}"
    if "://" in address:
        what = "the address of a Ray client" if address.startswith("ray://") else "not the address of a node"
        raise StudyError(f"{at}: this is {what}, and HOST:PORT or auto is needed: {_ALTERNATIVE}")
    try:
        found: str = services.canonicalize_bootstrap_address_or_die(address)
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{at}: a running Ray is needed there, got: {first_line(error)}; start one with "
            "`ray up cluster.yaml` or `ray start --head`, or leave --address out"
        ) from None
    with _matching_token_mode(at, found) as nodes:
        _check_this_machine(at, nodes)
        yield found


@contextlib.contextmanager
def _matching_token_mode(at: str, address: str) -> Iterator[list[str]]:
    """A block in which this process sends a token only if the cluster requires one. Yields its nodes' addresses."""
    mode = (os.environ.get(_MODE) or "").lower()
    with _environment({_MODE: "disabled"}):
        nodes = _nodes(at, address)
        if nodes is not None:
            if mode == "token":
                raise StudyError(
                    f"{at}: {_MODE}=token is set, and that Ray has no tokens: unset {_MODE}, or "
                    "start that Ray with a token (`ray get-auth-token --generate` before `ray start`)"
                )
            yield nodes
            return
    give = f"give its head's ~/.ray/auth_token: set {_TOKEN_FILE} to a copy of that file, or {_TOKEN}"
    if mode not in ("", "token"):
        raise StudyError(f"{at}: that Ray requires a token, and {_MODE} is {mode}: unset {_MODE}, and {give}")
    with _environment({_MODE: "token"}):
        if not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            raise StudyError(f"{at}: that Ray requires a token, and none is set here: {give}")
        nodes = _nodes(at, address)
        if nodes is None:
            raise StudyError(f"{at}: that Ray rejects the token that is set here: {give}")
        yield nodes


def _nodes(at: str, address: str) -> list[str] | None:
    """The addresses of a cluster's live nodes; None if it rejects this process's token or requires one.

    A head that has just started has none for a moment.
    """
    until = time.monotonic() + _TIMEOUT_SECONDS
    try:
        # Ray's own client would retry for most of a minute.
        with init_grpc_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=_TIMEOUT_SECONDS)
        while True:
            # Ray's C++ code writes to standard error if the token is rejected.
            with _silent_stderr():
                found: dict[Any, Any] = GcsClient(address=address).get_all_node_info(timeout=_TIMEOUT_SECONDS)
            alive = [node.node_manager_address for node in found.values() if node.state == _ALIVE]
            if alive or time.monotonic() > until:
                return alive
            time.sleep(0.2)
    except ray.exceptions.AuthenticationError:
        return None
    except (grpc.FutureTimeoutError, ray.exceptions.RpcError, RuntimeError, OSError, TimeoutError):
        raise StudyError(
            f"{at}: the head of a Ray is needed there, got something else, or a Ray that doesn't answer; give the port "
            "of `ray start --head`, which is 6379 unless you named one"
        ) from None


def _check_this_machine(at: str, nodes: list[str]) -> None:
    """Raises StudyError if this machine isn't one of the nodes. Ray would search for a node here for over a minute."""
    here = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    if here.isdisjoint(nodes) and not _raylet_of(nodes):
        raise StudyError(
            f"{at}: this machine must be a node of that Ray (it has {', '.join(nodes) or 'none'}): {_ALTERNATIVE}"
        )


def _raylet_of(nodes: list[str]) -> bool:
    """Whether one of these nodes runs on this machine, under an address that none of its interfaces has."""
    wanted = {f"--node_ip_address={node}" for node in nodes}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "raylet" and wanted.intersection(process.cmdline()):
                return True
    return False


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """A block with these environment variables set. Has Ray reload them, since it read them when it was imported."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    _reload_settings()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _reload_settings()


def _reload_settings() -> None:
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
