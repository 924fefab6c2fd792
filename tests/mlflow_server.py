"""A real MLflow server of this machine's own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MlflowServer:
    uri: str
    process: subprocess.Popen[str]
    artifacts: Path

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)


@contextmanager
def mlflow_server(folder: Path, database: Path | str, port: int | None = None) -> Iterator[MlflowServer]:
    """database: an MLflow database, which is copied: making one takes seconds; or the address of one.

    port: one of its own if left out.
    """
    address = database if isinstance(database, str) else f"sqlite:///{folder / 'server.db'}"
    if isinstance(database, Path):
        shutil.copyfile(database, folder / "server.db")
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("w") as log:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": address}
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True, env=environment)
        server = MlflowServer(f"http://127.0.0.1:{port}", process, folder / "artifacts")
        try:
            for _ in range(600):
                assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
                try:
                    urllib.request.urlopen(f"{server.uri}/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield server
        finally:
            server.signal(signal.SIGCONT)
            server.signal(signal.SIGKILL)
            process.wait()
