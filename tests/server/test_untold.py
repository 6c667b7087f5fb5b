"""What a server does not tell of a call: no rule is passed because it asks about that, wherever the rule stands."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import httpx
import pytest
import uvicorn
from meshsdk_fastapi import MeshMiddleware

import meshsdk

from ..certificates import SpiffeCa, spiffe, write_identity
from ..conftest import service
from ..patience import PATIENCE
from .grpc_servers import aio_grpc_server, sync_grpc_server
from .running import mesh_of, one_port, policy, serving
from .test_attacks import echo

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
NETWORK = "type.googleapis.com/envoy.extensions.filters.network"
INPUTS = "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3"
CLOSED = "closed.example"


class Wrapped:
    """A context of which another interceptor shows the public part only."""

    def __init__(self, context: Any) -> None:
        for name in "abort peer auth_context invocation_metadata time_remaining code details cancel".split():
            setattr(self, name, getattr(context, name))
        for name in "set_trailing_metadata trailing_metadata send_initial_metadata".split():
            setattr(self, name, getattr(context, name))


class Wrapping(grpc.ServerInterceptor):  # type: ignore[misc]
    """Puts its own context around grpc's."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: handler.unary_unary(request, Wrapped(context))
        )


@contextlib.contextmanager
def wrapped(mesh: meshsdk.Mesh, port: int) -> Iterator[None]:
    with sync_grpc_server(mesh, port, secure=False, interceptors=[Wrapping()]):
        yield


Serve = Callable[[meshsdk.Mesh, int], contextlib.AbstractContextManager[None]]

SERVERS: dict[str, Serve] = {
    "grpc": lambda mesh, port: sync_grpc_server(mesh, port, secure=False),
    "grpc, wrapped": wrapped,
    "grpc.aio": lambda mesh, port: aio_grpc_server(mesh, port, secure=False),
    "grpc.aio, threads": lambda mesh, port: aio_grpc_server(mesh, port, secure=False, threads=True),
}
TELLS_HOSTS = "grpc"


def rbac(permission: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """RBAC that denies what a permission holds for."""
    rules = {"action": "DENY", "policies": {"p": {"permissions": [permission], "principals": [{"any": True}]}}}
    return {"@type": f"{HTTP}.rbac.v3.RBAC", "rules": rules, **fields}


def header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"name": name, "string_match": {"exact": value}}}


def on_route(config: dict[str, Any]) -> dict[str, Any]:
    return {"rbac": {"@type": f"{HTTP}.rbac.v3.RBACPerRoute", "rbac": {"rules": config["rules"]}}}


DENY_ALL = rbac({"any": True})
OF_HOST = rbac(header(":authority", CLOSED))
RBAC = {"name": "rbac", "typed_config": {"@type": f"{HTTP}.rbac.v3.RBAC"}}
OPEN: dict[str, Any] = {"match": {"prefix": "/"}, "non_forwarding_action": {}}


def named(config: dict[str, Any], name: str = "rbac") -> dict[str, Any]:
    return {"name": name, "typed_config": config}


def listener(port: int, filters: Sequence[Any], hosts: Sequence[Any] = (), chain: dict[str, Any] | None = None) -> str:
    """A server's listener, as a document of a folder."""
    manager = {
        "@type": f"{NETWORK}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"name": "in", "virtual_hosts": list(hosts) or [host("v", "*", OPEN)]},
        "http_filters": [*filters, named({"@type": f"{HTTP}.router.v3.Router"}, "router")],
    }
    document = {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": f"xds.istio.io/grpc/lds/inbound/0.0.0.0:{port}",
        "filter_chains": [{**(chain or {}), "filters": [named(manager, "manager")]}],
    }
    return json.dumps(document)


