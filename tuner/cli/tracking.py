"""python -m tuner ui, sync, optuna: a study in MLflow and in Optuna."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from tuner.cli.browser import has_desktop
from tuner.cli.console import console
from tuner.cli.options import DEFAULT_STORAGE, ClusterOption, Name, StorageOption, TrackingOption
from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.storage.address import HIDDEN, without_secrets
from tuner.storage.storage import Storage

DEFAULT_PORT = 5000
_LOOPBACK = "127.0.0.1"
_SERVER_SECONDS = 30.0
_SYNC_TIMEOUT_SECONDS = 60.0
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="A study.")]


def ui(
    name: Name = None,
    storage: StorageOption = DEFAULT_STORAGE,
    tracking_uri: TrackingOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _LOOPBACK,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = DEFAULT_PORT,
    opens: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser, if there is a desktop.")
    ] = True,
    cluster: ClusterOption = None,
) -> None:
    """Print the link to a study's trials in MLflow. Serves MLflow's UI until Ctrl-C, unless a server runs already.

    With --cluster: the MLflow that runs on the cluster's head, through SSH.
    """
    if cluster is not None:
        _show_cluster(cluster, name, port, opens, storage, tracking_uri, host)
        return
    from tuner.tracking.address import default_tracking_uri, server_page, sqlite_file

    opened, record = Storage(storage), _newest(storage, name)
    uri = tracking_uri or (record and record.tracking_uri) or default_tracking_uri(opened)
    if HIDDEN in uri:
        raise StudyError("--tracking-uri: the address's password isn't stored; give the whole address again")
    server = server_page(uri)
    database = sqlite_file(uri)
    if database and not database.is_file():
        raise StudyError(f"--storage {opened.uri}: a tracked study is needed there, got none; run one first")
    serves = server is None
    server = server or f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
    link = (record and study_link(opened, record, server)) or server
    console().print(f"MLflow: {link}{'  (Ctrl-C stops it)' if serves else ''}", highlight=False, soft_wrap=True)
    if opens:
        _open(link)
    if not serves:
        return
    # In the environment: other users of this machine can read a command line, and the address may have a password.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    # MLflow's job runners are for language models: seven processes that a study doesn't need.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    # Its pages and itself else tell MLflow's makers what is looked at.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.execv(sys.executable, command)


def _show_cluster(
    cluster: Path, name: str | None, port: int, opens: bool, storage: str, tracking_uri: str | None, host: str
) -> None:
    """Forward the port of the head's MLflow until Ctrl-C, or until the connection breaks."""
    from tuner.jobs.tunnel import tunnel

    given = {"--storage": storage != DEFAULT_STORAGE, "--tracking-uri": tracking_uri, "--host": host != _LOOPBACK}
    for option in (option for option, is_given in given.items() if is_given):
        raise StudyError(f"{option}, --cluster: one of them is needed; a cluster's MLflow runs on its head")
    with tunnel(cluster, DEFAULT_PORT, port) as tunnel_to_head:
        server = f"http://{_LOOPBACK}:{port}"
        link = _experiment_link(server, name, cluster)
        console().print(f"MLflow: {link}  (Ctrl-C ends the tunnel, not the server)", highlight=False, soft_wrap=True)
        if opens:
            _open(link)
        tunnel_to_head.wait()
    raise StudyError(f"--cluster {cluster}: the connection to its head broke; the same command opens it again")


def _experiment_link(server: str, name: str | None, cluster: Path) -> str:
    """A study's page on a server, or the server's own if none is named."""
    import requests

    try:
        if name is None:
            requests.get(f"{server}/health", timeout=_SERVER_SECONDS).raise_for_status()
            return server
        found = requests.get(
            f"{server}/api/2.0/mlflow/experiments/get-by-name",
            params={"experiment_name": name},
            timeout=_SERVER_SECONDS,
        )
    except requests.RequestException:
        raise StudyError(
            f"--cluster {cluster}: an MLflow server is needed on port {DEFAULT_PORT} of its head, and none answers; "
            f"`ray up {cluster}` starts it, mlflow.log in the home folder there says why it ended"
        ) from None
    if found.status_code == requests.codes.not_found:
        raise StudyError(
            f"study {name}: one that is tracked to the MLflow of this cluster is needed; leave the name out to see all"
        )
    return f"{server}/#/experiments/{found.json()['experiment']['experiment_id']}"


