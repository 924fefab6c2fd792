"""Why a trial's process died. Ray reports only that it died; the process's log has the signal."""

from __future__ import annotations

import collections
import re
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

SIGKILL_OR_EXIT = "SIGKILL, or an exit without a message"
NO_MEMORY = "the machine's memory ran out"
_NODE_DIED = "its node died"
_LOG_TIMEOUT_SECONDS = 20.0
_PROCESS = re.compile(r"^\s*pid: (\d+)$", re.MULTILINE)
_HOST = re.compile(r"^\s*ip: (\S+)$", re.MULTILINE)
_IN_LOG = re.compile(rb"\*\*\* (SIG[A-Z]+) received")
_CRASH = (
    "a native library crashed in it; try other hyperparameters (precision float32, another batch size), "
    "another version of the library, or another machine"
)
_ADVICE = {
    "SIGSEGV": _CRASH,
    "SIGABRT": _CRASH,
    "SIGFPE": _CRASH,
    "SIGILL": "a library is built for another kind of CPU; install one for this machine",
    "SIGBUS": "memory that a file backs went away: make room in /dev/shm and on the disk, and leave data files alone",
    "SIGTERM": "something on its machine ended it: a person, a batch system, a shutdown",
    SIGKILL_OR_EXIT: "most often the machine's memory ran out (`dmesg` says so): "
    "set resources.max_concurrent_trials lower",
    NO_MEMORY: "set resources.max_concurrent_trials lower",
    _NODE_DIED: "its trials are restarted on other nodes; check that machine",
}


def cause_of(error: Any) -> str:
    """The cause of a process's death: a signal, or what else is known. error: Ray's exception, or its text."""
    text = str(error)
    if "node" in text and "died" in text and "worker process has died" not in text:
        return _NODE_DIED
    if "SIGTERM" in text.partition("Worker exit detail:")[2]:
        return "SIGTERM"
    process, host = _PROCESS.search(text), _HOST.search(text)
    if process is None:
        return SIGKILL_OR_EXIT
    return _signal(int(process[1]), host[1] if host else None) or SIGKILL_OR_EXIT


def cause_of_group(error: Any) -> str:
    """The cause of a worker group's death, from Ray Train's exception: the dead ranks, else its last line."""
    failures = sorted(getattr(error, "worker_failures", {}).items())
    # Ray Train wraps the exception of its health check.
    found = [(rank, getattr(failure, "health_check_failure", failure)) for rank, failure in failures]
    deaths = [(rank, failure) for rank, failure in found if isinstance(failure, ray.exceptions.RayActorError)]
    if not deaths:
        return str(error).strip().split("\n")[-1]
    return ", ".join(f"the process of rank {rank} died ({cause_of(failure)})" for rank, failure in deaths)


def failure_message(causes: list[str]) -> str:
    """The reason of a trial that failed because its process died, once for each of these causes, and what to try."""
    counts = collections.Counter(causes)
    most, _ = counts.most_common(1)[0]
    times = f"{len(causes)} times" if len(causes) > 1 else "once"
    each = most if len(counts) == 1 else ", ".join(f"{cause} × {count}" for cause, count in counts.most_common())
    advice = next((advice for signal, advice in _ADVICE.items() if signal in most), "see Ray's logs")
    return f"its process died {times} ({each}): {advice}"


def _signal(pid: int, host: str | None) -> str | None:
    """The signal in the log of a process, read on its own node; None if there is none or the node is down."""
    if host is None or host == ray.util.get_node_ip_address():  # type: ignore[no-untyped-call]
        return _signal_in_log(pid)
    look = ray.remote(_signal_in_log).options(num_cpus=0, resources={f"node:{host}": 0.001})
    try:
        found: str | None = ray.get(look.remote(pid), timeout=_LOG_TIMEOUT_SECONDS)
    except ray.exceptions.RayError:
        return None
    return found


def _signal_in_log(pid: int) -> str | None:
    node: Any = ray._private.worker._global_node
    logs = Path(node.get_logs_dir_path())
    for log in logs.glob(f"worker-*-{pid}.err"):
        if found := _IN_LOG.search(log.read_bytes()):
            return found[1].decode()
    return None
