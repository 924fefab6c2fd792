"""The provenance of a study's results: command, code, machine and data, in the first event of each run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuner import __version__
from tuner.events.event import RunBegan
from tuner.events.forecast import Forecast
from tuner.storage.address import HIDDEN, is_secret_name, without_secrets, without_secrets_in

_TIMEOUT_SECONDS = 10.0  # git may be slow in a large folder, and nvidia-smi may hang
_ASSIGNMENT = re.compile(r"(?:.*\.)?([^.=]+)=.*", re.DOTALL)


def run_began(
    number: int,
    overrides: Sequence[str],
    tracking_uri: str,
    data: Mapping[str, str] | None = None,
    forecast: Forecast | None = None,
) -> RunBegan:
    """The first event of a run. number: from 1. data: what the workload's `prepare` returned; None if it didn't run."""
    return RunBegan(
        time.time(),
        number=number,
        host=socket.gethostname(),
        pid=os.getpid(),
        versions=_versions(),
        overrides=tuple(_without_secrets(override) for override in overrides),
        tracking_uri=without_secrets(tracking_uri),
        command=shlex.join(_without_secrets(word) for word in sys.orig_argv),
        git=git_state(Path.cwd()),
        hardware=hardware(),
        data=dict(data) if data else None,
        forecast=forecast.to_json() if forecast else None,
    )


def git_state(folder: Path) -> dict[str, str] | None:
    """Commit, branch, tree and repository of the git repository that holds a folder; None if there is none.

    tree is "clean", or how many files differ from the commit. repository is the address of `origin`, left out if there
    is no such remote.
    """
    status = _output("git", "-C", str(folder), "status", "--porcelain=v2", "--branch")
    if status is None:
        return None
    lines = status.splitlines()
    heads = dict(line[2:].partition(" ")[::2] for line in lines if line.startswith("# "))
    files = [line for line in lines if not line.startswith("# ")]
    untracked = sum(line.startswith("?") for line in files)
    counts = {"changed": len(files) - untracked, "untracked": untracked}
    found = {
        "commit": heads.get("branch.oid", ""),
        "branch": heads.get("branch.head", ""),
        "tree": ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "clean",
    }
    if origin := _output("git", "-C", str(folder), "config", "--get", "remote.origin.url"):
        found["repository"] = without_secrets(origin.strip())
    return found


def hardware() -> dict[str, str]:
    """This host's cpu (its model), cores (that this process may use), memory and gpus."""
    found = {"cpu": _cpu_model(), "cores": str(_cores())}
    with contextlib.suppress(ValueError, OSError):
        found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    gpus = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    found["gpus"] = "; ".join(line.strip() for line in gpus.splitlines()) if gpus else "none"
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> dict[str, str]:
    """The versions of Python and of each installed package, and of this one also as `tuner`, its module's name."""
    packages = {
        package.name: package.version for package in importlib.metadata.distributions() if package.name is not None
    }
    return {**dict(sorted(packages.items())), "python": platform.python_version(), "tuner": __version__}


def _without_secrets(word: str) -> str:
    """A word of a command line, with secrets replaced."""
    assignment = _ASSIGNMENT.fullmatch(word)
    if assignment and is_secret_name(assignment[1]):
        return f"{word.partition('=')[0]}={HIDDEN}"
    return without_secrets_in(word)


def _output(*command: str) -> str | None:
    """The standard output of a program; None if it isn't installed, fails, or takes too long."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_SECONDS,
            # Without this, git status takes the repository's lock, and a git command of the user may fail.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
