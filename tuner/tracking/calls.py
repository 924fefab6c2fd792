"""Calls to MLflow with retries: idempotent calls are repeated; before a create is repeated, its result is searched for.

After a lost response it is unknown whether the server did the work. MLflow's own client repeats every request, also one
that creates a run, and so creates a duplicate: its retries are off for creates.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

# MLflow's own patience is minutes a call; here an outage is met by reading the events again.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0.1")
os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
# Else each ended run prints its address into the study's output, and asks for it.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# MLflow else tells its makers which of its functions are called, with what.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")

_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"  # of each request; a call may consist of several
os.environ.setdefault(_RETRIES, "2")
PAUSES_SECONDS = (0.2, 1.0)
_LONGEST_SECONDS = 5.0  # what began later than this after the first attempt isn't tried again at once
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "ALREADY_EXISTS",
    "NOT_IMPLEMENTED",
    "FEATURE_DISABLED",
    "MAX_BLOCK_SIZE_EXCEEDED",
}
# Of the statuses that say that the request was wrong, these may pass: who asks, where, when, how often.
_TRANSIENT = {401, 403, 404, 407, 408, 409, 425, 429}

Answer = TypeVar("Answer")


class RefusalError(Exception):
    """MLflow refused the request, and would refuse it again."""


def repeated(call: Callable[[], Answer]) -> Answer:
    """The result of an idempotent call, retried a few times.

    Raises RefusalError if MLflow will never take it, else what the last of a few attempts raised.
    """
    began = time.monotonic()
    for pause in (*PAUSES_SECONDS, None):
        try:
            return call()
        except Exception as error:
            _raise_refusal(error)
            if pause is None or time.monotonic() - began > _LONGEST_SECONDS:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def create_once(make: Callable[[], Answer], look: Callable[[], Answer | None]) -> tuple[Answer, bool]:
    """Create something exactly once. Returns it, and whether it was certainly created by this call.

    make: creates it. look: returns the existing one, or None.
    Raises RefusalError if MLflow will never take it, else what the last of a few attempts raised.
    """
    certain = True
    for pause in (*PAUSES_SECONDS, None):
        try:
            with _without_retries():
                return make(), certain
        except Exception as error:
            certain = False
            # Two that make it at once meet here too: the second is told that it exists.
            found = repeated(look)
            if found is not None:
                return found, False
            _raise_refusal(error)
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def _without_retries() -> Iterator[None]:
    before, os.environ[_RETRIES] = os.environ[_RETRIES], "0"
    try:
        yield
    finally:
        os.environ[_RETRIES] = before


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _raise_refusal(error: Exception) -> None:
    if _is_refusal(error):
        raise RefusalError(first_line(error)) from error


def _is_refusal(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        # A proxy that finds a request too large says so in words of its own.
        return error.error_code in _REFUSALS or "failed with error code 413" in str(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return 400 <= status < 500 and status not in _TRANSIENT
    # The client's own checks; a connection that fails raises an OSError, which some of those are too.
    return isinstance(error, ValueError | TypeError | LookupError | AttributeError) and not isinstance(error, OSError)
