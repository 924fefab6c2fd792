"""An S3 of this machine: moto's server in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@contextlib.contextmanager
def bucket_server(log: Path) -> Iterator[str]:
    """host:port of an S3 server with a bucket named "bucket"; skips the test where moto isn't installed."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not installed: pip install 'moto[server]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=os.environ) as server:
        try:
            _make_bucket(f"http://127.0.0.1:{port}/bucket")
            yield f"127.0.0.1:{port}"
        finally:
            server.kill()


def _make_bucket(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.1)


def bucket_uri(server: str, folder: str, bucket: str = "bucket") -> str:
    return f"s3://{bucket}/{folder}?endpoint_override={server}&scheme=http&region=us-east-1"
