"""Ways to send requests, to be asked the same things one after the other: a mesh's clients, and httpx's own beside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

import meshsdk
from tests.loops import make_loop

__all__ = ["Caller"]


class Caller:
    """Sends requests through a sync or an async client, one by one, over the same client.

    Args:
        mesh: Whose clients are used; None stands for httpx's own.
        kind: `sync`, or an event loop's name.
        library: Whose clients: httpx or httpx2.
        **options: The client's.
    """

    def __init__(self, mesh: meshsdk.Mesh | None, kind: str, library: Any = httpx, **options: Any) -> None:
        is_async = self.is_async = kind != "sync"
        self._runner = asyncio.Runner(loop_factory=make_loop(kind)) if is_async else None
        self._sync: httpx.Client | None = None
        self._async: httpx.AsyncClient | None = None
        if mesh is not None and library is not httpx:
            options["library"] = library.__name__
        if not is_async:
            self._sync = library.Client(**options) if mesh is None else mesh.client(**options)
        else:
            self._async = library.AsyncClient(**options) if mesh is None else mesh.async_client(**options)

    def __call__(self, method: str, url: str, **options: Any) -> httpx.Response:
        if self._sync is not None:
            return self._sync.request(method, url, **options)
        assert self._runner is not None
        assert self._async is not None
        return self._runner.run(self._async.request(method, url, **options))

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self("GET", url, **options)

    def many(
        self, number: int, method: str, url: str, *, pause: float = 0.0, **options: Any
    ) -> list[httpx.Response | BaseException]:
        """What comes of so many requests at once; all but the first wait a moment."""
        if self._sync is not None:

            def send(index: int) -> httpx.Response | BaseException:
                time.sleep(pause if index else 0.0)
                try:
                    return self(method, url, **options)
                except httpx.HTTPError as error:
                    return error

            with ThreadPoolExecutor(number) as threads:
                return list(threads.map(send, range(number)))

        async def run() -> list[httpx.Response | BaseException]:
            async def send(index: int) -> httpx.Response:
                await asyncio.sleep(pause if index else 0.0)
                return await self.async_client.request(method, url, **options)

            return await asyncio.gather(*map(send, range(number)), return_exceptions=True)

        return self.run(run)

    def run(self, function: Callable[[], Any]) -> Any:
        """What a coroutine function returns on this caller's loop."""
        assert self._runner is not None
        return self._runner.run(function())

    @property
    def client(self) -> httpx.Client:
        """The client of a sync caller."""
        assert self._sync is not None
        return self._sync

    @property
    def async_client(self) -> httpx.AsyncClient:
        """The client of an async caller."""
        assert self._async is not None
        return self._async

    def body(self, *chunks: bytes | float | Exception) -> Any:
        """A streamed request body; numbers are seconds to wait, exceptions are raised."""
        if not self.is_async:

            def produce() -> Any:
                for chunk in chunks:
                    if isinstance(chunk, Exception):
                        raise chunk
                    if isinstance(chunk, bytes):
                        yield chunk
                    else:
                        time.sleep(chunk)

            return produce()

        async def stream() -> Any:
            for chunk in chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                if isinstance(chunk, bytes):
                    yield chunk
                else:
                    await asyncio.sleep(chunk)

        return stream()

    def stream_partly(self, url: str) -> bytes:
        """The first chunk of a response that is then left."""
        if self._sync is not None:
            with self._sync.stream("GET", url) as response:
                return next(response.iter_raw())

        async def run() -> bytes:
            async with self.async_client.stream("GET", url) as response:
                return await anext(response.aiter_raw())

        return self.run(run)

    def stream_slowly(self, url: str, seconds: float) -> bytes:
        """A response whose chunks are each thought about for a while."""
        read: list[bytes] = []
        self.stream_into(read, url, seconds)
        return b"".join(read)

    def stream_into(self, read: list[bytes], url: str, seconds: float = 0.0, **options: Any) -> None:
        """The chunks of a response, each thought about for a while; those before an error are there, too."""
        if self._sync is not None:
            with self._sync.stream("GET", url, **options) as response:
                for chunk in response.iter_raw():
                    time.sleep(seconds)
                    read.append(chunk)
            return

        async def run() -> None:
            async with self.async_client.stream("GET", url, **options) as response:
                async for chunk in response.aiter_raw():
                    await asyncio.sleep(seconds)
                    read.append(chunk)

        self.run(run)

    def _pools(self) -> list[Any]:
        transport: Any = (self._sync or self.async_client)._transport
        return [transport._pool] if self._sync is not None else list(transport._pools.values())

    @property
    def pool_size(self) -> int:
        """Connections that are open."""
        return sum(len(pool._slots) for pool in self._pools())

    @property
    def idle(self) -> list[Any]:
        """HTTP/1.1 connections that wait for a request."""
        return [connection for pool in self._pools() for idle in pool._idle.values() for connection in idle]

    def close(self) -> None:
        if self._sync is not None:
            self._sync.close()
        elif self._runner is not None:
            self.run(self.async_client.aclose)
            self._runner.close()
