"""Times that the kernel keeps for sync connections: it is told of few, and none ends an operation too early."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

import meshsdk
from meshsdk.http.sync_http1 import _Limit
from tests.conftest import service, virtual_service
from tests.servers import EchoServer


def test_the_kernel_is_told_of_a_routes_timeout_once(
    make_mesh: Callable[..., meshsdk.Mesh], echo: Callable[[str], EchoServer]
) -> None:
    server = echo("a")
    routes = virtual_service("a", "[{timeout: 50s, route: [{destination: {host: a}}]}]")
    with make_mesh(service("a", server.port) + routes).client() as client:
        told = set()
        for _ in range(5):
            client.get("http://a/")
            [[connection]] = client._transport._pool._idle.values()  # type: ignore[attr-defined]
            told.add((connection._send_limit._set, connection._receive_limit._set))
        assert len(told) == 1


def test_an_operation_that_ends_before_its_time_is_begun_again() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        limit = _Limit(ours, socket.SO_RCVTIMEO)
        limit.apply(None, time.monotonic() + 60)
        limit._tell(0.02)
        limit._until = time.monotonic() + 60
        timer = threading.Timer(0.1, theirs.sendall, [b"late"])
        timer.start()
        assert limit.bound(ours.recv, 10) == b"late"
        limit.apply(0.02, None)
        with pytest.raises((TimeoutError, BlockingIOError)):
            limit.bound(ours.recv, 10)
        timer.join()
