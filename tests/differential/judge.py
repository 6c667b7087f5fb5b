"""The real Envoy, asked what it does with a request under a route configuration.

Route configurations reach it as files (xDS by `path_config_source`). Envoy says nothing when it has taken one, so each
carries a virtual host of its own whose answer is its version; Envoy has one worker, so that once the version is seen,
every later request is decided by it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from ..patience import PATIENCE
from ..processes import envoy

__all__ = ["Decision", "EnvoyJudge", "ManagerOptions", "Request", "running_judge"]

_VERSION_HOST = "version.differential.test"
_PREFIX = "type.googleapis.com/envoy.extensions.filters"


@dataclass(frozen=True)
class Request:
    """A request as it is sent: header names are lower case."""

    method: str
    authority: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Decision:
    """What came of a request.

    Attributes:
        status: Of the response.
        cluster: That it was sent to; empty where it was answered without one.
        target, headers: As the upstream saw them.
        response_headers: As the caller saw them.
        body: Of an answer without an upstream.
    """

    status: int
    cluster: str = ""
    target: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    response_headers: tuple[tuple[str, str], ...] = ()
    body: str = ""


@dataclass(frozen=True)
class ManagerOptions:
    """Settings of a connection manager that change how routes are found.

    Attributes:
        port: Where it listens beside its unix socket, if anywhere: rules of addresses need a peer that has one.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    port: int = 0


