"""A port beside the application's own, where a process tells of itself: metrics, and the admin page.

It is served by a thread and never in a request's way. Of several processes that are told the same port one has it, and
the others look again each second, or take the next port that is free.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from ..log_lines import logger_of

__all__ = ["Answer", "Asked", "SidePort"]

logger = logger_of("meshsdk.server")

_LOOK_AGAIN_SECONDS = 1.0
_REQUEST_SECONDS = 10.0
# How often it is looked whether to stop.
_LOOK_UP_SECONDS = 0.25
# Whoever looks comes alone, or as a few. Beyond this the oldest makes room: a dribbler shuts nobody out.
_MAX_AT_ONCE = 16
# Those that made room have a thread until it finds that out.
_MAX_THREADS = 64
_MAX_BODY_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16

# Held while a port is opened: a child that is forked in between would keep it, and know nothing of it.
_while_nobody_forks = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_while_nobody_forks.acquire,
        after_in_parent=_while_nobody_forks.release,
        after_in_child=_while_nobody_forks.release,
    )


class Asked(NamedTuple):
    """A request.

    Attributes:
        method: GET or POST; a HEAD is a GET whose body is left out.
        path: Without its query, which is `query`.
        headers: By their names in lower case; of several of a name the last.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What it is told."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class SidePort:
    """Serves answers in a thread.

    Args:
        what: That is served there, for the log.
        port: The first that is tried.
        answer: Called in threads, several at once.
        address: That it listens on; empty is all.
        is_shared: Whether another process of the same application may have the port, which is then no news.
        spread: How many ports are tried, that one and those after it.
    """

    def __init__(
        self,
        what: str,
        port: int,
        answer: Callable[[Asked], Answer],
        *,
        address: str = "",
        is_shared: Callable[[], bool] = bool,
        spread: int = 1,
    ) -> None:
        self._what = what
        self._ports = range(port, min(port + spread, 65536))
        self._address = address
        self._answer = answer
        self._is_shared = is_shared
        self._closed = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()

    @property
    def port(self) -> int:
        """The one that it has; 0 while it has none."""
        server = self._server
        return server.server_port if server is not None else 0

    def start(self) -> None:
        """Serve, unless that is done already."""
        with self._starting:
            if self._thread is None and not self._closed.is_set():
                name = f"meshsdk-{self._what.removeprefix('the ').replace(' ', '-')}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop, and give the port back."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2 * _LOOK_AGAIN_SECONDS)

    def after_fork(self) -> None:
        """In a forked child: the thread is the parent's, and so is the port, which a copy of it would keep."""
        if self._server is not None:
            self._server.socket.close()
        self._closed = threading.Event()
        self._starting = threading.RLock()
        self._server = self._thread = None

    def _run(self) -> None:
        has_told = False
        while not self._closed.is_set():
            try:
                self._listen()
            except OSError as error:
                if not has_told and (error.errno != errno.EADDRINUSE or not self._is_shared()):
                    has_told = True
                    logger.error(
                        "%s cannot be had at port %d, which is tried again: %s", self._what, self._ports[0], error
                    )
                self._closed.wait(_LOOK_AGAIN_SECONDS)
                continue
            assert self._server is not None
            with self._server as server:
                while not self._closed.is_set():
                    server.handle_request()  # Or look after a moment whether to stop.
            return

    def _listen(self) -> None:
        """Listen at the first port that is free.

        Raises:
            OSError: None can be had.
        """
        for port in self._ports:
            try:
                self._listen_at(port)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port == self._ports[-1]:
                    raise

    def _listen_at(self, port: int) -> None:
        """On the address, or on all of them, of IPv4 alone where there is no IPv6.

        Raises:
            OSError: The port cannot be had.
        """
        if not self._address and socket.has_dualstack_ipv6():
            try:
                self._open(socket.AF_INET6, ("::", port))
                return
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise
        self._open(socket.AF_INET6 if ":" in self._address else socket.AF_INET, (self._address, port))

    def _open(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        with _while_nobody_forks:
            self._server = _Server(family, address, self._answer)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A second process of the same application must not have the port too, and a restarted one must have it at once.
    allow_reuse_port = False

    def __init__(
        self, family: socket.AddressFamily, address: tuple[str, int], answer: Callable[[Asked], Answer]
    ) -> None:
        self.answer = answer
        self._served: dict[Any, None] = {}
        self._room = threading.BoundedSemaphore(_MAX_THREADS)
        self.address_family = family
        self.timeout = _LOOK_UP_SECONDS
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Without the look-up of the host's name that HTTPServer does.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        served = list(self._served)
        if len(served) >= _MAX_AT_ONCE:
            with contextlib.suppress(OSError):
                # Its thread closes it.
                served[0].shutdown(socket.SHUT_RDWR)
            self._served.pop(served[0], None)
        self._served[request] = None
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._served.pop(request, None)
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone; a fault of the answer's is told by its handler."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS
    server_version, sys_version = "meshsdk", ""

    def do_GET(self) -> None:
        self._respond(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 9 and int(length) <= _MAX_BODY_BYTES):
            self.send_error(413, "a body must say its length, of a megabyte at most")
            return
        self._respond(self.rfile.read(int(length)))

    def _respond(self, body: bytes) -> None:
        assert isinstance(self.server, _Server)
        method = "GET" if self.command == "HEAD" else self.command
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            answer = self.server.answer(Asked(method, path, query, headers, body))
        except Exception:
            logger.exception("%s cannot be answered", path)
            answer = Answer(500, "text/plain; charset=utf-8", b"this cannot be answered; the log says why\n")
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for start in range(0, len(answer.body), _PIECE_BYTES):
                # Each piece has its time, so that slow readers of long answers get them whole.
                self.wfile.write(answer.body[start : start + _PIECE_BYTES])

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request is told so in plain text."""
        self.close_connection = True
        self._write(Answer(int(code), "text/plain; charset=utf-8", f"{message or 'it cannot be read'}\n".encode()))

    def log_message(self, format: str, *arguments: object) -> None:
        """A look is no news."""
