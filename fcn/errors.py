"""What can go wrong, in three kinds. The first ends a command with status 2, the others with status 1 (cli/app.py).

    InputError      a person can fix it: a path, a file, a config field. Nothing has been trained.
    TrainingError   the run itself cannot continue: the loss is not finite, one image doesn't fit into memory.
    ExportError     an exported file does not compute what its checkpoint computes.

Messages say place, rule, value and fix, in one sentence that makes sense without a traceback.
"""


class InputError(ValueError):
    """A file, a folder or a config field that a person can fix."""


class TrainingError(RuntimeError):
    """A run that cannot continue; its last good checkpoint stays where it is."""


class ExportError(RuntimeError):
    """What was written differs from the checkpoint; nothing of it was kept."""
