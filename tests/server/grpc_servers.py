"""gRPC servers of both kinds behind the mesh's policy."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

import meshsdk

from ..grpc_server import EchoService, GrpcServer
from ..patience import PATIENCE

__all__ = ["aio_grpc_server", "sync_grpc_server"]


@contextlib.contextmanager
def sync_grpc_server(
    mesh: meshsdk.Mesh, port: int, secure: bool = True, interceptors: Sequence[Any] = ()
) -> Iterator[None]:
    every = [*interceptors, mesh.server_interceptor(port=port)]
    with GrpcServer("one", mesh.server_credentials() if secure else None, every, port):
        yield


@contextlib.contextmanager
def aio_grpc_server(
    mesh: meshsdk.Mesh, port: int, secure: bool = True, interceptors: Sequence[Any] = (), threads: bool = False
) -> Iterator[None]:
    """One whose handlers are coroutines, or functions that run in threads."""
    started, stopping = threading.Event(), threading.Event()

    async def serve() -> None:
        pool = ThreadPoolExecutor(4)
        server = grpc.aio.server(pool, interceptors=[*interceptors, mesh.aio_server_interceptor(port=port)])
        server.add_generic_rpc_handlers((EchoService("one", asynchronous=not threads),))
        if secure:
            server.add_secure_port(f"127.0.0.1:{port}", mesh.server_credentials())
        else:
            server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        started.set()
        await asyncio.to_thread(stopping.wait)
        await server.stop(0)
        pool.shutdown(wait=False)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield
    finally:
        stopping.set()
        thread.join()
