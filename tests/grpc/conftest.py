"""Fixtures of gRPC tests: real servers, and clients of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import meshsdk
from tests.grpc_client import Client, make_client
from tests.grpc_server import GrpcServer

MakeClient = Callable[..., Client]


@pytest.fixture(params=["sync", "aio"])
def kind(request: pytest.FixtureRequest) -> str:
    """Tests that use it are told for sync and for asyncio channels."""
    return str(request.param)


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Closes clients before their meshes and servers."""
    with ExitStack() as one:
        yield one


@pytest.fixture
def connect(kind: str, clients: ExitStack) -> MakeClient:
    """Opens clients on channels of the kind."""

    def make(mesh: meshsdk.Mesh, target: str = "ratings:9080", **options: Any) -> Client:
        client = make_client(kind, mesh, target, **options)
        clients.callback(client.close)
        return client

    return make


@pytest.fixture
def serve(stack: ExitStack) -> Callable[..., GrpcServer]:
    """Starts gRPC servers."""
    return lambda *arguments, **options: stack.enter_context(GrpcServer(*arguments, **options))
