"""A study as a Ray job: submit it, find it by the study's name, follow its output, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import requests
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from tuner.errors import StudyError, first_line
from tuner.jobs import project
from tuner.jobs.tunnel import tunnel
from tuner.storage.address import without_secrets

_DASHBOARD_PORT = 8265
_STUDY, _STORAGE, _TRACKING = "tuner.study", "tuner.storage", "tuner.tracking_uri"
# By default Ray kills a job three seconds after asking it to stop. A study first writes its trials' newest checkpoints
# and sends the last events to MLflow.
_STOP_SECONDS = 600
# A login shell on the head may find another Python first; the cluster file sets TUNER_PYTHON to Ray's own.
_PYTHON = '"${TUNER_PYTHON:-python}"'
_POLL_SECONDS = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class StudyJob:
    """One run of a study as a job."""

    study: str
    id: str
    """Ray's submission id."""
    status: JobStatus
    storage: str
    tracking_uri: str | None
    working_dir: str | None
    """The URI of the packed project folder."""
    started: float | None
    """Seconds since 1970."""
    ended: float | None


class Jobs:
    """The jobs of a cluster."""

    def __init__(self, client: JobSubmissionClient, shown: str):
        """shown: the command-line option that names the cluster, for error messages."""
        self._client, self._shown = client, shown

    def submit(
        self,
        name: str,
        study_file: Path,
        folder: Path,
        storage: str,
        tracking_uri: str | None,
        overrides: list[str],
    ) -> StudyJob:
        """Send the folder, and run the study on the head, or resume it if its storage has it.

        Raises StudyError if a job of the study runs already, or if the folder is too large.
        """
        running = [job for job in self.all() if job.study == name and not job.status.is_terminal()]
        if running:
            raise StudyError(
                f"study {name}: only one job at a time may run it, and {running[0].id} does; follow it: "
                f"python -m tuner logs {name} --follow {self._shown}, or stop it first: "
                f"python -m tuner stop {name} {self._shown}"
            )
        for option, value in (("--storage", storage), ("--tracking-uri", tracking_uri)):
            if value is not None and without_secrets(value) != value:
                raise StudyError(
                    f"{option} {without_secrets(value)}: an address without a secret is needed, since the "
                    "cluster's dashboard shows it; give the nodes a role, or set the keys in their environment"
                )
        command = [
            *("tuner", "run", study_file.as_posix(), "--or-resume", "--name", name),
            *("--address", "auto", "--storage", storage),
            *(("--tracking-uri", tracking_uri) if tracking_uri else ()),
            *(word for override in overrides for word in ("--set", override)),
        ]
        metadata = {_STUDY: name, _STORAGE: storage}
        if tracking_uri:
            metadata[_TRACKING] = tracking_uri
        environment = {"working_dir": str(folder), "excludes": project.EXCLUDED}
        return self._start(name, command, environment, metadata, folder)

    def run(self, job: StudyJob, command: list[str], name: str) -> tuple[bool, str]:
        """Run a Python module on the head, in the job's folder. Returns whether it succeeded, and its output."""
        done = self._start(name, command, {"working_dir": job.working_dir} if job.working_dir else {}, {}, None)
        while not self._status(done.id).is_terminal():
            time.sleep(_POLL_SECONDS)
        return self._status(done.id) == JobStatus.SUCCEEDED, self._ask(lambda: self._client.get_job_logs(done.id))

    def all(self) -> list[StudyJob]:
        """The jobs that are studies, oldest first."""
        jobs = [_study_job(details) for details in self._ask(self._client.list_jobs)]
        return sorted((job for job in jobs if job.study), key=lambda job: job.started or float("inf"))

    def find(self, study: str) -> StudyJob:
        """The newest job of a study. Raises StudyError if there is none."""
        jobs = self.all()
        for job in reversed(jobs):
            if job.study == study:
                return job
        known = ", ".join(dict.fromkeys(job.study for job in jobs)) or "none"
        raise StudyError(f"study {study}: a study that was submitted to this cluster is needed; it has {known}")

    def status(self, job: StudyJob) -> JobStatus:
        return self._status(job.id)

    def logs(self, job: StudyJob) -> str:
        """The job's output so far."""
        return self._ask(lambda: self._client.get_job_logs(job.id))

    def follow(self, job: StudyJob, write: Callable[[str], None]) -> JobStatus:
        """Pass the job's output to `write` until the job ends. Returns its final status."""
        shown = 0

        async def tail() -> None:
            """Read the output from its start, where Ray begins on each connection, and write only what is new."""
            nonlocal shown
            read = 0
            async for text in self._client.tail_job_logs(job.id):
                write(text[max(0, shown - read) :])
                read += len(text)
                shown = max(shown, read)

        while True:
            # Reconnect after a broken connection, as long as the cluster answers.
            with contextlib.suppress(RuntimeError, aiohttp.ClientError):
                asyncio.run(tail())
            status = self._status(job.id)
            if status.is_terminal():
                return status
            time.sleep(_POLL_SECONDS)

    def stop(self, job: StudyJob) -> None:
        """Stop the study as Ctrl-C does, and wait for it: its trials keep their newest checkpoint."""
        self._ask(lambda: self._client.stop_job(job.id))
        while not self._status(job.id).is_terminal():
            time.sleep(_POLL_SECONDS)

    def _start(
        self, name: str, command: list[str], environment: dict[str, Any], metadata: dict[str, str], folder: Path | None
    ) -> StudyJob:
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS), "PYTHONUNBUFFERED": "1"}
        try:
            id_ = self._ask(
                lambda: self._client.submit_job(
                    entrypoint=f"{_PYTHON} -m {shlex.join(command)}",
                    submission_id=f"{name}-{secrets.token_hex(3)}",
                    runtime_env={**environment, "env_vars": variables},
                    metadata=metadata,
                )
            )
        except (ValueError, RuntimeError) as error:
            # Raised by the client, which checks the size, or by the server, which rejects the request.
            if folder and ("exceeds" in str(error) or "413" in str(error)):
                raise project.too_large(folder) from None
            raise
        return _study_job(self._ask(lambda: self._client.get_job_info(id_)))

    def _status(self, id_: str) -> JobStatus:
        return self._ask(lambda: self._client.get_job_status(id_))

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise StudyError(
                f"{self._shown}: the cluster doesn't answer ({type(error).__name__}); studies on it continue: try again"
            ) from None


