"""What istiod puts into a sidecar's inbound listener: filters of one name, filters of its own, chains of bytes."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import any_pb2, json_format
from udpa.type.v1 import typed_struct_pb2

from meshsdk.discovery import ServerView
from meshsdk.errors import ResourceError
from meshsdk.exchange import LocalReply
from meshsdk.inbound import Connection, InboundPolicy, InboundRequest, compile_policy
from meshsdk.resources import ResourceType, ServerListener, decode
from meshsdk.routing import RequestHead
from meshsdk.security import PeerCertificate

PEER = PeerCertificate((("URI", "spiffe://x/friend"),), "", "00", b"", ("spiffe://x/friend",), "spiffe://x/friend")
EXCHANGE = typed_struct_pb2.TypedStruct(
    type_url="type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange"
)
PROXY = tcp_proxy_pb2.TcpProxy(stat_prefix="x", cluster="inbound|81||")


def rbac(action: str, path: str) -> rbac_pb2.RBAC:
    policy = {"permissions": [{"url_path": {"path": {"exact": path}}}], "principals": [{"any": True}]}
    return json_format.ParseDict({"rules": {"action": action, "policies": {"p": policy}}}, rbac_pb2.RBAC())


def manager(*filters: rbac_pb2.RBAC) -> Any:
    found = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="x")
    route = {"match": {"prefix": "/"}, "non_forwarding_action": {}}
    hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
    json_format.ParseDict({"name": "inbound", "virtual_hosts": hosts}, found.route_config)
    for config in (*filters, router_pb2.Router()):
        name = "router" if isinstance(config, router_pb2.Router) else "envoy.filters.http.rbac"
        found.http_filters.add(name=name).typed_config.Pack(config)
    return found


def listener(*chains: tuple[dict[str, Any], list[Any]]) -> ServerListener:
    message = listener_pb2.Listener(name="virtualInbound", traffic_direction="INBOUND")
    message.address.socket_address.address, message.address.socket_address.port_value = "0.0.0.0", 15006
    for match, filters in chains:
        chain = message.filter_chains.add()
        json_format.ParseDict(match, chain.filter_chain_match)
        for config in filters:
            packed = any_pb2.Any()
            packed.Pack(config)
            chain.filters.add(name="x").typed_config.CopyFrom(packed)
    found = decode(ResourceType.LISTENER, message.SerializeToString(), sidecar_profile=True)
    assert isinstance(found, ServerListener)
    return found


def policy(*chains: tuple[dict[str, Any], list[Any]]) -> InboundPolicy:
    return compile_policy(ServerView(listener(*chains)), None)


def status(of: InboundPolicy, path: str, **connection: Any) -> int:
    """0 is let in."""
    head = RequestHead("GET", "http", "a", path, [(b"host", b"a")])
    request = InboundRequest(head, Connection(destination_port=80, **connection))
    answer = of.begin(request)
    assert answer is None or isinstance(answer, LocalReply)
    return 0 if answer is None else answer.status


def test_three_filters_of_one_name_are_three_filters() -> None:
    one = policy(({}, [manager(rbac("LOG", "/audited"), rbac("DENY", "/denied"), rbac("ALLOW", "/allowed"))]))
    assert [status(one, path) for path in ("/allowed", "/denied", "/other")] == [0, 403, 403]


def test_what_istio_puts_before_the_connection_manager_is_known() -> None:
    found = listener(({}, [EXCHANGE, manager()]))
    assert found.notes == ()
    assert found.chains[0].manager is not None


def test_what_is_not_known_before_it_refuses_the_listener() -> None:
    unknown = typed_struct_pb2.TypedStruct(type_url="type.googleapis.com/x.Unknown")
    with pytest.raises(ResourceError, match=r"filter_chains\[0\].*x\.Unknown"):
        listener(({}, [unknown, manager()]))
    with pytest.raises(ResourceError, match=r"filters\.network\.rbac"):
        listener(({}, [network_rbac_pb2.RBAC(stat_prefix="x"), manager()]))


def test_chains_of_bytes_refuse_their_connections_and_not_the_listener() -> None:
    found = listener(
        ({"destination_port": 15006}, [PROXY]),
        ({"destination_port": 80}, [manager()]),
        ({"destination_port": 81}, [EXCHANGE, network_rbac_pb2.RBAC(stat_prefix="x"), PROXY]),
        ({}, [network_rbac_pb2.RBAC(stat_prefix="x"), PROXY]),
    )
    assert [chain.manager is not None for chain in found.chains] == [False, True, False, False]
    [note] = found.notes
    assert note.startswith("Listener.filter_chains[2]: carries bytes"), (
        "a port of the workload's own, and no other chain"
    )
    one = compile_policy(ServerView(found), None)
    assert status(one, "/") == 0
    head = RequestHead("GET", "http", "a", "/", [(b"host", b"a")])
    refused = one.begin(InboundRequest(head, Connection(destination_port=81)))
    assert isinstance(refused, LocalReply)
    assert refused.status == 503


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        ({}, 0),
        ({"is_tls": True, "peer": PEER}, 0),  # was open when the port went over to plaintext
        ({"is_tls": True}, 503),
    ],
)
def test_a_peer_that_proves_who_it_is_stays_welcome_where_plaintext_is(connection: Any, expected: int) -> None:
    one = policy(({"destination_port": 80, "transport_protocol": "raw_buffer"}, [manager()]))
    assert status(one, "/", **connection) == expected


def test_rules_hold_for_it_as_for_everybody() -> None:
    match = {"destination_port": 80, "transport_protocol": "raw_buffer"}
    one = policy((match, [manager(rbac("DENY", "/denied"))]))
    assert status(one, "/denied", is_tls=True, peer=PEER) == 403


def test_plaintext_is_let_in_nowhere_but_where_a_chain_is_for_it() -> None:
    one = policy(({"destination_port": 80, "transport_protocol": "tls"}, [manager()]))
    assert status(one, "/") == 503
