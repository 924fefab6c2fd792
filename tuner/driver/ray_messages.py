"""What Ray itself says in a study's output: a line each, and nothing that the study says in its own words."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import ray._private.worker

_SAID_BY_THE_STUDY = re.compile(r"The node with node id: \S+ .*has been marked dead|Raylet is terminated")
_MOST_CHARACTERS = 300


@contextlib.contextmanager
def shortened() -> Iterator[None]:
    """A block in which Ray's messages to its driver are shortened. Ray prints them even with log_to_driver = False."""
    original = ray._private.worker.print_to_stdstream
    ray._private.worker.print_to_stdstream = _print
    try:
        yield
    finally:
        ray._private.worker.print_to_stdstream = original


def _print(data: dict[str, Any], ignore_prefix: bool) -> None:
    del ignore_prefix
    for message in data["lines"]:
        if line := one_line(message):
            print(line, file=sys.stderr if data["is_err"] else sys.stdout, flush=True)


def one_line(message: str) -> str | None:
    """A message of Ray's as a line; None if the study says the same."""
    words = " ".join(message.split())
    if not words or _SAID_BY_THE_STUDY.match(words):
        return None
    return f"Ray: {words}" if len(words) <= _MOST_CHARACTERS else f"Ray: {words[:_MOST_CHARACTERS]} …"