@contextlib.contextmanager
def connected(cluster_file: Path | None, address: str | None) -> Iterator[Jobs]:
    """The jobs of a cluster, given by a cluster file or the address of its dashboard.

    Exactly one must be given. Raises StudyError if there is no such cluster, or if it requires another token.
    """
    if (cluster_file is None) == (address is None):
        raise StudyError(
            "--cluster, --address: one of them is needed: --cluster cluster.yaml, the file that `ray up` was given, or "
            "--address http://HOST:8265, a dashboard that this machine can reach"
        )
    with contextlib.ExitStack() as stack:
        if cluster_file is not None:
            shown = f"--cluster {shlex.quote(str(cluster_file))}"
            url = f"http://127.0.0.1:{stack.enter_context(tunnel(cluster_file, _DASHBOARD_PORT)).port}"
        else:
            assert address is not None
            shown, url = f"--address {shlex.quote(address)}", _dashboard(address)
        yield Jobs(_client(url, shown), shown)


def _client(url: str, shown: str) -> JobSubmissionClient:
    # Ray's loggers set their own levels, and would log every upload and every closed connection.
    logging.disable(logging.WARNING)
    # The constructor already connects to the server.
    try:
        client = JobSubmissionClient(url, headers=_token())
        client.get_version()
    except (ConnectionError, requests.exceptions.RequestException):
        raise StudyError(
            f"{shown}: a Ray dashboard is needed at {url}, and nobody answers there; is the cluster up, and was its "
            "head started with ray[default]?"
        ) from None
    except RuntimeError as error:
        raise StudyError(
            f"{shown}: the cluster at {url} refuses this machine ({first_line(error)}); it "
            "requires the token that its head was started with, in ~/.ray/auth_token or in RAY_AUTH_TOKEN"
        ) from None
    return client


def _dashboard(address: str) -> str:
    """The URL of a dashboard. Raises StudyError if the address is of another kind."""
    url = address if "://" in address else f"http://{address}"
    if not url.startswith(("http://", "https://")) or address == "auto":
        raise StudyError(
            f"--address {address}: the address of a dashboard is needed here, such as http://HOST:8265; "
            f"for a Ray of this machine: http://127.0.0.1:{_DASHBOARD_PORT}"
        )
    return url.rstrip("/")


def _token() -> dict[str, str]:
    """The header that a cluster with token authentication requires; other clusters ignore it."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    token = os.environ.get("RAY_AUTH_TOKEN") or (path.read_text(encoding="utf-8").strip() if path.is_file() else "")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _study_job(details: JobDetails) -> StudyJob:
    metadata: dict[str, str] = details.metadata or {}
    environment: dict[str, Any] = details.runtime_env or {}
    return StudyJob(
        study=metadata.get(_STUDY, ""),
        id=details.submission_id or "",
        status=details.status,
        storage=metadata.get(_STORAGE, ""),
        tracking_uri=metadata.get(_TRACKING),
        working_dir=environment.get("working_dir"),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
    )
