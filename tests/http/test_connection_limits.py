"""How long connections are kept, and what they are opened with."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import pytest
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format

import meshsdk
from meshsdk.http.http2 import Http2Session
from meshsdk.http.pool_rules import set_keepalive
from meshsdk.resources import ResourceType, TcpKeepalive, decode
from tests.differential.subjects import Answer, Upstream, cluster, running

from ..patience import PATIENCE

HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TO_C = [{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]


def http_options(**common: Any) -> dict[str, Any]:
    options = {
        "@type": HTTP_OPTIONS,
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": common,
    }
    return {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}}


@pytest.fixture
def connections(tmp_path: Path, stack: ExitStack) -> Callable[..., int]:
    """How many connections a few requests in a row need."""

    def count(pause: float = 0.0, **fields: Any) -> int:
        server = stack.enter_context(Upstream())
        with running("meshsdk", tmp_path, [cluster("c", server.port, **fields)], TO_C) as side:
            for _ in range(4):
                assert side.get().status_code == 200
                time.sleep(pause)
        return server.connections

    return count


def test_a_connection_is_kept_as_long_as_nothing_is_against_it(connections: Callable[..., int]) -> None:
    assert connections() == 1


def test_a_connection_serves_so_many_requests(connections: Callable[..., int]) -> None:
    assert connections(**http_options(max_requests_per_connection=2)) == 2


def test_a_connection_that_is_too_old_takes_no_further_request(connections: Callable[..., int]) -> None:
    assert connections(0.06, **http_options(max_connection_duration="0.05s")) >= 3


def test_connections_close_when_endpoints_come_or_go(tmp_path: Path, stack: ExitStack) -> None:
    server, other = stack.enter_context(Upstream()), stack.enter_context(Upstream())
    fields = {"common_lb_config": {"close_connections_on_host_set_change": True}}
    path = tmp_path / "mesh" / "0.json"
    with running("meshsdk", tmp_path, [cluster("c", server.port, **fields)], TO_C) as side:
        side.get()
        document = json.loads(path.read_text())
        document["load_assignment"]["endpoints"] = cluster("c", server.port, other.port)["load_assignment"]["endpoints"]
        path.write_text(json.dumps(document))
        deadline = time.monotonic() + PATIENCE
        while not other.received and time.monotonic() < deadline:
            side.get()
            time.sleep(0.05)
        side.get()
        side.get()
    assert server.connections >= 2


def test_keepalive_probes_are_set_on_the_socket() -> None:
    with socket.socket() as sock:
        set_keepalive(sock, TcpKeepalive(probes=3, time_seconds=17, interval_seconds=5))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 17
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3


def test_an_http2_connection_carries_no_more_streams_than_the_cluster_allows() -> None:
    session = Http2Session(max_streams=2)
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    peer.initiate_connection()
    peer.receive_data(session.start())
    session.feed(peer.data_to_send())
    for _ in range(2):
        assert session.has_room
        session.open("GET", "http", "/", [(b"host", b"a")], end=True)
    assert not session.has_room


def test_a_cluster_that_a_request_names_is_asked_for(tmp_path: Path, stack: ExitStack) -> None:
    server = stack.enter_context(Upstream(lambda request, number: Answer(body=b"found")))
    routes = [{"match": {"prefix": "/"}, "route": {"cluster_header": "x-cluster"}}]
    with running("meshsdk", tmp_path, [cluster("named", server.port)], routes) as side:
        assert side.get(headers={"x-cluster": "named"}).text == "found"
        missing = side.get(headers={"x-cluster": "missing"})
        assert (missing.status_code, missing.extensions["mesh"].flag) == (503, "NC")


@pytest.mark.parametrize("side_name", ["envoy", "meshsdk"])
def test_formats_rewrite_path_and_host(side_name: str, tmp_path: Path, stack: ExitStack) -> None:
    server = stack.enter_context(Upstream())
    action = {"cluster": "c", "path_rewrite": "/new/%REQ(x-a)%", "host_rewrite": "%REQ(x-a)%.test"}
    with running(side_name, tmp_path, [cluster("c", server.port)], [{"match": {"prefix": "/"}, "route": action}]) as s:
        s.get("/old?q=1", headers={"x-a": "value"})
    [request] = server.received
    assert (request.target, request.headers["host"]) == ("/new/value?q=1", "value.test")


@pytest.mark.parametrize("side_name", ["envoy", "meshsdk"])
def test_a_header_keeps_a_session(side_name: str, tmp_path: Path, stack: ExitStack) -> None:
    servers = [
        stack.enter_context(Upstream(lambda request, number, name=name: Answer(body=name))) for name in (b"a", b"b")
    ]
    state = "type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState"
    session = {
        "name": "session",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
            "strict": True,
            "session_state": {
                "name": "envoy.http.stateful_session.header",
                "typed_config": {"@type": state, "name": "x-session"},
            },
        },
    }
    clusters = [cluster("c", *(server.port for server in servers))]
    with running(side_name, tmp_path, clusters, TO_C, [session]) as side:
        first = side.get()
        kept = {"x-session": first.headers["x-session"]}
        assert {side.get(headers=kept).text for _ in range(6)} == {first.text}
        gone = {"x-session": "MTI3LjAuMC4xOjE="}  # 127.0.0.1:1 is not there, and the session is strict.
        assert side.get(headers=gone).status_code == 503


@pytest.mark.parametrize("side_name", ["envoy", "meshsdk"])
def test_no_more_requests_are_held_up_than_allowed(side_name: str, tmp_path: Path, stack: ExitStack) -> None:
    server = stack.enter_context(Upstream())
    fault = {
        "name": "fault",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "delay": {"fixed_delay": "3s", "percentage": {"numerator": 100}},
            "max_active_faults": 2,
        },
    }
    with running(side_name, tmp_path, [cluster("c", server.port)], TO_C, [fault]) as side:
        began = time.monotonic()
        side.get_many(6)
        late = sorted(request.at - began > 2.9 for request in server.received)
    assert late == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("action", "name"),
    [
        ({"cluster": "c", "upgrade_configs": [{"upgrade_type": "websocket"}]}, "upgrade_configs"),
        ({"cluster_specifier_plugin": "p"}, "cluster_specifier_plugin"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_by_name(action: dict[str, Any], name: str) -> None:
    routes = [{"match": {"prefix": "/"}, "route": action}]
    configuration = {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]}
    message = json_format.ParseDict(configuration, route_pb2.RouteConfiguration())
    with pytest.raises(meshsdk.ResourceError, match=name):
        decode(ResourceType.ROUTE_CONFIGURATION, message.SerializeToString())
