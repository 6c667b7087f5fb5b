"""The least an httpx transport over llhttp can do: no mesh, no timeouts, no streaming, no errors.

A yardstick: what of a ratio is the machine's and httpx's, and what is the mesh's.
"""

from __future__ import annotations

import asyncio
import socket

import httptools
import httpx

__all__ = ["AsyncBareBones", "BareBones"]


def _encode(request: httpx.Request) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class _Response:
    """Callbacks of one connection's parser."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.expect()

    def expect(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True

    def to_httpx(self) -> httpx.Response:
        status = self.parser.get_status_code()
        return httpx.Response(status, headers=self.headers, stream=httpx.ByteStream(self.body))


class BareBones(httpx.BaseTransport):
    """One blocking socket."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._response = _Response()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._response
        response.expect()
        self._socket.sendall(_encode(request))
        while not response.complete:
            response.parser.feed_data(self._socket.recv(65536))
        return response.to_httpx()

    def close(self) -> None:
        self._socket.close()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.response = _Response()
        self.waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.response.parser.feed_data(data)
        if self.response.complete and self.waiter is not None:
            self.waiter.set_result(None)


class AsyncBareBones(httpx.AsyncBaseTransport):
    """A free list of connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[_Connection] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        loop = asyncio.get_running_loop()
        if self._free:
            connection = self._free.pop()
        else:
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
        connection.response.expect()
        connection.waiter = loop.create_future()
        connection.transport.write(_encode(request))
        await connection.waiter
        self._free.append(connection)
        return connection.response.to_httpx()

    async def aclose(self) -> None:
        for connection in self._free:
            connection.transport.close()
