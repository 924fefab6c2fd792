"""The console that all commands print to."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class _PatientConsole(Console):
    """A study doesn't end because nobody reads any more what it says, as in `python -m tuner run … | head`."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """Where no terminal sets the width, a table gets room enough for every column."""
    # No markup: what it is given holds paths, names and exceptions, in whose square brackets rich would see its own.
    return _PatientConsole(emoji=False, markup=False, width=None if sys.stdout.isatty() else 160)
