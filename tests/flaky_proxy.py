"""A real HTTP proxy before a real server that fails at some of the requests, the same ones each time it is asked to."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Way = Literal["500", "drop", "cut", "slow"]

_SLOW_SECONDS = 0.5
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class FlakyProxy(ThreadingHTTPServer):
    """Fails at some requests, in one of four ways.

    500: answers with status 500 in the server's place. drop: the server does the work, and its answer is dropped.
    cut: the first half of its answer arrives. slow: its answer arrives after half a second.
    """

    daemon_threads = True

    def __init__(self, server: str, way: Way, fails: Callable[[int, str], bool]):
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
        body = self._body()
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
        if not takes and self.server.way == "slow":
            time.sleep(_SLOW_SECONDS)
        if takes or self.server.way == "slow":
            self._answer(answer.status, answer.getheaders(), content)
        elif self.server.way == "cut" and self.command == "GET":
            self._answer(answer.status, answer.getheaders(), content, len(content) // 2)
            self.close_connection = True
        else:
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # headers after the body
        return b"".join(chunks)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: int | None = None) -> None:
        """length: how much of the content is sent; all of it if left out."""
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP | {"date", "server"}:
                self.send_header(name, value)
        # The answer to HEAD has the length of what GET would bring.
        whole = {name.lower(): value for name, value in headers}.get("content-length", "0")
        self.send_header("Content-Length", whole if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content[:length])

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815 – http.server calls them so

    def log_message(self, format: str, *args: object) -> None:
        """Not on the tests' output."""


@contextmanager
def flaky_proxy(server: str, way: Way, fails: Callable[[int, str], bool]) -> Iterator[FlakyProxy]:
    proxy = FlakyProxy(server, way, fails)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
