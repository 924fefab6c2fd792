"""Ray's processes end with the process that started them.

With a killed driver Ray's own processes die at once, but for a node's two agents, which try for a minute to tell it to
a GCS that is gone, and workers that are just starting. A process beside the driver ends them:
`python -m tuner.driver.ray_cleanup SESSION PID...` waits for the end of its standard input, which comes with the
driver's end, however that ends.
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
    """A block in which this process's end is the end of the processes that it has started so far, and of Ray's session.

    session: the name of the Ray session that this process has started.
    """
    started = [str(process.pid) for process in psutil.Process().children(recursive=True)]
    # A session of its own: a terminal's Ctrl-C is not for it.
    watch = subprocess.Popen(
        [sys.executable, "-m", "tuner.driver.ray_cleanup", session, *started],
        stdin=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    try:
        yield
    finally:
        watch.kill()
        watch.communicate()


def _main() -> None:
    # Held from the start: a number that is taken by another process later is not this one.
    watched = []
    for pid in sys.argv[2:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            watched.append(psutil.Process(int(pid)))
    sys.stdin.read()
    watched += _started_for(sys.argv[1])
    _, left = psutil.wait_procs(watched, timeout=_GRACE_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _started_for(session: str) -> list[psutil.Process]:
    """Processes on whose command line the session's name stands; a worker's does until it has a title."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(session in word for word in process.cmdline()):
                found.append(process)
    return found


if __name__ == "__main__":
    _main()
