"""The metadata server of a spot machine, as AWS (IMDSv2) and Google Cloud describe theirs.

It announces that the machine is taken away when a file says so: when, or "broken", with which it fails. As a program:
python -m tests.metadata_server PORT NOTICE_FILE
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "AQAEAHkL"


def server(port: int, notice: Path) -> ThreadingHTTPServer:
    """One on this machine's loopback. notice: a file with "2017-09-18T08:22:00Z", say; it may come later."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            wanted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self._answer(200 if wanted else 400, TOKEN if wanted else "")

        def do_GET(self) -> None:
            said = notice.read_text(encoding="utf-8") if notice.exists() else ""
            if said == "broken":
                self._answer(500, "")
            elif self.path == "/computeMetadata/v1/instance/preempted":
                allowed = self.headers["Metadata-Flavor"] == "Google"
                self._answer(200 if allowed else 403, ("TRUE" if said else "FALSE") if allowed else "")
            elif self.headers["X-aws-ec2-metadata-token"] != TOKEN:
                self._answer(401, "")
            elif self.path == "/latest/meta-data/spot/instance-action" and said:
                self._answer(200, json.dumps({"action": "terminate", "time": said}))
            else:
                self._answer(404, "")

        def _answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


@contextlib.contextmanager
def metadata_server(notice: Path) -> Iterator[str]:
    """One that runs in the block, on a free port. Yields HOST:PORT."""
    with server(0, notice) as made:
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"127.0.0.1:{made.server_port}"
        finally:
            made.shutdown()


if __name__ == "__main__":
    server(int(sys.argv[1]), Path(sys.argv[2])).serve_forever()
