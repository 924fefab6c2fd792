"""The three kinds of errors. The first ends a command with status 2, the others with status 1 (cli/app.py).

    InputError      a person can fix a path, a file or a config field. Nothing has been trained.
    TrainingError   the run cannot continue: the loss is not finite, or not even one image fits into memory.
    ExportError     an exported file does not compute what its checkpoint computes.

A message gives place, rule, value and fix, in one sentence that is understood without a traceback.
"""


class InputError(ValueError):
    """A mistake in a file, a folder or a config field, which a person can fix."""


class TrainingError(RuntimeError):
    """A run that cannot continue; its last good checkpoint stays where it is."""


class ExportError(RuntimeError):
    """An exported file differs from its checkpoint. The export has been removed."""
