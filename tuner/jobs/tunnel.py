"""SSH to the head of a cluster that `ray up` started: port forwarding, and downloads.

It uses Ray's own commands `ray dashboard` and `ray rsync-down`, which know each cloud provider, its keys and the head's
address.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tuner.errors import StudyError

_OPEN_SECONDS = 60.0  # it includes asking the cloud for the head's address
_RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True)
class Tunnel:
    """A port of this machine's loopback that leads to one of the head's."""

    port: int
    _process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Until the connection to the head breaks."""
        self._process.wait()


@contextlib.contextmanager
def tunnel(cluster_file: Path, remote_port: int, local_port: int | None = None) -> Iterator[Tunnel]:
    """Forward a port of this machine's loopback to a port of the head's loopback, as long as the block lasts.

    local_port: any free one if left out. Raises StudyError if the head can't be reached, or the local port is in use.
    """
    check_cluster_file(cluster_file)
    port = _port(local_port)
    with tempfile.TemporaryFile("w+") as output:
        command = [*_RAY, "dashboard", str(cluster_file), "--port", str(port), "--remote-port", str(remote_port)]
        # In its own session: Ctrl-C must reach only the command that uses the tunnel, which then closes it.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait_until_open(process, port, cluster_file, output)
            yield Tunnel(port, process)
        finally:
            _end(process)


def download(cluster_file: Path, remote: str, local: Path) -> None:
    """Copy a file from the head, or the contents of a folder (remote ends with "/"). Raises StudyError if it fails."""
    check_cluster_file(cluster_file)
    command = [*_RAY, "rsync-down", str(cluster_file), remote, str(local)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise StudyError(f"--cluster {cluster_file}: {remote} can't be copied from the head: {_last_line(done.stderr)}")


def check_cluster_file(path: Path) -> None:
    """Raises StudyError if there is no such file."""
    if not path.is_file():
        raise StudyError(f"--cluster {path}: a cluster file is needed there, the one that `ray up` was given; got none")


def _wait_until_open(process: subprocess.Popen[bytes], port: int, cluster_file: Path, output: IO[str]) -> None:
    """Wait until the local port accepts connections, which it does when ssh has logged in."""
    deadline = time.monotonic() + _OPEN_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    output.seek(0)
    why = _last_line(output.read()) if process.poll() is not None else f"no answer within {_OPEN_SECONDS:g} s"
    raise StudyError(
        f"--cluster {cluster_file}: its head can't be reached through SSH: {why}; "
        f"`ray up {cluster_file}` starts the cluster, `ray attach {cluster_file}` shows more"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End Ray's command and the ssh that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _port(wanted: int | None) -> int:
    """The port if it is free, any free one if none is wanted. What listens there else would pass for the tunnel."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", wanted or 0))
        except OSError:
            raise StudyError(f"--port {wanted}: a free port is needed, got one in use; name another") from None
        return int(free.getsockname()[1])


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
