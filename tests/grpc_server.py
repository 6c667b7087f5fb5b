"""A real gRPC server that says who it is and what it got; in this process, or in one of its own that can be killed.

    python -m tests.grpc_server NAME [--aio] [--port PORT]

Methods of the service `test.Echo`, with JSON as messages: Say (one, one), Down (one, many), Up (many, one), Both (many,
many), Sleep (waits as many seconds as the request says), Fail (ends with the status that the request says).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from meshsdk import deadline

from .patience import PATIENCE

__all__ = ["EchoService", "GrpcServer", "server_process"]

ROOT = Path(__file__).parent.parent


class EchoService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The handlers.

    Attributes:
        calls: What came, in order.
        status: What Say ends with; None is OK.
    """

    def __init__(self, name: str, *, asynchronous: bool = False) -> None:
        self.name = name
        self.calls: list[dict[str, Any]] = []
        self.status: grpc.StatusCode | None = None
        self.on_say: Callable[[], None] = lambda: None
        self._asynchronous = asynchronous

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        behavior = getattr(self, f"{'a' if self._asynchronous else ''}{method.lower()}", None)
        if behavior is None:
            return None
        make = {
            "Down": grpc.unary_stream_rpc_method_handler,
            "Up": grpc.stream_unary_rpc_method_handler,
            "Both": grpc.stream_stream_rpc_method_handler,
        }.get(method, grpc.unary_unary_rpc_method_handler)
        return make(behavior)

    def _seen(self, request: bytes, context: Any) -> bytes:
        left = context.time_remaining()
        shown = {
            "name": self.name,
            "request": request.decode("latin-1"),
            "metadata": {
                key: value if isinstance(value, str) else value.decode("latin-1")
                for key, value in context.invocation_metadata()
            },
            "seconds": left if left is not None and left < 1e9 else None,
            "outbound_seconds": deadline.remaining(),
            "peer": context.peer(),
        }
        self.calls.append(shown)
        return json.dumps(shown).encode()

    def say(self, request: bytes, context: Any) -> bytes:
        answer = self._seen(request, context)
        self.on_say()
        if self.status is not None:
            context.abort(self.status, f"{self.name} fails")
        context.send_initial_metadata((("x-served-by", self.name),))
        context.set_trailing_metadata((("x-trailer", "end"),))
        return answer

    def sleep(self, request: bytes, context: Any) -> bytes:
        time.sleep(float(request))
        return self._seen(request, context)

    def fail(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode[request.decode()], "as asked")
        raise AssertionError

    def down(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def up(self, requests: Iterator[bytes], context: Any) -> bytes:
        return b"+".join(requests)

    def both(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield self.name.encode() + b":" + request

    async def asay(self, request: bytes, context: Any) -> bytes:
        return self._seen(request, context)

    async def asleep(self, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(float(request))
        return self._seen(request, context)

    async def afail(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode[request.decode()], "as asked")
        raise AssertionError

    async def adown(self, request: bytes, context: Any) -> Any:
        for number in range(int(request)):
            yield b"%d" % number

    async def aup(self, requests: Any, context: Any) -> bytes:
        return b"+".join([request async for request in requests])

    async def aboth(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            yield self.name.encode() + b":" + request


class GrpcServer:
    """A sync server in this process.

    Args:
        name: What it calls itself.
        credentials: For TLS; None is plaintext.
        interceptors: As grpc.server's.
        port: To listen on; 0 takes a free one.
    """

    def __init__(self, name: str = "", credentials: Any = None, interceptors: Any = (), port: int = 0) -> None:
        self.service = EchoService(name)
        self.server = grpc.server(
            ThreadPoolExecutor(32), interceptors=list(interceptors), options=[("grpc.so_reuseport", 0)]
        )
        self.server.add_generic_rpc_handlers((self.service,))
        address = f"127.0.0.1:{port}"
        self.port: int = (
            self.server.add_secure_port(address, credentials) if credentials else self.server.add_insecure_port(address)
        )
        self.service.name = name or str(self.port)
        self.server.start()

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What came."""
        return self.service.calls

    def stop(self) -> None:
        """Close the port and end all calls."""
        self.server.stop(0).wait()

    def __enter__(self) -> GrpcServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def server_process(name: str, *, aio: bool = False, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own, and its port."""
    command = [sys.executable, "-m", "tests.grpc_server", name, "--port", str(port), *(["--aio"] if aio else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(PATIENCE)
        if process.stdout is not None:
            process.stdout.close()


async def _serve_aio(name: str, port: int) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((EchoService(name, asynchronous=True),))
    print(server.add_insecure_port(f"127.0.0.1:{port}"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--aio", action="store_true")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.aio:
        asyncio.run(_serve_aio(arguments.name, arguments.port))
    else:
        running = GrpcServer(arguments.name, port=arguments.port)
        print(running.port, flush=True)
        running.server.wait_for_termination()
