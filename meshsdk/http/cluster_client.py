"""Requests to a cluster by its name, without a route: what policy itself asks of other servers."""

from __future__ import annotations

import asyncio
import random
import time

import httpx
from msgspec import Struct

from ..exchange import Exchange
from ..routing.timeouts import RouteTimeouts
from .dispatcher import head_of
from .errors import TransportError
from .of_httpx import HTTPX, AsyncMeshTransport, MeshTransport
from .runtime import Runtime

__all__ = ["AsyncClusterClient", "ClusterClient", "check_plain"]


class _Owner(Struct, frozen=True):
    """What transports take for a Mesh."""

    _runtime: Runtime


class ClusterClient:
    """Sends to clusters, and reads whole answers of bounded size. From any thread.

    The extension `target` of a request, as httpx has it, takes the place of its URL's path and query.

    Args:
        runtime: Knows the clusters.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._transport: MeshTransport | None = None

    def send(self, cluster: str, request: httpx.Request, timeout_seconds: float, max_bytes: int) -> httpx.Response:
        """The answer, read.

        Raises:
            httpx.HTTPError: There is none in time, or no such cluster.
            ValueError: It is longer than `max_bytes`.
        """
        if self._transport is None:
            self._transport = MeshTransport(_Owner(self._runtime))
        ends = time.monotonic() + timeout_seconds
        exchange = _exchange(self._runtime, cluster, request, timeout_seconds)
        try:
            response = self._transport._carry_out(request, exchange, None)
        except TransportError as error:
            HTTPX.fail(error)
        response.request = request
        content = bytearray()
        try:
            for chunk in response.iter_raw():
                content += chunk
                _check(content, max_bytes, ends)
        finally:
            response.close()
        return _whole(response, content)

    def close(self) -> None:
        """Close the connections."""
        if self._transport is not None:
            self._transport.close()


class AsyncClusterClient:
    """`ClusterClient` for asyncio."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._transport: AsyncMeshTransport | None = None

    async def send(
        self, cluster: str, request: httpx.Request, timeout_seconds: float, max_bytes: int
    ) -> httpx.Response:
        """See `ClusterClient.send`."""
        if self._transport is None:
            self._transport = AsyncMeshTransport(_Owner(self._runtime))
        ends = time.monotonic() + timeout_seconds
        exchange = _exchange(self._runtime, cluster, request, timeout_seconds)
        content = bytearray()
        try:
            async with asyncio.timeout(timeout_seconds):
                try:
                    response = await self._transport._carry_out(request, exchange, None)
                except TransportError as error:
                    HTTPX.fail(error)
                response.request = request
                try:
                    async for chunk in response.aiter_raw():
                        content += chunk
                        _check(content, max_bytes, ends)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer in {timeout_seconds:g} s", request=request) from None
        return _whole(response, content)

    async def close(self) -> None:
        """Close the connections."""
        if self._transport is not None:
            await self._transport.aclose()


def _exchange(runtime: Runtime, name: str, request: httpx.Request, timeout_seconds: float) -> Exchange:
    cluster = runtime.directory.clusters.get(name)
    if cluster is None:
        raise httpx.ConnectError(f"there is no cluster {name!r}", request=request)
    request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), timeout_seconds)
    exchange = Exchange(head_of(request, request.url.scheme), None, None, None, cluster, random.random)
    exchange.timeouts = RouteTimeouts(stream=timeout_seconds)
    return exchange


def _check(content: bytearray, max_bytes: int, ends: float) -> None:
    if len(content) > max_bytes:
        raise ValueError(f"the answer is longer than {max_bytes} bytes")
    if time.monotonic() > ends:
        raise httpx.ReadTimeout("no whole answer in time")


_ENCODING = "content-encoding"


def _whole(response: httpx.Response, content: bytearray) -> httpx.Response:
    """The answer with its bytes as they came: unpacked, they might be a thousand times as many."""
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() != _ENCODING]
    whole = httpx.Response(
        response.status_code, headers=headers, content=bytes(content), extensions=response.extensions
    )
    if _ENCODING in response.headers:
        whole.headers[_ENCODING] = response.headers[_ENCODING]
    return whole


def check_plain(answer: httpx.Response) -> None:
    """An answer whose content is looked into is not packed.

    Raises:
        ValueError: It is.
    """
    encoding = answer.headers.get(_ENCODING, "identity")
    if encoding.lower() != "identity":
        raise ValueError(f"the answer has the Content-Encoding {encoding!r}")
