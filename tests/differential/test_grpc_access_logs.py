"""Lines of access logs of gRPC channels are those of the real Envoy between the same client and server."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

import meshsdk
from meshsdk.access_log import ISTIO_TEXT

from ..grpc.conftest import MakeClient, clients, connect, kind  # noqa: F401 - fixtures.
from ..grpc_client import Client, Status, SyncClient
from ..grpc_server import GrpcServer
from ..patience import PATIENCE
from ..processes import envoy, free_ports
from .subjects import cluster

_TYPE = "type.googleapis.com/envoy"
_HOST = "subject.test"
_FORMAT = f"%REQ(X-CASE)% grpc=%GRPC_STATUS% trailer=%TRAILER(X-TRAILER)% {ISTIO_TEXT}"

_ALWAYS = {"numerator": 100}
_FAULT = f"{_TYPE}.extensions.filters.http.fault.v3.HTTPFault"


def _fault(**fields: Any) -> dict[str, Any]:
    return {"typed_per_filter_config": {"fault": {"@type": _FAULT, **fields}}}


# Routes by the header x-case.
_ROUTES: dict[str, dict[str, Any]] = {
    "refused": {"route": {"cluster": "refused"}},
    "empty": {"route": {"cluster": "empty"}},
    "gone": {"route": {"cluster": "nowhere"}},
    "aborted": {"route": {"cluster": "c"}, **_fault(abort={"http_status": 503, "percentage": _ALWAYS})},
    "aborted-grpc": {"route": {"cluster": "c"}, **_fault(abort={"grpc_status": 7, "percentage": _ALWAYS})},
    "direct": {"direct_response": {"status": 403}},
    "short": {"route": {"cluster": "c", "timeout": "0.4s"}},
    "plain": {"route": {"cluster": "c"}},
}


def _manager(path: Path) -> dict[str, Any]:
    routes: list[dict[str, Any]] = [
        {
            "match": {
                "prefix": "/",
                "headers": [{"name": "x-case", "string_match": {"safe_regex": {"regex": f"{name}(-[0-9]+)?"}}}],
            },
            "name": f"r-{name}",
            **route,
        }
        for name, route in _ROUTES.items()
    ]
    log = {
        "@type": f"{_TYPE}.extensions.access_loggers.file.v3.FileAccessLog",
        "path": str(path),
        "log_format": {"text_format_source": {"inline_string": _FORMAT}},
    }
    return {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "subject",
        "route_config": {
            "name": "routes",
            "validate_clusters": False,
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [
            {"name": "fault", "typed_config": {"@type": _FAULT}},
            {"name": "router", "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"}},
        ],
        "access_log": [{"name": "file", "typed_config": log}],
    }


def _clusters(port: int, refused: int) -> list[dict[str, Any]]:
    http2: dict[str, Any] = {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    }
    return [cluster("c", port, **http2), cluster("refused", refused, **http2), cluster("empty", **http2)]


def _calls(client: Client, server: GrpcServer) -> None:
    """The same calls, whoever carries them."""

    def named(case: str) -> dict[str, Any]:
        return {"metadata": (("x-case", case),)}

    client.call(request=b"four", **named("plain-1"))
    client.down(3, **named("plain-2"))
    client.up([b"a", b"bc"], **named("plain-3"))
    client.both([b"a", b"bc"], **named("plain-4"))
    server.service.status = grpc.StatusCode.NOT_FOUND
    with pytest.raises(Status):
        client.call(request=b"four", **named("plain-5"))
    server.service.status = None
    for case in ("refused", "empty", "gone", "aborted", "aborted-grpc", "direct", "other"):
        with pytest.raises(Status):
            client.call(request=b"four", **named(case))
    with pytest.raises(Status):
        client.call("/test.Echo/Sleep", b"2", **named("short"))


_CASES = 13


def _lines(path: Path) -> dict[str, str]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= _CASES:
            break
        time.sleep(0.05)
    return {line.split(" ", 1)[0]: _without_accidents(line) for line in lines}


def _without_accidents(line: str) -> str:
    line = re.sub(r"\[\d{4}-[^\]]+\]", "[TIME]", line)
    # Sizes stay; how long it took does not.
    line = re.sub(r'" (\d+) (\d+) \d+ (\d+|-) "', _without_times, line)
    if line.startswith("plain-1 "):
        # The server says what it got, and Envoy adds headers.
        line = re.sub(r" 9 \d+ ", " 9 MANY ", line)
    if line.startswith("plain-4 "):
        # Envoy tells it of streams both ways where the request's has ended before the response began.
        line = line.replace(" MS MS ", " MS - ")
    # User agent, request id, authority.
    line = re.sub(r'"-" "[^"]*" "[^"]*" "[^"]*" "', '"-" "UA" "ID" "HOST" "', line)
    line = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", line)
    if line.startswith("short "):
        # grpc-core tells its caller DEADLINE_EXCEEDED, and nobody whom it had asked.
        line = re.sub(r"grpc=\w+", "grpc=X", line).replace('"HOST" "ADDRESS"', '"HOST" "-"')
        # The server knows the deadline too, and may say so before its caller has noticed.
        line = line.replace(" MS MS ", " MS - ")
    # Addresses of connections, which grpc-core does not tell.
    return re.sub(r" (ADDRESS|-) (ADDRESS|-) (ADDRESS|-) - (r-\S+|-)$", r" \4", line)


def _without_times(found: re.Match[str]) -> str:
    return f'" {found[1]} {found[2]} MS {"MS" if found[3] != "-" else "-"} "'


def test_every_line_is_the_one_that_envoy_writes(tmp_path: Path, connect: MakeClient) -> None:  # noqa: F811
    [port, refused] = free_ports(2)
    theirs, ours = tmp_path / "envoy.log", tmp_path / "meshsdk.log"
    with GrpcServer("echo") as server:
        listener = {
            "name": "subject",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [{"name": "manager", "typed_config": _manager(theirs)}]}],
        }
        config: dict[str, Any] = {
            "node": {"id": "subject", "cluster": "subject"},
            "static_resources": {"listeners": [listener], "clusters": _clusters(server.port, refused)},
        }
        with envoy(config, [port], tmp_path):
            plain = _PlainClient(port)
            _calls(plain, server)
            plain.close()
        folder = tmp_path / "mesh"
        folder.mkdir()
        documents: list[dict[str, Any]] = [
            {"@type": f"{_TYPE}.config.cluster.v3.Cluster", **one} for one in _clusters(server.port, refused)
        ]
        made = {"api_listener": {"api_listener": _manager(ours)}}
        documents.append({"@type": f"{_TYPE}.config.listener.v3.Listener", "name": _HOST, **made})
        for index, document in enumerate(documents):
            (folder / f"{index}.json").write_text(json.dumps(document))
        with meshsdk.Mesh(config=folder) as mesh:
            client = connect(mesh, _HOST)
            _calls(client, server)
            client.close()
            expected, written = _lines(theirs), _lines(ours)
    assert len(expected) == _CASES
    different = [
        f"{case}:\n  Envoy   {line}\n  meshsdk {written.get(case)}"
        for case, line in expected.items()
        if line != written.get(case)
    ]
    assert not different, "\n".join(different)


class _PlainClient(SyncClient):
    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
