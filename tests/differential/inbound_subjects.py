"""The two sides of a behavioural test of servers: an Envoy in front of an application, and the application on the mesh.

Both get the same filters, routes and clusters, and the application answers the same. A test is run once with each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

import meshsdk
from meshsdk.identities import FileIdentity

from ..patience import PATIENCE
from ..processes import envoy, free_ports
from ..server.running import serving
from .subjects import Answer, Received, Upstream, cluster

__all__ = ["SERVER_SUBJECTS", "ServerSubject", "running_server"]

SERVER_SUBJECTS = ("envoy", "meshsdk")
_TYPE = "type.googleapis.com/envoy"

Handler = Callable[[Received, int], Answer]


@dataclass
class ServerSubject:
    """One side.

    Attributes:
        name: `envoy` or `meshsdk`.
        received: The requests that the application got.
    """

    name: str
    client: httpx.Client
    port: int
    received: list[Received]

    def send(self, path: str = "/", method: str = "GET", **options: Any) -> httpx.Response:
        """A request."""
        return self.client.request(method, f"http://127.0.0.1:{self.port}{path}", **options)

    def send_many(
        self, count: int, path: str = "/", responses: list[httpx.Response] | None = None, **options: Any
    ) -> list[httpx.Response]:
        """Several at once; applications may look at `responses`, which are added as they come."""
        responses = [] if responses is None else responses
        threads = [threading.Thread(target=lambda: responses.append(self.send(path, **options))) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return responses


@contextlib.contextmanager
def running_server(
    name: str,
    folder: Path,
    filters: list[dict[str, Any]],
    handler: Handler = lambda request, number: Answer(),
    *,
    routes: list[dict[str, Any]] | None = None,
    virtual_host: dict[str, Any] | None = None,
    clusters: list[dict[str, Any]] | None = None,
    manager: dict[str, Any] | None = None,
    listener: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    identity: FileIdentity | None = None,
) -> Iterator[ServerSubject]:
    """One side, with the configuration given.

    Args:
        handler: The application.
        listener: Makes another listener of the plain one.
        identity: Of the process on the mesh, where it needs one.
    """
    host = {"name": "v", "domains": ["*"], **(virtual_host or {})}
    host["routes"] = routes or [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]
    router = {"name": "router", "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"}}
    settings = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "subject",
        "route_config": {"name": "routes", "virtual_hosts": [host]},
        "http_filters": [*filters, router],
        **(manager or {}),
    }
    [port] = free_ports(1)
    made = {
        "name": "subject",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": settings}]}],
    }
    made = listener(made) if listener is not None else made
    side = _behind_envoy if name == "envoy" else partial(_on_the_mesh, identity)
    with side(folder, made, clusters or [], port, handler) as received, httpx.Client(timeout=PATIENCE) as client:
        yield ServerSubject(name, client, port, received)


@contextlib.contextmanager
def _behind_envoy(
    folder: Path, listener: dict[str, Any], clusters: list[dict[str, Any]], port: int, handler: Handler
) -> Iterator[list[Received]]:
    with Upstream(handler) as upstream:
        config = {
            "node": {"id": "subject", "cluster": "subject"},
            "static_resources": {"listeners": [listener], "clusters": [cluster("app", upstream.port), *clusters]},
        }
        with envoy(config, [port], folder):
            yield upstream.received


@contextlib.contextmanager
def _on_the_mesh(
    identity: FileIdentity | None,
    folder: Path,
    listener: dict[str, Any],
    clusters: list[dict[str, Any]],
    port: int,
    handler: Handler,
) -> Iterator[list[Received]]:
    place = folder / "mesh"
    place.mkdir()
    documents = [{"@type": f"{_TYPE}.config.cluster.v3.Cluster", **one} for one in clusters]
    name = f"xds.istio.io/grpc/lds/inbound/127.0.0.1:{port}"
    documents.append({"@type": f"{_TYPE}.config.listener.v3.Listener", **listener, "name": name})
    for index, document in enumerate(documents):
        (place / f"{index}.json").write_text(json.dumps(document))
    app = _Application(handler)
    with meshsdk.Mesh(config=place, identity=identity) as mesh, serving(app, mesh, port):
        yield app.received


class _Application:
    """What `Upstream` is for Envoy, as an ASGI application."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.received: list[Received] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = Received(scope["method"], target, headers, body, time.monotonic())
        number = len(self.received)
        self.received.append(request)
        answer = self._handler(request, number)
        await asyncio.sleep(answer.delay)
        deadline = time.monotonic() + PATIENCE
        while not answer.when() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        sent = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        sent.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": sent})
        await send({"type": "http.response.body", "body": answer.body})
