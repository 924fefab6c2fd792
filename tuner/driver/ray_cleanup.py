"""Ends Ray's processes when the driver that started them ends, even by kill -9.

When a driver is killed, most of Ray's processes exit at once. A node's two agents try for a minute to reach the dead
GCS, and workers that are just starting stay. A cleanup process ends these:
`python -m tuner.driver.ray_cleanup SESSION PID...` waits until its standard input is closed, which happens however the
driver ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

_GRACE_SECONDS = 5.0


@contextlib.contextmanager
def ended_with_driver(session: str) -> Iterator[None]:
    """A block in which the processes started so far, and those of a Ray session, end when this process ends.

    session: the name of the Ray session that this process has started.
    """
    started = [str(process.pid) for process in psutil.Process().children(recursive=True)]
    # In its own session, so that Ctrl-C in the terminal doesn't reach it.
    cleanup = subprocess.Popen(
        [sys.executable, "-m", "tuner.driver.ray_cleanup", session, *started],
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
