"""Echo servers on unix sockets, one for each cluster: what a request looked like when it came out of the mesh."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

from ..patience import PATIENCE
from ..processes import free_ports

__all__ = ["RESPONSE_HEADERS", "EchoUpstreams"]

# What every response carries, so that response header changes have something to change.
RESPONSE_HEADERS = ((b"x-up-one", b"1"), (b"x-up-two", b"2"), (b"x-up-two", b"zwei"))


class _Echo(asyncio.Protocol):
    def __init__(self, name: str) -> None:
        self._name = name
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ", 2)
            headers = [line.split(":", 1) for line in lines[1:]]
            body = json.dumps(
                {
                    "cluster": self._name,
                    "method": method,
                    "target": target,
                    "headers": [(name.lower(), value.strip()) for name, value in headers],
                }
            ).encode()
            own = b"".join(b"%b: %b\r\n" % header for header in RESPONSE_HEADERS)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (own, len(body), b"" if method == "HEAD" else body)
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