def host(name: str, domain: str, *routes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": name, "domains": [domain], "routes": list(routes), **fields}


def over_http(document: str) -> str:
    """The same listener for a server that listens on loopback only."""
    return document.replace("/0.0.0.0:", "/127.0.0.1:")


def by_host() -> dict[str, Any]:
    return {"match": {"prefix": "/", "headers": [{"name": ":authority", "string_match": {"exact": CLOSED}}]}}


def matcher(read: dict[str, Any], value: str) -> dict[str, Any]:
    """RBAC by a tree: what is `value` is denied, and all else is let in."""

    def action(name: str) -> dict[str, Any]:
        config = {"@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": name, "action": name}
        return {"action": named(config, "action")}

    single = {"input": named(read, "input"), "value_match": {"exact": value}}
    entry = {"predicate": {"single_predicate": single}, "on_match": action("DENY")}
    tree = {"matcher_list": {"matchers": [entry]}, "on_no_match": action("ALLOW")}
    return named({"@type": f"{HTTP}.rbac.v3.RBAC", "matcher": tree})


def cel(attribute: list[str], value: str, key: str = "") -> dict[str, Any]:
    """RBAC that denies where an attribute, or a header by `key`, is `value`."""
    expression: dict[str, Any] = {"ident_expr": {"name": attribute[0]}}
    for one in attribute[1:]:
        expression = {"select_expr": {"operand": expression, "field": one}}
    if key:
        constant = {"const_expr": {"string_value": key}}
        expression = {"call_expr": {"function": "_[_]", "args": [expression, constant]}}
    equal = {"call_expr": {"function": "_==_", "args": [expression, {"const_expr": {"string_value": value}}]}}
    config = rbac({"any": True})
    config["rules"]["policies"]["p"]["condition"] = equal
    return named(config)


def filter_state(text: str) -> list[dict[str, Any]]:
    """What RBAC finds in the filter state, which an earlier filter has made of a format."""
    value = {
        "object_key": "k",
        "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": text}},
    }
    state = named({"@type": f"{HTTP}.set_filter_state.v3.Config", "on_request_headers": [value]}, "state")
    principal = {"filter_state": {"key": "k", "string_match": {"exact": CLOSED}}}
    config = rbac({"any": True})
    config["rules"]["policies"]["p"]["principals"] = [principal]
    return [state, named(config)]


def copied(text: str) -> list[dict[str, Any]]:
    """What RBAC finds in a header, which an earlier filter has made of a format."""
    add = {"append": {"header": {"key": "x-copy", "value": text}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    config = {"@type": f"{HTTP}.header_mutation.v3.HeaderMutation", "mutations": {"request_mutations": [add]}}
    return [named(config, "mutations"), named(rbac(header("x-copy", CLOSED)))]


def token_rule() -> list[dict[str, Any]]:
    """A token is asked for at one host."""
    provider = {
        "issuer": "i",
        "local_jwks": {"inline_string": '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}'},
    }
    rule = {"match": by_host()["match"], "requires": {"provider_name": "p"}}
    config = {"@type": f"{HTTP}.jwt_authn.v3.JwtAuthentication", "providers": {"p": provider}, "rules": [rule]}
    return [named(config, "jwt")]


def shadowed() -> list[dict[str, Any]]:
    """Istio's CUSTOM action: shadow rules say who is asked about, and a later filter reads what they said."""
    shadow = {"@type": f"{HTTP}.rbac.v3.RBAC", "shadow_rules": OF_HOST["rules"], "shadow_rules_stat_prefix": "custom_"}
    config = rbac({"any": True})
    said = {"filter": "envoy.filters.http.rbac", "path": [{"key": "custom_shadow_engine_result"}]}
    found = {"metadata": {**said, "value": {"string_match": {"exact": "denied"}}}}
    config["rules"]["policies"]["p"]["principals"] = [found]
    return [named(shadow), named(config, "reader")]


def split(port: int) -> str:
    cluster = {"name": "c", "weight": 1}
    closed = {**cluster, "typed_per_filter_config": on_route(OF_HOST)}
    return listener(
        port,
        [RBAC],
        [
            host(
                "v", "*", {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [closed, {**closed}]}}}
            )
        ],
    )


