"""The console that all commands print to."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class _PipeSafeConsole(Console):
    """A study continues when the reader of its output has closed the pipe, as in `python -m tuner run … | head`."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """A console for all commands; without a terminal it is wide enough for every column of a table."""
    # No markup: rich would interpret the square brackets in paths, names and exceptions.
    return _PipeSafeConsole(emoji=False, markup=False, width=None if sys.stdout.isatty() else 160)
