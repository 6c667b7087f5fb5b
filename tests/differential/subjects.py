"""The two sides of a behavioural test: an httpx client whose requests go through the real Envoy, and one on the mesh.

Both get the same clusters, routes and filters. A test is run once with each, and asserts the same of both: what holds
for Envoy holds for meshsdk.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import meshsdk

from ..patience import PATIENCE
from ..processes import envoy, free_ports

__all__ = [
    "LATE",
    "SUBJECTS",
    "Answer",
    "Received",
    "Subject",
    "Upstream",
    "cluster",
    "eventually",
    "running",
    "take_over_health",
]

# When an upstream answers that is not waited for: seconds that no busy machine takes for anything else. Nobody waits
# for the thread that does.
LATE = 30.0

SUBJECTS = ("envoy", "meshsdk")
_TYPE = "type.googleapis.com/envoy"


@dataclass
class Received:
    """A request as an upstream got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Answer:
    """What an upstream does with a request.

    Attributes:
        delay: Seconds before the head is sent.
        body_delay: Seconds between the head and the body.
        reset: Close the connection instead of answering.
        when: Waited for before the head is sent.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    delay: float = 0.0
    body_delay: float = 0.0
    reset: bool = False
    when: Callable[[], bool] = lambda: True


Handler = Callable[[Received, int], Answer]


class Upstream:
    """An HTTP/1.1 server that answers as a function says; the number of the request is passed in, from 0."""

    def __init__(self, handler: Handler = lambda request, number: Answer()) -> None:
        self.handler = handler
        self.received: list[Received] = []
        self.connections = 0
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._server.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Upstream:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Wakes accept(), which closing alone would not.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        try:
            with connection, connection.makefile("rb") as stream:
                while (request := _read(stream)) is not None and self._answer(connection, request):
                    pass
        except OSError:
            pass
        finally:
            self._open.discard(connection)

    def _answer(self, connection: socket.socket, request: Received) -> bool:
        with self._lock:
            number = len(self.received)
            self.received.append(request)
        answer = self.handler(request, number)
        time.sleep(answer.delay)
        eventually(answer.when)
        if answer.reset:
            return False
        headers = {"content-length": str(len(answer.body)), **answer.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"HTTP/1.1 {answer.status} X\r\n{lines}\r\n".encode())
        time.sleep(answer.body_delay)
        connection.sendall(answer.body)
        return True


def _read(stream: Any) -> Received | None:
    line = stream.readline().decode("latin-1")
    if line.count(" ") < 2:
        return None  # The peer has gone, perhaps in the middle of a line.
    method, target, _ = line.split(" ", 2)
    headers: dict[str, str] = {}
    while line := stream.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(stream.readline().strip() or b"0", 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
    else:
        body = stream.read(int(headers.get("content-length", 0)))
    return Received(method, target, headers, body, time.monotonic())


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> bool:
    """Wait for a condition; whether it came to hold."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def cluster(name: str, *ports: int, **fields: Any) -> dict[str, Any]:
    """A static cluster of ports on loopback."""
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports
    ]
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "20s", "load_assignment": assignment, **fields}


@dataclass
class Subject:
    """One side: a client, and how to get another one.

    Attributes:
        name: `envoy` or `meshsdk`.
        get: Sends a GET.
        mesh: The one of `meshsdk`.
    """

    name: str
    client: httpx.Client
    host: str
    mesh: meshsdk.Mesh | None = None

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        """A GET of the service."""
        return self.client.get(f"http://{self.host}{path}", **options)

    def get_many(
        self, count: int, path: str = "/", responses: list[httpx.Response] | None = None, **options: Any
    ) -> list[httpx.Response]:
        """Several at once; upstreams may look at `responses`, which are added as they come."""
        responses = [] if responses is None else responses
        threads = [threading.Thread(target=lambda: responses.append(self.get(path, **options))) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return responses


@contextlib.contextmanager
def running(
    name: str,
    folder: Path,
    clusters: list[dict[str, Any]],
    routes: list[dict[str, Any]],
    filters: list[dict[str, Any]] | None = None,
    virtual_host: dict[str, Any] | None = None,
    manager: dict[str, Any] | None = None,
) -> Iterator[Subject]:
    """One side, with the configuration given."""
    configuration = {
        "name": "routes",
        "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes, **(virtual_host or {})}],
    }
    router = {"name": "router", "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"}}
    settings = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "subject",
        "route_config": configuration,
        "http_filters": [*(filters or []), router],
        **(manager or {}),
    }
    side = _through_envoy if name == "envoy" else _on_the_mesh
    with side(folder, clusters, settings) as subject:
        yield subject


@contextlib.contextmanager
def _through_envoy(folder: Path, clusters: list[dict[str, Any]], manager: dict[str, Any]) -> Iterator[Subject]:
    [port] = free_ports(1)
    internal = {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}
    manager = {**manager, "internal_address_config": internal}
    listener = {
        "name": "subject",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
    config = {
        "node": {"id": "subject", "cluster": "subject"},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }
    # An address that the connection manager takes for an internal one, so that x-envoy- request headers count.
    headers = {"x-forwarded-for": "10.0.0.1"}
    limits = httpx.Limits(max_connections=200)
    with envoy(config, [port], folder), httpx.Client(timeout=PATIENCE, headers=headers, limits=limits) as client:
        yield Subject("envoy", client, f"127.0.0.1:{port}")


@contextlib.contextmanager
def _on_the_mesh(folder: Path, clusters: list[dict[str, Any]], manager: dict[str, Any]) -> Iterator[Subject]:
    mesh_folder = folder / "mesh"
    mesh_folder.mkdir(exist_ok=True)
    documents = [{"@type": f"{_TYPE}.config.cluster.v3.Cluster", **one} for one in clusters]
    documents.append(
        {
            "@type": f"{_TYPE}.config.listener.v3.Listener",
            "name": "subject.test",
            "api_listener": {"api_listener": manager},
        }
    )
    for index, document in enumerate(documents):
        (mesh_folder / f"{index}.json").write_text(json.dumps(document))
    with meshsdk.Mesh(config=mesh_folder) as mesh, mesh.client(timeout=PATIENCE) as client:
        mesh.wait_ready("subject.test")
        yield Subject("meshsdk", client, "subject.test", mesh)


def take_over_health(mesh: meshsdk.Mesh) -> None:
    """Wait until picks go by what requests have made of the health of endpoints, which another thread sees to."""
    mesh._runtime.call(lambda: None, PATIENCE)
