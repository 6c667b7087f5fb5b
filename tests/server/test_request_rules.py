"""What a connection manager says of requests as such: parsed, carried out by a server, beside the real Envoy."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from google.protobuf import json_format

from meshsdk.errors import ResourceError
from meshsdk.resources import ResourceType, ServerListener, decode
from meshsdk.resources.listener.request_rules import RequestRules, strictest

from ..differential.inbound_subjects import SERVER_SUBJECTS, running_server
from ..patience import PATIENCE
from .attacked import listener

HTTP1 = "http_protocol_options"
COMMON = "common_http_protocol_options"
_EXTENSIONS = "type.googleapis.com/envoy.extensions"


def parsed(manager: dict[str, Any], **fields: Any) -> ServerListener:
    document = listener("0.0.0.0", 8080)
    del document["@type"]
    [chain] = document["filter_chains"]
    chain["filters"][0]["typed_config"] |= manager
    chain |= fields.pop("chain", {})
    message = json_format.ParseDict(document | fields, listener_pb2.Listener())
    found = decode(ResourceType.LISTENER, message.SerializeToString())
    assert isinstance(found, ServerListener)
    return found


def _filter(kind: str, **settings: Any) -> dict[str, Any]:
    return {"name": kind, "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.{kind}", **settings}}


def router(**settings: Any) -> dict[str, Any]:
    return _filter("router.v3.Router", **settings)


def set_filter_state(**settings: Any) -> dict[str, Any]:
    from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2  # noqa: F401 - in an Any

    text = {"text_format_source": {"inline_string": "x"}}
    value = {"object_key": "envoy.string", "format_string": text, **settings}
    return _filter("set_filter_state.v3.Config", on_request_headers=[value])


def ext_authz(**settings: Any) -> dict[str, Any]:
    from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2  # noqa: F401 - in an Any

    service = {"grpc_service": {"envoy_grpc": {"cluster_name": "judge"}}, "transport_api_version": "V3"}
    return _filter("ext_authz.v3.ExtAuthz", **service, **settings)


def jwt(**settings: Any) -> dict[str, Any]:
    from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2  # noqa: F401 - in an Any

    uri = {"uri": "http://keys/", "cluster": "keys", "timeout": "1s"}
    provider = {"issuer": "i", "remote_jwks": {"http_uri": uri, **settings}}
    return _filter("jwt_authn.v3.JwtAuthentication", providers={"p": provider})


def tls(**settings: Any) -> dict[str, Any]:
    from envoy.extensions.transport_sockets.tls.v3 import tls_pb2  # noqa: F401 - in an Any

    own = {"tls_certificate_provider_instance": {"instance_name": "default"}}
    config = {"@type": f"{_EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": own}
    return {"transport_socket": {"name": "tls", "typed_config": {**config, **settings}}}


def raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def get(*lines: str, version: str = "HTTP/1.1", method: str = "GET") -> bytes:
    every = "".join(f"{line}\r\n" for line in ("host: web", *lines, "connection: close"))
    return f"{method} / {version}\r\n{every}\r\n".encode()


UPGRADE = ("upgrade: foo", "connection: upgrade")


@pytest.mark.parametrize("side", SERVER_SUBJECTS)
@pytest.mark.parametrize(
    ("manager", "request_bytes", "status"),
    [
        ({COMMON: {"max_headers_count": 4}}, get("x: 1", "y: 2"), 200),
        ({COMMON: {"max_headers_count": 4}}, get("x: 1", "y: 2", "z: 3"), 431),
        ({COMMON: {"max_headers_count": 150}}, get(*(f"x{number}: 1" for number in range(120))), 200),
        ({"max_request_headers_kb": 1}, get("x: " + "y" * 900), 200),
        ({"max_request_headers_kb": 1}, get("x: " + "y" * 1100), 431),
        ({"max_request_headers_kb": 96}, get("x: " + "y" * 80_000), 200),
        ({COMMON: {"headers_with_underscores_action": "REJECT_REQUEST"}}, get("x_y: 1"), 400),
        ({COMMON: {"headers_with_underscores_action": "REJECT_REQUEST"}}, get("x-y: 1"), 200),
        ({HTTP1: {"accept_http_10": True}}, get(version="HTTP/1.0"), 200),
        ({}, get(version="HTTP/1.0"), 426),
        ({}, get(method="QUERY"), 400),
        ({}, get(*UPGRADE), 403),
        ({"upgrade_configs": [{"upgrade_type": "websocket"}]}, get(*UPGRADE), 403),
        ({"upgrade_configs": [{"upgrade_type": "foo", "enabled": False}]}, get(*UPGRADE), 403),
        ({}, get("upgrade: foo"), 200),
        ({}, get("upgrade: h2c", "connection: upgrade"), 200),
    ],
)
def test_rules_of_requests_hold_as_in_envoy(
    tmp_path: Path, side: str, manager: dict[str, Any], request_bytes: bytes, status: int
) -> None:
    with running_server(side, tmp_path, [], manager=manager) as subject:
        assert raw(subject.port, request_bytes).split(b" ")[1] == b"%d" % status


@pytest.mark.parametrize("side", SERVER_SUBJECTS)
@pytest.mark.parametrize(("action", "seen"), [("ALLOW", ["x-y", "x_y"]), ("DROP_HEADER", ["x-y"])])
def test_names_with_underscores_are_dropped_where_that_is_said(
    tmp_path: Path, side: str, action: str, seen: list[str]
) -> None:
    manager = {COMMON: {"headers_with_underscores_action": action}}
    with running_server(side, tmp_path, [], manager=manager) as subject:
        subject.send(headers={"x_y": "1", "x-y": "2"})
        assert sorted(name for name in subject.received[0].headers if name[1:] in ("_y", "-y")) == seen


def test_a_timeout_of_the_listener_takes_the_place_of_the_servers_own(tmp_path: Path) -> None:
    manager = {"request_headers_timeout": "0.3s", "stream_idle_timeout": "0.3s"}
    with running_server("meshsdk", tmp_path, [], manager=manager) as subject:
        for said in (b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 3\r\n\r\n"):
            assert raw(subject.port, said).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("said", "strictest_of_them"), [([0, 30], 30), ([0, None], 0), ([None, None], None), ([None, 5, 3, 0], 3)]
)
def test_for_ever_is_the_longest_of_all_times(said: list[float | None], strictest_of_them: float | None) -> None:
    rules = [RequestRules(stream_idle_timeout_seconds=one) for one in said]
    assert strictest(rules).stream_idle_timeout_seconds == strictest_of_them


@pytest.mark.parametrize(
    ("manager", "fields", "note"),
    [
        ({COMMON: {"idle_timeout": "3s"}}, {}, "idle_timeout"),
        ({COMMON: {"max_connection_duration": "3s"}}, {}, "max_connection_duration"),
        ({COMMON: {"max_requests_per_connection": 3}}, {}, "max_requests_per_connection"),
        ({"scheme_header_transformation": {"scheme_to_overwrite": "https"}}, {}, "scheme_header_transformation"),
        ({HTTP1: {"allow_custom_methods": True}}, {}, "allow_custom_methods"),
        ({HTTP1: {"enable_trailers": True}}, {}, "enable_trailers"),
        ({HTTP1: {"allow_absolute_url": False}}, {}, "allow_absolute_url"),
        ({"request_timeout": "3s"}, {}, "request_timeout"),
        ({"local_reply_config": {"mappers": []}}, {}, "local_reply_config"),
        ({"codec_type": "HTTP2"}, {}, "codec_type"),
        ({"http_filters": [router(strict_check_headers=["x-envoy-max-retries"])]}, {}, "strict_check_headers"),
        ({"http_filters": [set_filter_state(read_only=True), router()]}, {}, "read_only"),
        ({"http_filters": [ext_authz(clear_route_cache=True), router()]}, {}, "clear_route_cache"),
        ({"http_filters": [jwt(retry_policy={"num_retries": 2}), router()]}, {}, "retry_policy"),
        ({}, {"chain": tls(session_timeout="3s")}, "session_timeout"),
        ({}, {"chain": tls(disable_stateless_session_resumption=True)}, "disable_stateless_session_resumption"),
        ({}, {"chain": tls(disable_stateful_session_resumption=True)}, "disable_stateful_session_resumption"),
        ({}, {"chain": tls(prefer_client_ciphers=True)}, "prefer_client_ciphers"),
    ],
)
def test_what_is_not_acted_on_is_noted(manager: dict[str, Any], fields: dict[str, Any], note: str) -> None:
    assert any(note in one for one in parsed(manager, **fields).notes)


def test_filters_of_the_router_refuse_the_listener() -> None:
    with pytest.raises(ResourceError, match="upstream_http_filters.*make them filters of the listener"):
        parsed({"http_filters": [router(upstream_http_filters=[set_filter_state()])]})


@pytest.mark.parametrize("kind", ["proxy_protocol.v3.ProxyProtocol", "original_src.v3.OriginalSrc"])
def test_a_listener_filter_that_says_who_the_peer_is_refuses_the_listener(kind: str) -> None:
    from envoy.extensions.filters.listener.original_src.v3 import original_src_pb2  # noqa: F401 - in an Any
    from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2  # noqa: F401

    config = {"@type": f"type.googleapis.com/envoy.extensions.filters.listener.{kind}"}
    with pytest.raises(ResourceError, match="who the peer is"):
        parsed({}, listener_filters=[{"name": "x", "typed_config": config}])
    with pytest.raises(ResourceError, match="who the peer is"):
        parsed({}, chain={"use_proxy_proto": True})


def test_the_handshake_timeout_of_a_chain_is_the_ports() -> None:
    found = parsed({}, chain={"transport_socket_connect_timeout": "3s"})
    assert found.chains[0].connect_timeout_seconds == 3
    assert json.dumps(found.notes) == "[]"
