"""A real HTTP/1.1 server in a process of its own that holds requests until enough of them are there.

    python -m tests.gathering_server

Prints its port. `GET /gather/N` is answered when N of them have come, each on a connection of its own; `GET /down/N` is
a body of N bytes; `POST /up` says how many bytes came.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["gathering_server"]

ROOT = Path(__file__).parent.parent
_CHUNK = b"x" * 65536


@contextlib.contextmanager
def gathering_server() -> Iterator[int]:
    """Run one; gives its port."""
    with subprocess.Popen([sys.executable, "-m", "tests.gathering_server"], stdout=subprocess.PIPE, cwd=ROOT) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


class _Gathering:
    """What waits."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.StreamWriter] = []

    def add(self, writer: asyncio.StreamWriter, number: int) -> None:
        self._waiting.append(writer)
        if len(self._waiting) == number:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                one.write(_answer(b"together"))


def _answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gathering: _Gathering) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            path = head.split(" ", 2)[1]
            _, what, number = [*path.split("/"), "0"][:3]
            if what == "gather":
                gathering.add(writer, int(number))
            elif what == "down":
                await _send(writer, int(number))
            else:
                length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
                left = length
                while left:
                    left -= len(await reader.read(min(left, len(_CHUNK))))
                writer.write(_answer(b"%d" % length))
    writer.close()


async def _send(writer: asyncio.StreamWriter, length: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length)
    for start in range(0, length, len(_CHUNK)):
        writer.write(_CHUNK[: length - start])
        await writer.drain()


async def _main() -> None:
    gathering = _Gathering()
    server = await asyncio.start_server(
        lambda reader, writer: _serve(reader, writer, gathering), "127.0.0.1", 0, backlog=20_000
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_main())
