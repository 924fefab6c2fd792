"""What can go wrong, as a tree:

TunerError
├── StudyError        the study can't start or go on, and a person can mend it: one sentence, exit status 2
│   └── StorageError  the storage takes no events, or is another process's: the study ends as interrupted
├── TrialError        one trial ends as failed; the study goes on
└── RefusedError      the storage refuses a trial something that it may take later: no trial's fault, the study waits
"""

from __future__ import annotations


class TunerError(Exception):
    """Root of everything that tuner raises on purpose."""


class StudyError(TunerError):
    """A mistake that a person can mend; the message names the place, the rule, the value and the fix."""


class StorageError(StudyError):
    """The study's storage takes no events, or another process has taken the study over: it ends as interrupted."""


class TrialError(TunerError):
    """A trial can't go on; trying the same setting again would end the same way."""


class RefusedError(TunerError):
    """The storage takes or gives a trial nothing now; the message names the place and what is needed."""
