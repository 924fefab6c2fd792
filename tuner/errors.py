"""What can go wrong, as a tree:

TunerError
├── StudyError               the study can't start or continue, and a person can fix it: one sentence, exit status 2
│   └── StorageError         the events can't be written, or another process runs the study: it ends as interrupted
├── TrialError               one trial ends as failed; the study continues
└── StorageUnavailableError  the storage fails for now, which is no trial's fault: the trial waits and tries again
"""

from __future__ import annotations


class TunerError(Exception):
    """Root of everything that tuner raises on purpose."""


class StudyError(TunerError):
    """A mistake that a person can fix; the message names the place, the rule, the value and the fix."""


class StorageError(StudyError):
    """The study's events can't be written, or another process has taken the study over: it ends as interrupted."""


class TrialError(TunerError):
    """A trial can't continue, and the same hyperparameters would fail again."""


class StorageUnavailableError(TunerError):
    """A trial's storage can't be read or written at the moment; the message names the place and what is needed."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's name if it has none: what a sentence can quote."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
