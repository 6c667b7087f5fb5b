"""The port where metrics are scraped.

Of several processes that are told the same port, as gunicorn's workers are, one has it and tells for all
(`telemetry.shared_cells`); the others wait, and when it ends another takes its place within a second.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..log_lines import logger_of
from ..telemetry.prometheus import CONTENT_TYPE

__all__ = ["PATHS", "MetricsPort"]

logger = logger_of("meshsdk.server")

# Where Istio's agent has it, and where Prometheus looks when it is told nothing.
PATHS = ("/stats/prometheus", "/metrics")

_LOOK_AGAIN_SECONDS = 1.0
_REQUEST_SECONDS = 10.0
# How often it is looked whether to stop.
_LOOK_UP_SECONDS = 0.25
# Whoever scrapes comes alone, or as a pair. Beyond this the oldest makes room: a dribbler shuts nobody out.
_MAX_AT_ONCE = 16
# Those that made room have a thread until it finds that out.
_MAX_THREADS = 64


class MetricsPort:
    """Serves the page in a thread.

    Args:
        port: On all addresses.
        make_page: Makes the page.
        is_shared: Whether another process of the same application may have the port.
    """

    def __init__(self, port: int, make_page: Callable[[], bytes], is_shared: Callable[[], bool]) -> None:
        self._port = port
        self._make_page = make_page
        self._is_shared = is_shared
        self._closed = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Serve, unless that is done already."""
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._run, name="meshsdk-metrics", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop, and give the port back."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2 * _LOOK_AGAIN_SECONDS)

    def after_fork(self) -> None:
        """In a forked child: the thread is the parent's, and so is the port, which a copy of it would keep."""
        server = self._server
        if server is not None:
            server.socket.close()
        self._closed = threading.Event()
        self._server = self._thread = None

    def _run(self) -> None:
        has_told = False
        while not self._closed.is_set():
            try:
                server = _listen(self._port, self._make_page)
            except OSError as error:
                if not has_told and (error.errno != errno.EADDRINUSE or not self._is_shared()):
                    has_told = True
                    logger.error("metrics cannot be had at port %d, which is tried again: %s", self._port, error)
                self._closed.wait(_LOOK_AGAIN_SECONDS)
                continue
            self._server = server
            with server:
                while not self._closed.is_set():
                    server.handle_request()  # Or look after a moment whether to stop.
            return


def _listen(port: int, make_page: Callable[[], bytes]) -> _Server:
    """A server on all addresses, of IPv4 alone where there is no IPv6.

    Raises:
        OSError: The port cannot be had.
    """
    if socket.has_dualstack_ipv6():
        try:
            return _Server(socket.AF_INET6, ("::", port), make_page)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    return _Server(socket.AF_INET, ("", port), make_page)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A second process of the same application must not have the port too, and a restarted one must have it at once.
    allow_reuse_port = False

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int], make_page: Callable[[], bytes]) -> None:
        self.make_page = make_page
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
        """Whoever scrapes has gone; a fault of the page's is told by its handler."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS
    server_version, sys_version = "meshsdk", ""

    def do_GET(self) -> None:
        status, page = 404, b"metrics are at /stats/prometheus\n"
        if self.path.partition("?")[0] in PATHS:
            assert isinstance(self.server, _Server)
            try:
                status, page = 200, self.server.make_page()
            except Exception:
                logger.exception("the page of metrics cannot be made")
                status, page = 500, b"the page cannot be made\n"
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """A scrape is no news."""