Make = Callable[[int], str]

# Wherever rules about hosts can stand, or be chosen by a host.
ABOUT_HOSTS: dict[str, Make] = {
    "AuthorizationPolicy": lambda port: (
        service("web", port) + policy(f"{{action: DENY, rules: [{{to: [{{operation: {{hosts: [{CLOSED}]}}}}]}}]}}")
    ),
    "the listener's filter": lambda port: listener(port, [named(OF_HOST)]),
    "a virtual host's": lambda port: listener(
        port, [RBAC], [host("v", "*", OPEN, typed_per_filter_config=on_route(OF_HOST))]
    ),
    "a route's": lambda port: listener(
        port, [RBAC], [host("v", "*", {**OPEN, "typed_per_filter_config": on_route(OF_HOST)})]
    ),
    "a cluster's of a split": split,
    "a virtual host chosen": lambda port: listener(
        port,
        [RBAC],
        [host("a", CLOSED, OPEN, typed_per_filter_config=on_route(DENY_ALL)), host("b", "*", OPEN)],
    ),
    "a route chosen": lambda port: listener(
        port, [RBAC], [host("v", "*", {**OPEN, **by_host(), "typed_per_filter_config": on_route(DENY_ALL)}, OPEN)]
    ),
    "a header matcher on Host": lambda port: listener(port, [named(rbac(header("host", CLOSED)))]),
    "a tree of matchers": lambda port: listener(
        port,
        [
            matcher(
                {
                    "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                    "header_name": ":authority",
                },
                CLOSED,
            )
        ],
    ),
    "CEL": lambda port: listener(port, [cel(["request", "host"], CLOSED)]),
    "CEL's headers": lambda port: listener(port, [cel(["request", "headers"], CLOSED, key=":authority")]),
    "a filter state": lambda port: listener(port, filter_state("%REQ(:AUTHORITY)%")),
    "a header made of it": lambda port: listener(port, copied("%REQ(X-NONE?:AUTHORITY)%")),
    "a token's rule": lambda port: listener(port, token_rule()),
    "a shadow rule that is read": lambda port: listener(port, shadowed()),
}


