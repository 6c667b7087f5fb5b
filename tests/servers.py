"""Real servers on loopback, in threads: one that echoes HTTP, and one that says whatever a test scripts."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from .patience import PATIENCE

__all__ = ["EchoServer", "ScriptedServer"]


class EchoServer:
    """Answers each request with JSON: who answered, method, path, headers, body.

    Attributes:
        status: What it answers with.
        seen: The requests, in order.
    """

    def __init__(self, name: str = "", port: int = 0) -> None:
        self.status = 200
        self.seen: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # A response goes out in one piece, so that a killed server has sent all of it or nothing.

            def answer(self) -> None:
                body = self._body()
                shown = {
                    "name": outer.name,
                    "method": self.command,
                    "path": self.path,
                    "headers": {key.lower(): value for key, value in self.headers.items()},
                    "body": body.decode("latin-1"),
                }
                outer.seen.append(shown)
                status = outer.statuses.pop(0) if outer.statuses else outer.status
                payload = json.dumps(shown).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(payload)))
                self.send_header("x-served-by", outer.name)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(payload)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = answer

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding", "").lower() == "chunked":
                    chunks = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        chunks.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(chunks)
                return self.rfile.read(int(self.headers.get("content-length") or 0))

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def __init__(self, *arguments: Any) -> None:
                self.connections: set[socket.socket] = set()
                self.accepted = 0
                super().__init__(*arguments)

            def process_request(self, request: Any, client_address: Any) -> None:
                self.connections.add(request)
                self.accepted += 1
                super().process_request(request, client_address)

            def shutdown_request(self, request: Any) -> None:
                self.connections.discard(request)
                super().shutdown_request(request)

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self.name = name or str(self.port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._server.connections)

    @property
    def accepted(self) -> int:
        """How many connections there have been."""
        return self._server.accepted

    def kill(self) -> None:
        """Die as a killed process does: the port closes and every connection is reset."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.connections):
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self) -> EchoServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class ScriptedServer:
    """Runs `script(connection, number)` for each connection; `number` counts them from 0.

    Args:
        script: Says whatever it likes. When it returns, the connection is closed; over TLS without close_notify.
        tls: Secures the connections; None is plaintext.

    Attributes:
        accepted: How many connections there were.
    """

    def __init__(self, script: Callable[[socket.socket, int], None], tls: ssl.SSLContext | None = None) -> None:
        outer = self
        self.accepted = 0
        self._lock = threading.Lock()

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with outer._lock:
                    number = outer.accepted
                    outer.accepted += 1
                self.request.settimeout(PATIENCE)
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    connection = self.request
                    if tls is not None:
                        connection = tls.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True)
                    try:
                        script(connection, number)
                    finally:
                        if tls is not None:
                            connection.close()
                except OSError:
                    pass  # The client went away, which is what many scripts are about.

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 1024

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._scheme = "http" if tls is None else "https"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self._scheme}://127.0.0.1:{self.port}/"

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def read_head(connection: socket.socket) -> bytes:
    """A request's head, up to the empty line; empty at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    return data
