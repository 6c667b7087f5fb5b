"""Echo servers on unix sockets, one for each cluster: what a request looked like when it came out of the mesh."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import httptools

from ..patience import PATIENCE
from ..processes import free_ports

__all__ = ["RESPONSE_HEADERS", "EchoUpstreams"]

# What every response carries, so that response header changes have something to change.
RESPONSE_HEADERS = ((b"x-up-one", b"1"), (b"x-up-two", b"2"), (b"x-up-two", b"zwei"))


class _Echo(asyncio.Protocol):
    def __init__(self, name: str) -> None:
        self._name = name
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[str, str]] = []

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1").strip()))

    def on_message_complete(self) -> None:
        method = self._parser.get_method()
        body = json.dumps(
            {
                "cluster": self._name,
                "method": method.decode(),
                "target": self._target.decode("latin-1"),
                "headers": self._headers,
            }
        ).encode()
        own = b"".join(b"%b: %b\r\n" % header for header in RESPONSE_HEADERS)
        self._transport.write(
            b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (own, len(body), b"" if method == b"HEAD" else body)
        )


class EchoUpstreams:
    """Echo servers by name, on a thread of their own.

    Args:
        folder: Where their sockets are made; None has them listen on ports of loopback.
        names: One server for each.

    Attributes:
        paths: Of the sockets, by name.
        ports: By name, where there is no folder.
    """

    def __init__(self, folder: Path | None, names: list[str]) -> None:
        self.paths = {name: str(folder / f"{name}.sock") for name in names} if folder is not None else {}
        self.ports = {} if folder is not None else dict(zip(names, free_ports(len(names)), strict=True))
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="echo-upstreams")

    def __enter__(self) -> EchoUpstreams:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        loop = self._loop
        servers = [
            loop.run_until_complete(loop.create_unix_server(lambda name=name: _Echo(name), path))
            for name, path in self.paths.items()
        ]
        servers += [
            loop.run_until_complete(loop.create_server(lambda name=name: _Echo(name), "127.0.0.1", port))
            for name, port in self.ports.items()
        ]
        loop.call_soon(self._ready.set)
        loop.run_forever()
        for server in servers:
            server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