def outcome(port: int, authority: str, metadata: Sequence[tuple[str, str]] = ()) -> grpc.StatusCode:
    options = [("grpc.default_authority", authority)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        try:
            channel.unary_unary("/test.Echo/Say")(b"", metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("place", ABOUT_HOSTS)
def test_no_rule_about_hosts_is_passed_where_the_host_is_not_told(tmp_path: Path, server: str, place: str) -> None:
    port = one_port()
    with mesh_of(tmp_path, ABOUT_HOSTS[place](port)) as mesh, SERVERS[server](mesh, port):
        closed, other = outcome(port, CLOSED), outcome(port, "open.example")
    if server == TELLS_HOSTS:
        assert closed in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
        assert other is grpc.StatusCode.OK
    else:
        assert (closed, other) == (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize("server", SERVERS)
def test_a_dry_run_about_hosts_refuses_nobody(tmp_path: Path, server: str) -> None:
    port = one_port()
    shadow = {"@type": f"{HTTP}.rbac.v3.RBAC", "shadow_rules": OF_HOST["rules"]}
    with mesh_of(tmp_path, listener(port, [named(shadow)])) as mesh, SERVERS[server](mesh, port):
        assert outcome(port, CLOSED) is grpc.StatusCode.OK


@pytest.mark.parametrize("server", SERVERS)
def test_only_routes_with_such_rules_are_closed(tmp_path: Path, server: str) -> None:
    port = one_port()
    closed = {**OPEN, "match": {"prefix": "/closed"}, "typed_per_filter_config": on_route(OF_HOST)}
    yaml = listener(port, [RBAC], [host("v", "*", closed, OPEN)])
    with mesh_of(tmp_path, yaml) as mesh, SERVERS[server](mesh, port):
        assert outcome(port, "open.example") is grpc.StatusCode.OK


# What no gRPC server tells.
OF_NO_GRPC_SERVER: dict[str, Make] = {
    "the address it came to": lambda port: listener(
        port, [named(rbac({"destination_ip": {"address_prefix": "127.0.0.1", "prefix_len": 32}}))]
    ),
    "the server name": lambda port: listener(port, [named(rbac({"requested_server_name": {"exact": CLOSED}}))]),
    "the address, in a tree": lambda port: listener(
        port, [matcher({"@type": f"{INPUTS}.DestinationIPInput"}, "127.0.0.1")]
    ),
    "the address, in a format": lambda port: listener(port, copied("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%")),
    "the address, on a route": lambda port: listener(
        port,
        [RBAC],
        [
            host(
                "v",
                "*",
                {
                    **OPEN,
                    "typed_per_filter_config": on_route(
                        rbac({"destination_ip": {"address_prefix": "127.0.0.1", "prefix_len": 32}})
                    ),
                },
            )
        ],
    ),
    "the address, for a chain": lambda port: listener(
        port, [], chain={"filter_chain_match": {"prefix_ranges": [{"address_prefix": "127.0.0.1", "prefix_len": 32}]}}
    ),
    "the type of the content": lambda port: listener(port, [named(rbac(header("content-type", "application/json")))]),
    "te": lambda port: listener(port, [named(rbac(header("te", "trailers")))]),
    "grpc-timeout, in CEL": lambda port: listener(port, [cel(["request", "headers"], "30S", key="Grpc-Timeout")]),
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("fact", OF_NO_GRPC_SERVER)
def test_no_rule_is_passed_that_asks_what_grpc_keeps_to_itself(tmp_path: Path, server: str, fact: str) -> None:
    port = one_port()
    with mesh_of(tmp_path, OF_NO_GRPC_SERVER[fact](port)) as mesh, SERVERS[server](mesh, port):
        assert outcome(port, "open.example") is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("server", SERVERS)
def test_what_is_told_to_grpc_servers_decides(tmp_path: Path, server: str) -> None:
    port = one_port()
    local = {"direct_remote_ip": {"address_prefix": "127.0.0.1", "prefix_len": 32}}
    config = rbac(header("x-role", "evil"))
    config["rules"]["policies"]["p"]["principals"] = [local]
    with mesh_of(tmp_path, listener(port, [named(config)])) as mesh, SERVERS[server](mesh, port):
        assert outcome(port, "a.example", [("x-role", "evil")]) is grpc.StatusCode.PERMISSION_DENIED
        assert outcome(port, "a.example", [("x-role", "good")]) is grpc.StatusCode.OK


def raw_status(port: int, headers: list[tuple[str, str]]) -> str:
    """The gRPC status of a call with just these headers; empty where the server has broken it off."""
    client = h2.connection.H2Connection(
        h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
    )
    client.initiate_connection()
    client.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":path", "/test.Echo/Say"), *headers])
    client.send_data(1, b"\0\0\0\0\0", end_stream=True)
    status = ""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(client.data_to_send())
        while data := connection.recv(65536):
            for event in client.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    status = dict(event.headers).get("grpc-status", status)
                if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return status
            connection.sendall(client.data_to_send())
    return status


GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


@pytest.mark.parametrize("server", SERVERS)
def test_a_grpc_call_without_a_host_is_let_in_by_no_rule_about_hosts(tmp_path: Path, server: str) -> None:
    port = one_port()
    with mesh_of(tmp_path, ABOUT_HOSTS["the listener's filter"](port)) as mesh, SERVERS[server](mesh, port):
        assert raw_status(port, [(":authority", ""), *GRPC]) != "0"
        assert raw_status(port, GRPC) != "0"
        assert raw_status(port, [("host", CLOSED), *GRPC]) != "0"
        if server == TELLS_HOSTS:
            assert raw_status(port, [(":authority", "open.example"), ("host", CLOSED), *GRPC]) == "0"


@pytest.mark.parametrize("server", SERVERS)
def test_the_event_of_a_refused_call_has_both_statuses(
    tmp_path: Path, server: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = one_port()
    with (
        mesh_of(tmp_path, listener(port, [named(rbac(header("x-role", "evil")))])) as mesh,
        SERVERS[server](mesh, port),
        caplog.at_level(logging.WARNING, "meshsdk.audit"),
    ):
        # Of a flood, as of the tests before, events are left out.
        while not (events := [record.mesh for record in caplog.records if hasattr(record, "mesh")]):
            assert outcome(port, "a", [("x-role", "evil")]) is grpc.StatusCode.PERMISSION_DENIED
    event = events[0]
    assert (event["status"], event["grpc_status"]) == (403, 7)


def test_the_event_of_a_refused_request_has_its_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = one_port()
    with (
        mesh_of(tmp_path, over_http(listener(port, [named(DENY_ALL)]))) as mesh,
        serving(echo, mesh, port),
        caplog.at_level(logging.WARNING, "meshsdk.audit"),
    ):
        seen: set[tuple[int, int | str]] = set()
        while len(seen) < 2:
            assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 403
            answer = httpx.post(f"http://127.0.0.1:{port}/a/B", headers={"content-type": "application/grpc"})
            assert (answer.status_code, answer.headers["grpc-status"]) == (200, "7")
            events = [record.mesh for record in caplog.records if hasattr(record, "mesh")]
            seen = {(event["status"], event["grpc_status"]) for event in events}
    assert seen == {(403, "-"), (403, 7)}


def test_what_a_cluster_of_a_split_says_of_filters_holds_for_its_share(tmp_path: Path) -> None:
    port = one_port()
    open_ = {"name": "open", "weight": 1}
    closed = {"name": "closed", "weight": 1, "typed_per_filter_config": on_route(DENY_ALL)}
    clusters = {"clusters": [open_, closed], "header_name": "x-point"}
    route = {"match": {"prefix": "/"}, "route": {"weighted_clusters": clusters}}
    yaml = over_http(listener(port, [RBAC], [host("v", "*", route)]))
    with mesh_of(tmp_path, yaml) as mesh, serving(echo, mesh, port), httpx.Client() as client:
        seen = [
            client.get(f"http://127.0.0.1:{port}/", headers={"x-point": str(point)}).status_code for point in range(4)
        ]
    assert seen == [200, 403, 200, 403]


@contextlib.contextmanager
def plain_uvicorn(mesh: meshsdk.Mesh, known_port: int, **options: Any) -> Iterator[None]:
    """uvicorn as it is, around an application with MeshMiddleware."""
    config = uvicorn.Config(MeshMiddleware(echo, mesh=mesh, port=known_port), log_level="critical", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + PATIENCE
    while not server.started and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.005)
    assert server.started
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize(("ports", "status"), [("8080", 403), ("9090", 200)])
def test_on_a_unix_socket_the_port_is_the_one_that_configuration_knows(tmp_path: Path, ports: str, status: int) -> None:
    rule = policy(f"{{action: DENY, rules: [{{to: [{{operation: {{ports: ['{ports}']}}}}]}}]}}")
    socket_path = str(tmp_path / "s")
    with (
        mesh_of(tmp_path, service("web", 8080) + rule) as mesh,
        plain_uvicorn(mesh, 8080, uds=socket_path),
        httpx.Client(transport=httpx.HTTPTransport(uds=socket_path)) as client,
    ):
        assert client.get("http://web/").status_code == status


@pytest.mark.parametrize(
    "source",
    ["principals: ['cluster.local/ns/default/sa/evil']", "notPrincipals: ['cluster.local/ns/default/sa/good']"],
)
def test_no_rule_about_peers_is_passed_where_the_server_does_not_tell_them(tmp_path: Path, source: str) -> None:
    port, ca = one_port(), SpiffeCa()
    for name in ("web", "evil"):
        write_identity(tmp_path / name, ca.issue(spiffe(name), dns=("localhost",)), ca.pem)
    rule = policy(f"{{action: DENY, rules: [{{from: [{{source: {{{source}}}}}]}}]}}")
    tls = {"ssl_certfile": str(tmp_path / "web" / "cert.pem"), "ssl_keyfile": str(tmp_path / "web" / "key.pem")}
    tls |= {"ssl_ca_certs": str(tmp_path / "web" / "roots.pem"), "ssl_cert_reqs": ssl.CERT_REQUIRED}  # type: ignore[dict-item]
    verify = ssl.create_default_context(cadata=ca.pem.decode())
    verify.load_cert_chain(tmp_path / "evil" / "cert.pem", tmp_path / "evil" / "key.pem")
    with (
        mesh_of(tmp_path, service("web", port) + rule) as mesh,
        plain_uvicorn(mesh, port, host="127.0.0.1", port=port, **tls),
    ):
        assert httpx.get(f"https://localhost:{port}/", verify=verify).status_code in (403, 503)


def chains(port: int, match: dict[str, Any]) -> str:
    """Whoever fits gets in, and everybody else is denied."""
    document = json.loads(over_http(listener(port, [], chain={"filter_chain_match": match, "name": "open"})))
    others = json.loads(listener(port, [named(DENY_ALL)], chain={"name": "closed"}))
    return json.dumps({**document, "filter_chains": document["filter_chains"] + others["filter_chains"]})


def asking(port: int) -> str:
    """Another server is asked, which may have rules about peers and their addresses."""
    config = {
        "@type": f"{HTTP}.ext_authz.v3.ExtAuthz",
        "grpc_service": {"envoy_grpc": {"cluster_name": "none"}},
        "failure_mode_allow": True,
    }
    return over_http(listener(port, [named(config, "ext_authz")]))


# What a server that shows no socket, and believes any proxy, may have from the caller.
BY_THE_CONNECTION: dict[str, Make] = {
    "a chain for some sources": lambda port: chains(
        port, {"source_prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}
    ),
    "a chain for some direct sources": lambda port: chains(
        port, {"direct_source_prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}
    ),
    "a chain for others than this machine": lambda port: chains(port, {"source_type": "EXTERNAL"}),
    "a chain for source ports": lambda port: chains(port, {"source_ports": [0]}),
    "a chain for TLS": lambda port: chains(port, {"transport_protocol": "tls"}),
    "a chain for protocols of TLS": lambda port: chains(port, {"application_protocols": ["http/1.1", "h2c"]}),
    "a virtual host that wants TLS": lambda port: over_http(
        listener(port, [], [host("v", "*", OPEN, require_tls="ALL")])
    ),
    "a virtual host that wants TLS from outside": lambda port: over_http(
        listener(port, [], [host("v", "*", OPEN, require_tls="EXTERNAL_ONLY")])
    ),
    "another server's rules": asking,
}


@pytest.mark.parametrize("place", BY_THE_CONNECTION)
def test_nothing_is_decided_by_what_a_caller_says_of_its_connection(tmp_path: Path, place: str) -> None:
    port = one_port()
    with mesh_of(tmp_path, BY_THE_CONNECTION[place](port)) as mesh:
        inner = MeshMiddleware(echo, mesh=mesh, port=port)

        async def hidden(scope: Any, receive: Any, send: Any) -> None:
            async def received() -> Any:
                return await receive()

            await inner(scope, received, send)

        config = uvicorn.Config(
            hidden, host="127.0.0.1", port=port, log_level="critical", forwarded_allow_ips="*", lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            until = time.monotonic() + PATIENCE
            while not server.started and thread.is_alive() and time.monotonic() < until:
                time.sleep(0.005)
            said = {"x-forwarded-for": "10.0.0.1", "x-forwarded-proto": "https"}
            assert httpx.get(f"http://127.0.0.1:{port}/", headers=said).status_code == 503
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()
