"""A real HTTP proxy before a real server that fails at some of the requests, the same ones each time it is asked to."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class FlakyProxy(ThreadingHTTPServer):
    """Way "500": answers 500 in the server's place. Way "drop": the server does the work, its answer is dropped."""

    daemon_threads = True

    def __init__(self, server: str, way: Literal["500", "drop"], fails: Callable[[int, str], bool]):
        """server: its address. fails: whether a request fails, by its number, from 1 on, and its method and path."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server_netloc = urlsplit(server).netloc
        self.way, self.fails = way, fails
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.failed: list[str] = []
        """Method and path of the requests that failed."""
        self._count, self._lock = 0, threading.Lock()

    def takes(self, what: str) -> bool:
        with self._lock:
            self._count += 1
            fails = self.fails(self._count, what)
            if fails:
                self.failed.append(what)
            return not fails

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyProxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        takes = self.server.takes(f"{self.command} {urlsplit(self.path).path}")
        if not takes and self.server.way == "500":
            self._answer(500, [("Content-Type", "text/plain")], b"flaky")
            return
        behind = http.client.HTTPConnection(self.server.server_netloc, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            content = answer.read()
        finally:
            behind.close()
        if takes:
            self._answer(answer.status, answer.getheaders(), content)
        else:
            self.close_connection = True

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP | {"date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815 – http.server calls them so

    def log_message(self, format: str, *args: object) -> None:
        """Not on the tests' output."""


@contextmanager
def flaky_proxy(server: str, way: Literal["500", "drop"], fails: Callable[[int, str], bool]) -> Iterator[FlakyProxy]:
    proxy = FlakyProxy(server, way, fails)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
