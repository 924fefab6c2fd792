"""python -m tuner submit, status, logs, stop, fetch: a study on a cluster, from a machine outside it."""

from __future__ import annotations

import secrets
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tuner.cli.options import ClusterOption, NameOption, SetOption, StudyFile
from tuner.errors import StudyError

if TYPE_CHECKING:
    from tuner.jobs.study_job import Jobs, StudyJob

DashboardOption = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="A dashboard that this machine can reach: http://HOST:8265."),
]
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="A study that was submitted.")]


def submit(
    study_file: StudyFile,
    storage: Annotated[
        str,
        typer.Option(
            "--storage", metavar="PATH_OR_URI", help="A storage that all nodes reach: s3://… or a shared folder."
        ),
    ],
    cluster: ClusterOption = None,
    address: DashboardOption = None,
    overrides: SetOption = None,
    name: NameOption = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", metavar="URI", help="An MLflow server, as the head reaches it."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its output until it ends.")] = False,
) -> None:
    """Run a study on a cluster, as a job that continues without this machine; a stopped study is resumed."""
    from tuner.jobs.project import study_file_within
    from tuner.jobs.study_job import connected
    from tuner.spec.study_file import read_study

    folder = Path.cwd()
    # Mistakes in the file are reported here, before anything is sent.
    spec = read_study(study_file, overrides or [], name)
    within = study_file_within(folder, study_file)
    if "://" not in storage and not storage.startswith("/"):
        raise StudyError(
            f"--storage {storage}: a storage that all nodes reach is needed, a bucket (s3://BUCKET/studies) or the "
            "absolute path of a shared folder; a relative path would be in the job's own folder, and deleted with it"
        )
    console = _console()
    with connected(cluster, address) as jobs:
        with console.status("sending the project's folder …"):
            job = jobs.submit(spec.name, within, folder, storage, tracking_uri, overrides or [])
        at = _at(cluster, address)
        console.print(f"study {job.study} is submitted as job {job.id}", highlight=False, soft_wrap=True)
        for command, purpose in (
            (f"python -m tuner logs {job.study} --follow {at}", "its output"),
            (f"python -m tuner status {job.study} {at}", "its trials, best first"),
            (f"python -m tuner stop {job.study} {at}", "stop it; submit it again to resume"),
        ):
            console.print(f"  {command}   {purpose}", highlight=False, soft_wrap=True)
        if follow:
            _follow(jobs, job, at)


def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A study (default: all).")] = None,
    cluster: ClusterOption = None,
    address: DashboardOption = None,
) -> None:
    """List the studies that were submitted to a cluster; with NAME, also the trials of that study."""
    from tuner.jobs.study_job import connected

    console = _console()
    with connected(cluster, address) as jobs:
        chosen = [jobs.find(name)] if name else jobs.all()
        if not chosen:
            console.print("no study was submitted to this cluster: python -m tuner submit STUDY_FILE --storage …")
            return
        console.print(_table(chosen))
        if name:
            command = ["tuner", "show", name, "--storage", chosen[0].storage]
            _, printed = jobs.run(chosen[0], command, f"{name}-show")
            console.print(printed, highlight=False, soft_wrap=True)


def logs(
    name: StudyName,
    cluster: ClusterOption = None,
    address: DashboardOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Also show new output, until it ends.")] = False,
) -> None:
    """Print the output of a submitted study."""
    from tuner.jobs.study_job import connected

    with connected(cluster, address) as jobs:
        job = jobs.find(name)
        if follow:
            _follow(jobs, job, _at(cluster, address))
        else:
            sys.stdout.write(jobs.logs(job))


def stop(name: StudyName, cluster: ClusterOption = None, address: DashboardOption = None) -> None:
    """Stop a submitted study: its trials keep their newest checkpoint, and `submit` resumes it."""
    from tuner.jobs.study_job import connected

    console = _console()
    with connected(cluster, address) as jobs:
        job = jobs.find(name)
        if job.status.is_terminal():
            console.print(f"job {job.id} has already ended: {job.status.lower()}", highlight=False)
            return
        with console.status("stopping the study: its trials write their newest checkpoint …"):
            jobs.stop(job)
        console.print(f"study {name} is stopped; submit it again to resume it", highlight=False)


def fetch(
    name: StudyName,
    cluster: Annotated[Path, typer.Option("--cluster", metavar="FILE", help="The file that `ray up` was given.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Where to put the export (default: exports/NAME).")
    ] = None,
) -> None:
    """Export the winner of a submitted study on the head, with its test score, and download the export."""
    from tuner.jobs.study_job import connected
    from tuner.jobs.tunnel import download

    folder = output or Path("exports") / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyError(f"--output {folder}: an empty or new folder is needed; give another")
    console = _console()
    with connected(cluster, None) as jobs:
        job = jobs.find(name)
        # A new folder for each call: an earlier call's export may still be on the head.
        remote = f"/tmp/{job.id}-export-{secrets.token_hex(3)}"
        command = ["tuner.best", name, "--storage", job.storage, "--output", remote]
        with console.status("exporting and scoring the winner on the head …"):
            succeeded, printed = jobs.run(job, command, f"{name}-best")
    console.print(printed, highlight=False, soft_wrap=True)
    if not succeeded:
        raise typer.Exit(1)
    folder.mkdir(parents=True, exist_ok=True)
    download(cluster, f"{remote}/", folder)
    console.print(f"the export is in {folder}", highlight=False, soft_wrap=True)


def _follow(jobs: Jobs, job: StudyJob, at: str) -> None:
    """Print the job's output until it ends, or until Ctrl-C, which doesn't stop the study."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        ended = jobs.follow(job, write)
    except KeyboardInterrupt:
        print(
            f"\nthe study continues; follow it again: python -m tuner logs {job.study} --follow {at}", file=sys.stderr
        )
        raise
    if ended != "SUCCEEDED":
        print(f"job {job.id}: {ended.lower()}", file=sys.stderr)
        raise typer.Exit(1)


def _console() -> Console:
    """A console without markup, since names and addresses may have square brackets; wide if there is no terminal."""
    return Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)


def _at(cluster: Path | None, address: str | None) -> str:
    return f"--cluster {shlex.quote(str(cluster))}" if cluster else f"--address {shlex.quote(address or '')}"


def _table(jobs: list[StudyJob]) -> Table:
    table = Table("study", "job", "state", "started", "ended", "storage", box=None, pad_edge=False)
    for job in jobs:
        table.add_row(job.study, job.id, job.status.lower(), _time(job.started), _time(job.ended), job.storage)
    return table


def _time(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S") if seconds else ""
