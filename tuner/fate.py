"""Ray's processes share the fate of the process that started them.

With a killed driver Ray's own processes die at once, but for a node's two agents: they try for a minute to tell it to a
GCS that is gone. A process beside the driver ends them: `python -m tuner.fate PID...` waits for the end of its standard
input, which comes with the driver's end, however that ends.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

_GRACE_SECONDS = 5.0


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """A block whose end, or this process's, is the end of the processes that this process has started so far."""
    started = [str(process.pid) for process in psutil.Process().children(recursive=True)]
    # A session of its own: a terminal's Ctrl-C is not for it.
    watch = subprocess.Popen(
        [sys.executable, "-m", "tuner.fate", *started],
        stdin=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
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
    for pid in sys.argv[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            watched.append(psutil.Process(int(pid)))
    sys.stdin.read()
    _, left = psutil.wait_procs(watched, timeout=_GRACE_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    _main()
