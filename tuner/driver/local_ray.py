"""The Ray that a study starts on this machine: few processes, all of which end when the driver ends, even by kill -9.

When a driver is killed, most of Ray's processes exit at once. A node's two agents try for a minute to reach the dead
GCS, and workers that are just starting stay. A cleanup process ends these:
`python -m tuner.driver.local_ray SESSION PID...` waits until its standard input is closed, which happens however the
driver ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

_GRACE_SECONDS = 5.0


@contextlib.contextmanager
def few_processes() -> Iterator[None]:
    """A block in which Ray starts without what a study's own Ray has no use for.

    These are the dashboard's server, the autoscaler's monitor, the forwarding of logs, and metrics for Prometheus. They
    are nearly half of what a start of Ray takes of a CPU, and Ray has no options for them.
    """
    # Imported here: the cleanup process needs nothing of Ray.
    import ray._private.node
    import ray._private.utils

    unused = ImportError("a study's own Ray has no dashboard")
    with contextlib.ExitStack() as stack:
        for start in ("start_api_server", "start_monitor", "start_log_monitor"):
            stack.enter_context(_replaced(ray._private.node.Node, start, lambda *_, **__: None))
        stack.enter_context(_replaced(ray._private.utils, "get_dashboard_dependency_error", lambda: unused))
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def ended_with_driver(session: str) -> Iterator[None]:
    """A block in which the processes started so far, and those of a Ray session, end when this process ends.

    session: the name of the Ray session that this process has started.
    """
    started = [str(process.pid) for process in psutil.Process().children(recursive=True)]
    # In its own session, so that Ctrl-C in the terminal doesn't reach it.
    cleanup = subprocess.Popen(
        [sys.executable, "-m", "tuner.driver.local_ray", session, *started],
        stdin=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    try:
        yield
    finally:
        cleanup.kill()
        cleanup.communicate()


def _main() -> None:
    # psutil compares start times, so a later process with the same id is not mistaken for one of these.
    processes = []
    for pid in sys.argv[2:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(int(pid)))
    sys.stdin.read()
    processes += _processes_of(sys.argv[1])
    _, left = psutil.wait_procs(processes, timeout=_GRACE_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _processes_of(session: str) -> list[psutil.Process]:
    """Processes with the session's name on their command line; a worker has it there until it sets its title."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(session in word for word in process.cmdline()):
                found.append(process)
    return found


if __name__ == "__main__":
    _main()