def _open(link: str) -> None:
    """In a process of its own: this one becomes the server, which the page has to wait for."""
    if has_desktop():
        subprocess.Popen([sys.executable, "-m", "tuner.cli.browser", link], start_new_session=True)


def sync(name: StudyName, tracking_uri: TrackingOption = None, storage: StorageOption = DEFAULT_STORAGE) -> None:
    """Write a whole study into any MLflow. Can be repeated: nothing is duplicated."""
    from tuner.events.log import local_copy
    from tuner.events.state import load_record
    from tuner.storage.scratch import scratch
    from tuner.tracking.address import check_tracking_uri, default_tracking_uri, server_page, unreachable
    from tuner.tracking.tracker import Tracker
    from tuner.tracking.views import view_link

    opened = Storage(storage)
    record = load_record(opened / name)
    uri = tracking_uri or default_tracking_uri(opened)
    check_tracking_uri(uri)
    if problem := unreachable(uri):
        raise StudyError(f"--tracking-uri: {problem}; start that server, or give another address")
    with scratch("sync") as folder:
        tracker = Tracker(record.spec, opened / name, local_copy(opened / name, folder), uri, remember=False)
        tracker.start()
        with Progress(console=console(), transient=True) as progress:
            task = progress.add_task(f"{name} to {without_secrets(uri)}", total=None)

            def show() -> bool:
                done, total = tracker.progress
                progress.update(task, completed=done, total=total)
                return False

            left = tracker.finish(_SYNC_TIMEOUT_SECONDS, abandoned=show)
    if left:
        raise StudyError(
            f"--tracking-uri: MLflow accepts nothing ({tracker.error}); {left} events were not sent: run the same "
            "command again"
        )
    server = server_page(uri)
    where = view_link(record.spec, server, tracker.experiment or "") if server else without_secrets(uri)
    console().print(f"{name}: {len(record.trials)} trials are in {where}", highlight=False, soft_wrap=True)
    if tracker.skipped:
        console().print(tracker.skipped, style="yellow", highlight=False, soft_wrap=True)


def optuna(
    name: StudyName,
    to: Annotated[
        str, typer.Option("--to", metavar="URL_OR_FILE", help="sqlite:///FILE or another database, or a journal file.")
    ],
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write a study as an Optuna storage, for optuna-dashboard and Optuna's own functions."""
    from tuner.events.state import load_record
    from tuner.search.optuna_storage import write_optuna_storage

    record = load_record(Storage(storage) / name)
    write_optuna_storage(record, to)
    shown = without_secrets(to)
    console().print(f"{name}: {len(record.trials)} trials are in {shown}", highlight=False, soft_wrap=True)
    console().print(f"  optuna-dashboard {shlex.quote(shown)}   shows them", highlight=False, soft_wrap=True)


def study_link(storage: Storage, record: StudyRecord, server: str | None = None) -> str | None:
    """The link to a study's trials in MLflow, best first; None if the study was never tracked.

    server: http://host:port; default: the server that it is tracked to, or else the one that `ui` starts.
    """
    from tuner.tracking.address import server_page
    from tuner.tracking.state import experiment_of
    from tuner.tracking.views import view_link

    experiment = experiment_of(storage / record.spec.name)
    server = server or server_page(record.tracking_uri or "") or f"http://127.0.0.1:{DEFAULT_PORT}"
    return experiment and view_link(record.spec, server, experiment)


def _newest(storage: str, name: str | None) -> StudyRecord | None:
    """The study of that name, or the newest, or None if no name is given and there is no study."""
    from tuner.display import show as shows

    if name is not None:
        return shows.find(Storage(storage), name)
    found, _ = shows.studies(Storage(storage))
    return found[-1] if found else None
