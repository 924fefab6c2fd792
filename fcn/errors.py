"""What can go wrong, in two kinds.

    InputError      a person can mend it: a path, a file, a setting. Nothing has been trained.
    TrainingError   the run itself can't go on: the loss is not finite, one image doesn't fit into memory.

Messages say place, rule, value and fix, in one sentence that makes sense without a traceback.
"""


class InputError(ValueError):
    """A file, a folder or a setting that a person can mend."""


class TrainingError(RuntimeError):
    """A run that can't go on; its last good checkpoint stays where it is."""
