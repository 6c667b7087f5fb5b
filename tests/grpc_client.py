"""One way to call, sync and asyncio alike, so that a test tells its story once for both."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grpc
import grpc.aio

import meshsdk

__all__ = ["AioClient", "Client", "Status", "SyncClient", "counts", "make_client"]

SAY = "/test.Echo/Say"


class Status(Exception):
    """How a call failed: the same for both kinds of channels."""

    def __init__(self, error: Any) -> None:
        self.code: grpc.StatusCode = error.code()
        self.details: str = error.details() or ""
        self.initial = list(error.initial_metadata() or ())
        self.trailing = list(error.trailing_metadata() or ())
        self.notes: list[str] = getattr(error, "__notes__", [])
        super().__init__(f"{self.code.name}: {self.details}")


class Client(Protocol):
    """What both kinds can do."""

    def call(self, method: str = SAY, request: bytes = b"", **options: Any) -> Any:
        """One request, one response, parsed; raises Status."""

    def try_many(self, count: int, at_once: int = 1, method: str = SAY, **options: Any) -> list[Any]:
        """Many calls: what came back, a parsed response or a Status for each."""

    def metadata(self, method: str = SAY, request: bytes = b"", **options: Any) -> tuple[list[Any], list[Any]]:
        """Initial and trailing metadata of a call's response."""

    def down(self, count: int, **options: Any) -> list[bytes]:
        """A stream of responses."""

    def up(self, requests: Sequence[bytes], **options: Any) -> bytes:
        """A stream of requests."""

    def both(self, requests: Sequence[bytes], **options: Any) -> list[bytes]:
        """Streams both ways."""

    def close(self) -> None:
        """Close the channel."""


def parsed(response: bytes) -> Any:
    return json.loads(response) if response[:1] == b"{" else response


class SyncClient:
    def __init__(self, mesh: meshsdk.Mesh, target: str, **options: Any) -> None:
        self.channel = mesh.channel(target, **options)

    def call(self, method: str = SAY, request: bytes = b"", **options: Any) -> Any:
        options.setdefault("timeout", 20)
        try:
            return parsed(self.channel.unary_unary(method)(request, **options))
        except grpc.RpcError as error:
            raise Status(error) from error

    def try_many(self, count: int, at_once: int = 1, method: str = SAY, **options: Any) -> list[Any]:
        options.setdefault("timeout", 20)
        say = self.channel.unary_unary(method)
        request = options.pop("request", b"")

        def one(_: int) -> Any:
            try:
                return parsed(say(request, **options))
            except grpc.RpcError as error:
                return Status(error)

        if at_once == 1:
            return [one(number) for number in range(count)]
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(one, range(count)))

    def metadata(self, method: str = SAY, request: bytes = b"", **options: Any) -> tuple[list[Any], list[Any]]:
        _, call = self.channel.unary_unary(method).with_call(request, timeout=20, **options)
        return [tuple(one) for one in call.initial_metadata()], [tuple(one) for one in call.trailing_metadata()]

    def down(self, count: int, **options: Any) -> list[bytes]:
        try:
            return list(self.channel.unary_stream("/test.Echo/Down")(b"%d" % count, timeout=20, **options))
        except grpc.RpcError as error:
            raise Status(error) from error

    def up(self, requests: Sequence[bytes], **options: Any) -> bytes:
        answer: bytes = self.channel.stream_unary("/test.Echo/Up")(iter(requests), timeout=20, **options)
        return answer

    def both(self, requests: Sequence[bytes], **options: Any) -> list[bytes]:
        return list(self.channel.stream_stream("/test.Echo/Both")(iter(requests), timeout=20, **options))

    def close(self) -> None:
        self.channel.close()


class AioClient:
    def __init__(self, mesh: meshsdk.Mesh, target: str, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.channel = mesh.aio_channel(target, **options)

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def _call(self, method: str, request: bytes, options: dict[str, Any]) -> Any:
        options.setdefault("timeout", 20)
        try:
            return parsed(await self.channel.unary_unary(method)(request, **options))
        except grpc.aio.AioRpcError as error:
            raise Status(error) from error

    def call(self, method: str = SAY, request: bytes = b"", **options: Any) -> Any:
        return self.run(self._call(method, request, options))

    def try_many(self, count: int, at_once: int = 1, method: str = SAY, **options: Any) -> list[Any]:
        request = options.pop("request", b"")

        async def all_of_them() -> list[Any]:
            answers: list[Any] = []

            async def some(share: int) -> None:
                for _ in range(share):
                    try:
                        answers.append(await self._call(method, request, dict(options)))
                    except Status as status:
                        answers.append(status)

            shares = [count // at_once + (number < count % at_once) for number in range(at_once)]
            await asyncio.gather(*(some(share) for share in shares))
            return answers

        return self.run(all_of_them())  # type: ignore[no-any-return]

    def metadata(self, method: str = SAY, request: bytes = b"", **options: Any) -> tuple[list[Any], list[Any]]:
        async def ask() -> tuple[list[Any], list[Any]]:
            call = self.channel.unary_unary(method)(request, timeout=20, **options)
            await call
            return list(await call.initial_metadata()), list(await call.trailing_metadata())

        return self.run(ask())  # type: ignore[no-any-return]

    def down(self, count: int, **options: Any) -> list[bytes]:
        async def ask() -> list[bytes]:
            try:
                call = self.channel.unary_stream("/test.Echo/Down")(b"%d" % count, timeout=20, **options)
                return [response async for response in call]
            except grpc.aio.AioRpcError as error:
                raise Status(error) from error

        return self.run(ask())  # type: ignore[no-any-return]

    def up(self, requests: Sequence[bytes], **options: Any) -> bytes:
        async def ask() -> bytes:
            return await self.channel.stream_unary("/test.Echo/Up")(_each(requests), timeout=20, **options)

        return self.run(ask())  # type: ignore[no-any-return]

    def both(self, requests: Sequence[bytes], **options: Any) -> list[bytes]:
        async def ask() -> list[bytes]:
            call = self.channel.stream_stream("/test.Echo/Both")(_each(requests), timeout=20, **options)
            return [response async for response in call]

        return self.run(ask())  # type: ignore[no-any-return]

    def close(self) -> None:
        if not self.loop.is_closed():
            self.run(self.channel.close())
            self.loop.close()


async def _each(requests: Sequence[bytes]) -> Any:
    for request in requests:
        yield request


def make_client(kind: str, mesh: meshsdk.Mesh, target: str, **options: Any) -> Client:
    return SyncClient(mesh, target, **options) if kind == "sync" else AioClient(mesh, target, **options)


def counts(answers: Sequence[Any]) -> Counter[str]:
    """How often which server answered, or with which status calls failed."""
    return Counter(one.code.name if isinstance(one, Status) else one["name"] for one in answers)


def failures(answers: Sequence[Any]) -> list[Status]:
    return [one for one in answers if isinstance(one, Status)]


def names(answers: Iterator[Any]) -> list[str]:
    return [one["name"] for one in answers]
