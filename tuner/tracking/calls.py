"""Calls to MLflow with retries. Before a create is retried, its result is searched for.

After a lost response it is unknown whether the server did the work. MLflow's own client retries every request, also one
that creates a run, and so creates duplicates: its retries are off for creates.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tuner.errors import first_line

# By default MLflow retries a call for minutes. Here the events are sent again after an outage.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0.1")
os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
# Otherwise MLflow prints the address of each ended run into the study's output.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# MLflow else tells its makers which of its functions are called, with what.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")

_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"  # of each request; a call may consist of several
os.environ.setdefault(_RETRIES, "2")
PAUSES_SECONDS = (0.2, 1.0)
_LONGEST_SECONDS = 5.0  # no further attempt if the first began longer ago than this
_REJECTIONS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "ALREADY_EXISTS",
    "NOT_IMPLEMENTED",
    "FEATURE_DISABLED",
    "MAX_BLOCK_SIZE_EXCEEDED",
}
# Client errors that a later attempt may not meet: authentication, missing resources, timeouts, conflicts, rate limits.
_TRANSIENT = {401, 403, 404, 407, 408, 409, 425, 429}

Answer = TypeVar("Answer")


class RejectedError(Exception):
    """MLflow rejected the request, and would reject it again."""


def with_retries(call: Callable[[], Answer]) -> Answer:
    """The result of an idempotent call, after a few attempts if need be.

    Raises RejectedError if MLflow will never accept it, else what the last attempt raised.
    """
    began = time.monotonic()
    for pause in (*PAUSES_SECONDS, None):
        try:
            return call()
        except Exception as error:
            _raise_if_rejected(error)
            if pause is None or time.monotonic() - began > _LONGEST_SECONDS:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def create_once(create: Callable[[], Answer], find: Callable[[], Answer | None]) -> tuple[Answer, bool]:
    """Create something exactly once. Returns it, and whether it was certainly created by this call.

    create: creates it. find: returns the existing one, or None.
    Raises RejectedError if MLflow will never accept it, else what the last attempt raised.
    """
    certain = True
    for pause in (*PAUSES_SECONDS, None):
        try:
            with _without_retries():
                return create(), certain
        except Exception as error:
            certain = False
            # Also for two processes that create it at once: the second gets an error that it exists.
            found = with_retries(find)
            if found is not None:
                return found, False
            _raise_if_rejected(error)
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


def _raise_if_rejected(error: Exception) -> None:
    if _is_rejection(error):
        raise RejectedError(first_line(error)) from error


def _is_rejection(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        # The error of a proxy that finds the request too large.
        return error.error_code in _REJECTIONS or "failed with error code 413" in str(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return 400 <= status < 500 and status not in _TRANSIENT
    # Checks of MLflow's client. Some subclasses of these are OSErrors too, from a failed connection.
    return isinstance(error, ValueError | TypeError | LookupError | AttributeError) and not isinstance(error, OSError)