class EnvoyJudge:
    """A running Envoy with one listener for each `ManagerOptions`."""

    def __init__(self, folder: Path, options: Sequence[ManagerOptions]) -> None:
        self._folder = folder
        self._options = {one.name: one for one in options}
        self._version = 0
        self._connections: dict[str, socket.socket] = {}

    def configure(self, option: str, configuration: route_pb2.RouteConfiguration, seconds: float = PATIENCE) -> bool:
        """Give a listener its routes; False where Envoy refuses them."""
        self._version += 1
        version = f"v{self._version}"
        message = route_pb2.RouteConfiguration()
        message.CopyFrom(configuration)
        message.name = option
        probe = message.virtual_hosts.add(name="version probe", domains=[_VERSION_HOST])
        answer = probe.routes.add()
        answer.match.prefix = "/"
        answer.direct_response.status = 200
        answer.direct_response.body.inline_string = version
        answer.typed_per_filter_config["fault"].Pack(fault_pb2.HTTPFault())
        resource = any_pb2.Any()
        resource.Pack(message)
        response = discovery_pb2.DiscoveryResponse(version_info=version, resources=[resource])
        path = self._folder / "rds" / f"{option}.pb"
        written = path.with_suffix(".new")
        written.write_bytes(response.SerializeToString())
        rejected_before = self._rejections(option)
        written.rename(path)
        deadline = time.monotonic() + seconds
        turn = 0
        # A configuration may look virtual hosts up by a header instead.
        name = configuration.vhost_header or "x-unused"
        probe_request = Request("GET", _VERSION_HOST, "/", ((name, _VERSION_HOST),))
        while True:
            [decision] = self.ask(option, [probe_request])
            if decision.body == version:
                return True
            turn += 1
            if turn % 5 == 0 and self._rejections(option) > rejected_before:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"Envoy neither took nor refused {version}")
            time.sleep(0.001)

    def ask(self, option: str, requests: Sequence[Request], ahead: int = 1) -> list[Decision]:
        """Send requests over one connection, so that they are decided one after the other.

        Args:
            ahead: How many are sent before the first of them is answered. More than 1 is for requests that all reach an
                upstream: Envoy may close the connection after an answer of its own, and the next ones with it.
        """
        connection = self._connections.get(option)
        if connection is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(PATIENCE)
            connection.connect(str(self._folder / f"{option}.sock"))
            self._connections[option] = connection
        decisions: list[Decision] = []
        while len(decisions) < len(requests):
            sent = requests[len(decisions) : len(decisions) + ahead]
            connection.sendall(b"".join(map(_as_bytes, sent)))
            rest = b""
            for request in sent:
                try:
                    decision, closes, rest = _read_decision(connection, request.method == "HEAD", rest)
                except ConnectionError:
                    self._connections.pop(option).close()
                    raise
                decisions.append(decision)
                if closes:
                    connection.close()
                    del self._connections[option]
                    return decisions + self.ask(option, requests[len(decisions) :], ahead)
        return decisions

    def admin(self, path: str) -> str:
        """The body of an admin page."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self._folder / "admin.sock"))
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        return _dechunked(body).decode() if b"chunked" in head.lower() else body.decode()

    def refusal(self, option: str) -> str:
        """Why Envoy refused the last route configuration of a listener."""
        log = (self._folder / "envoy.log").read_text(errors="replace").strip().splitlines()
        return next((line for line in reversed(log) if "rejected" in line), "")

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()

    def _rejections(self, option: str) -> int:
        text = self.admin(f"/stats?filter=rds.{option}.update_rejected")
        return int(text.strip().rpartition(" ")[2] or 0)


def _as_bytes(request: Request) -> bytes:
    lines = [f"{request.method} {request.target} HTTP/1.1", f"host: {request.authority}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _read_decision(connection: socket.socket, is_head: bool, received: bytes) -> tuple[Decision, bool, bytes]:
    """What was decided, whether the connection closes, and what has been received beyond that."""
    while b"\r\n\r\n" not in received:
        received += _more(connection, received)
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers = tuple((name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines[1:]))
    fields = dict(headers)
    rest = b""
    if is_head:
        body, rest = b"", body
    elif fields.get("transfer-encoding") == "chunked":
        while b"0\r\n\r\n" not in body:
            body += _more(connection, body)
        body, end, rest = body.partition(b"0\r\n\r\n")
        body = _dechunked(body + end)
    else:
        length = int(fields.get("content-length", 0))
        while len(body) < length:
            body += _more(connection, body)
        body, rest = body[:length], body[length:]
    closes = fields.get("connection") == "close"
    if ("x-up-one", "1") in headers or body.startswith(b'{"cluster": '):
        with contextlib.suppress(ValueError):
            seen = json.loads(body)
            sent = tuple((name, value) for name, value in seen["headers"])
            return Decision(status, seen["cluster"], seen["target"], sent, headers), closes, rest
    return Decision(status, response_headers=headers, body=body.decode("latin-1")), closes, rest


def _more(connection: socket.socket, received: bytes) -> bytes:
    chunk = connection.recv(65536)
    if not chunk:
        raise ConnectionError(f"Envoy closed the connection after {received!r}")
    return chunk


def _dechunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        whole += body[:length]
        body = body[length + 2 :]
    return whole


@contextlib.contextmanager
def running_judge(
    folder: Path,
    options: Sequence[ManagerOptions],
    clusters: Sequence[dict[str, Any]],
    filters: Sequence[dict[str, Any]] = (),
) -> Iterator[EnvoyJudge]:
    """An Envoy with clusters, and listeners that take their routes from `EnvoyJudge.configure`."""
    (folder / "rds").mkdir()
    for option in options:
        empty = discovery_pb2.DiscoveryResponse(version_info="0")
        resource = any_pb2.Any()
        resource.Pack(route_pb2.RouteConfiguration(name=option.name))
        empty.resources.append(resource)
        (folder / "rds" / f"{option.name}.pb").write_bytes(empty.SerializeToString())
    config = {
        "node": {"id": "judge", "cluster": "judge"},
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock")}}},
        "static_resources": {
            "listeners": [_listener(folder, option, filters) for option in options],
            "clusters": list(clusters),
        },
    }
    with envoy(config, [], folder):
        _wait_for_sockets([folder / f"{option.name}.sock" for option in options], folder)
        judge = EnvoyJudge(folder, options)
        try:
            yield judge
        finally:
            judge.close()


def _wait_for_sockets(paths: Sequence[Path], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    for path in paths:
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"Envoy does not listen: {(folder / 'envoy.log').read_text()[-2000:]}")
            time.sleep(0.02)


def _listener(folder: Path, option: ManagerOptions, filters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    manager = {
        "@type": f"{_PREFIX}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": option.name,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "rds": {
            "route_config_name": option.name,
            "config_source": {
                "path_config_source": {
                    "path": str(folder / "rds" / f"{option.name}.pb"),
                    "watched_directory": {"path": str(folder / "rds")},
                }
            },
        },
        "http_filters": [
            *filters,
            {"name": "router", "typed_config": {"@type": f"{_PREFIX}.http.router.v3.Router"}},
        ],
        **option.fields,
    }
    return {
        "name": option.name,
        "address": {"pipe": {"path": str(folder / f"{option.name}.sock")}},
        "additional_addresses": [
            {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
            for port in [option.port]
            if port
        ],
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
