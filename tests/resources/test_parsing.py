"""Resources are validated by Envoy's own rules, and each error names the resource and the field."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac_filter_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsdk import ResourceError
from meshsdk.resources import Cluster, EdsDiscovery, ResourceType, RouteConfiguration, decode
from meshsdk.resources.cluster import at_original
from meshsdk.resources.filters.rbac import parse_rbac
from meshsdk.resources.filters.set_filter_state import parse_set_filter_state
from meshsdk.resources.notes import Notes

KINDS: dict[ResourceType, type[Message]] = {
    ResourceType.LISTENER: listener_pb2.Listener,
    ResourceType.ROUTE_CONFIGURATION: route_pb2.RouteConfiguration,
    ResourceType.CLUSTER: cluster_pb2.Cluster,
    ResourceType.ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
}


def parse(kind: ResourceType, data: dict[str, Any]) -> Any:
    return decode(kind, json_format.ParseDict(data, KINDS[kind]()).SerializeToString())


def routes(**route: Any) -> dict[str, Any]:
    return {
        "name": "r",
        "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}],
    }


_TYPE = "type.googleapis.com"
ROUTER = {"name": "router", "typed_config": {"@type": f"{_TYPE}/{router_pb2.Router.DESCRIPTOR.full_name}"}}


def server_listener(**manager: Any) -> dict[str, Any]:
    settings = {
        "@type": f"{_TYPE}/{http_connection_manager_pb2.HttpConnectionManager.DESCRIPTOR.full_name}",
        "stat_prefix": "s",
        "route_config": routes(non_forwarding_action={}),
        "http_filters": [ROUTER],
        **manager,
    }
    return {"name": "l", "filter_chains": [{"filters": [{"name": "manager", "typed_config": settings}]}]}


def denying(ports: dict[str, int]) -> dict[str, Any]:
    policy = {"permissions": [{"destination_port_range": ports}], "principals": [{"any": True}]}
    rules = {"action": "DENY", "policies": {"one": policy}}
    config = {"@type": f"{_TYPE}/{rbac_filter_pb2.RBAC.DESCRIPTOR.full_name}", "rules": rules}
    return {"name": "rbac", "typed_config": config}


EDS = {"name": "c", "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}}


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        (ResourceType.CLUSTER, {**EDS, "connect_timeout": "-1s"}, "Cluster.connect_timeout"),
        (ResourceType.CLUSTER, {**EDS, "name": ""}, "Cluster.name"),
        (ResourceType.CLUSTER, {"name": "c", "type": "STATIC"}, "Cluster.load_assignment"),
        (ResourceType.CLUSTER, {"name": "c", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}, "Cluster.type"),
        (
            ResourceType.CLUSTER,
            {**EDS, "least_request_lb_config": {"choice_count": 1}, "lb_policy": "LEAST_REQUEST"},
            "Cluster.least_request_lb_config.choice_count",
        ),
        (ResourceType.ROUTE_CONFIGURATION, routes(), "action"),
        (ResourceType.ROUTE_CONFIGURATION, routes(route={}), "routes[0].route.cluster_specifier"),
        (
            ResourceType.ROUTE_CONFIGURATION,
            routes(match={"safe_regex": {"regex": "("}}, route={"cluster": "c"}),
            "match.safe_regex.regex",
        ),
        (
            ResourceType.ROUTE_CONFIGURATION,
            routes(route={"weighted_clusters": {"clusters": [{"name": "a", "weight": 0}]}}),
            "weighted_clusters.clusters",
        ),
        (
            ResourceType.ROUTE_CONFIGURATION,
            {"virtual_hosts": [{"name": n, "domains": ["a"]} for n in ("v", "w")]},
            "virtual_hosts[1].domains",
        ),
        (
            ResourceType.ROUTE_CONFIGURATION,
            {"virtual_hosts": [{"name": "v", "domains": ["a.*.b"]}]},
            "virtual_hosts[0].domains",
        ),
        (ResourceType.ENDPOINTS, {"cluster_name": ""}, "cluster_name"),
        (
            ResourceType.ENDPOINTS,
            {"cluster_name": "c", "endpoints": [{"priority": 200}]},
            "endpoints[0].priority",
        ),
        (
            ResourceType.ENDPOINTS,
            {
                "cluster_name": "c",
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {"endpoint": {"address": {"socket_address": {"address": "a.example", "port_value": 1}}}}
                        ]
                    }
                ],
            },
            "socket_address.address",
        ),
        (ResourceType.LISTENER, {"name": "l"}, "Listener.filter_chains"),
        (ResourceType.LISTENER, server_listener(http_filters=[]), "http_filters"),
        (ResourceType.LISTENER, server_listener(http_filters=[denying({"start": 10, "end": 5}), ROUTER]), "port_range"),
        (ResourceType.LISTENER, server_listener(http_filters=[denying({"start": 5, "end": 5}), ROUTER]), "port_range"),
        (
            ResourceType.LISTENER,
            server_listener(http_filters=[denying({"start": 5, "end": 70000}), ROUTER]),
            "port_range",
        ),
        (
            ResourceType.LISTENER,
            server_listener(common_http_protocol_options={"headers_with_underscores_action": 9}),
            "headers_with_underscores_action",
        ),
    ],
)
def test_a_broken_rule_names_the_field(kind: ResourceType, data: dict[str, Any], field: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse(kind, data)
    assert field in caught.value.field


def test_a_fault_of_a_parser_refuses_the_resource_and_is_told_to_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise KeyError("who would have thought")

    monkeypatch.setattr("meshsdk.resources.listener.server_listener.parse_request_rules", fails)
    with pytest.raises(ResourceError, match="l: Listener: cannot be read: KeyError.*who would have thought"):
        parse(ResourceType.LISTENER, server_listener())


def test_the_error_carries_the_name_of_the_resource() -> None:
    with pytest.raises(ResourceError, match="^outbound: Cluster.connect_timeout"):
        parse(ResourceType.CLUSTER, {**EDS, "name": "outbound", "connect_timeout": "-1s"})


def test_a_condition_on_what_only_a_proxy_has_never_holds_and_says_so() -> None:
    metadata = [{"filter": "f", "path": [{"key": "k"}], "value": {"present_match": True}}]
    parsed = parse(
        ResourceType.ROUTE_CONFIGURATION,
        routes(match={"prefix": "/", "dynamic_metadata": metadata}, route={"cluster": "c"}),
    )
    assert "dynamic metadata" in parsed.virtual_hosts[0].routes[0].match.never


def test_a_condition_newer_than_the_library_is_refused_rather_than_ignored() -> None:
    message = route_pb2.RouteConfiguration(name="r")
    match = message.virtual_hosts.add(name="v", domains=["*"]).routes.add().match
    # Field 100 of RouteMatch, which does not exist yet: a string.
    match.MergeFromString(b"\x0a\x01/" + b"\xa2\x06\x01x")
    message.virtual_hosts[0].routes[0].route.cluster = "c"
    with pytest.raises(ResourceError, match="newer than this meshsdk"):
        decode(ResourceType.ROUTE_CONFIGURATION, message.SerializeToString())


def test_a_field_that_is_not_acted_on_is_noted() -> None:
    parsed = parse(ResourceType.CLUSTER, {**EDS, "track_timeout_budgets": True})
    assert parsed.notes == ("Cluster.track_timeout_budgets: is not acted on",)


def test_the_first_thresholds_of_a_priority_count_and_unset_limits_have_defaults() -> None:
    thresholds = [
        {"max_requests": 7, "retry_budget": {"budget_percent": {"value": 25}}},
        {"max_requests": 9},
        {"priority": "HIGH", "max_retries": 0},
    ]
    breakers = parse(ResourceType.CLUSTER, {**EDS, "circuit_breakers": {"thresholds": thresholds}}).circuit_breakers
    assert (breakers.default.max_requests, breakers.default.max_pending_requests) == (7, 1024)
    assert (breakers.default.retry_budget_percent, breakers.default.min_retry_concurrency) == (25.0, 3)
    assert (breakers.high.max_requests, breakers.high.max_retries) == (1024, 0)


def test_the_default_timeout_is_fifteen_seconds_and_zero_disables_it() -> None:
    default: RouteConfiguration = parse(ResourceType.ROUTE_CONFIGURATION, routes(route={"cluster": "c"}))
    assert default.virtual_hosts[0].routes[0].action.timeout_seconds == 15.0
    disabled = parse(ResourceType.ROUTE_CONFIGURATION, routes(route={"cluster": "c", "timeout": "0s"}))
    assert disabled.virtual_hosts[0].routes[0].action.timeout_seconds is None


TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


def spiffe_validator(*domains: str, kind: str = "URI") -> dict[str, Any]:
    """A CommonTlsContext that trusts by SPIFFE trust domains."""
    named = [{"name": one, "trust_bundle": {"inline_string": "roots"}} for one in domains]
    config = {"@type": TLS.replace("UpstreamTlsContext", "SPIFFECertValidatorConfig"), "trust_domains": named}
    names = [{"san_type": kind, "matcher": {"exact": "x"}}]
    validator = {"name": "envoy.tls.cert_validator.spiffe", "typed_config": config}
    return {"validation_context": {"custom_validator_config": validator, "match_typed_subject_alt_names": names}}


@pytest.mark.parametrize(
    ("common", "problem"),
    [
        ({}, "the peer could be anyone"),
        ({"validation_context": {}}, "trusted_ca"),
        ({"validation_context": {"system_root_certs": {}, "max_verify_depth": 2}}, "not carried out"),
        ({"validation_context": {"system_root_certs": {}, "allow_expired_certificate": True}}, "could be anyone"),
        (
            {"validation_context": {"system_root_certs": {}, "verify_certificate_hash": ["ab"]}},
            "verify_certificate_hash",
        ),
        (spiffe_validator(), "trust_domains: (names none|must have at least 1)"),
        (spiffe_validator("a", "a"), "names a trust domain twice"),
        (spiffe_validator("a", kind="DNS"), "looks at URIs only"),
        (
            {"validation_context": {"custom_validator_config": {"name": "x", "typed_config": {"@type": TLS}}}},
            "custom_validator_config.typed_config",
        ),
    ],
)
def test_tls_that_cannot_be_verified_is_refused(common: dict[str, Any], problem: str) -> None:
    socket = {"name": "tls", "typed_config": {"@type": TLS, "common_tls_context": common}}
    with pytest.raises(ResourceError, match=problem):
        parse(ResourceType.CLUSTER, {**EDS, "transport_socket": socket})


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(list(ResourceType)), packed=st.binary(max_size=300))
def test_hostile_bytes_end_in_a_resource_or_a_resource_error(kind: ResourceType, packed: bytes) -> None:
    try:
        decode(kind, packed)
    except ResourceError as error:
        assert error.field


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_resource_ends_in_a_resource_or_a_resource_error(data: st.DataObject) -> None:
    good = bytearray(
        json_format.ParseDict(
            routes(route={"cluster": "c", "retry_policy": {"retry_on": "5xx"}}), route_pb2.RouteConfiguration()
        ).SerializeToString()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        decode(ResourceType.ROUTE_CONFIGURATION, bytes(good[:cut]))
    except ResourceError as error:
        assert str(error)


def rbac_with(condition: dict[str, Any]) -> Message:
    anything: dict[str, Any] = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    message = json_format.ParseDict(
        {"rules": {"policies": {"one": {**anything, "condition": condition}}}}, rbac_filter_pb2.RBAC()
    )
    container = any_pb2.Any()
    container.Pack(message)
    return container


def select(root: str, attribute: str) -> dict[str, Any]:
    return {"select_expr": {"operand": {"ident_expr": {"name": root}}, "field": attribute}}


def test_a_cel_condition_without_its_library_is_refused_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    condition = rbac_with(select("connection", "mtls"))
    assert parse_rbac(condition, "RBAC", Notes()).rules is not None
    monkeypatch.setitem(sys.modules, "cel_expr_python", None)
    with pytest.raises(ResourceError, match=r"policies\['one'\].condition.*meshsdk\[cel\]"):
        parse_rbac(condition, "RBAC", Notes())


@pytest.mark.parametrize(
    ("condition", "what"),
    [
        (select("request", "body"), "request.body is an attribute"),
        (select("response", "code"), "response.code is an attribute"),
        ({"ident_expr": {"name": "request"}}, "without an attribute"),
        ({"comprehension_expr": {"iter_var": "x"}}, "comprehension_expr is refused"),
        ({"call_expr": {"function": "string", "args": [{"const_expr": {"int64_value": "1"}}]}}, "calls 'string'"),
        ({"call_expr": {"function": "_+_", "args": []}}, "calls '_[+]_'"),
        ({}, "an empty expression"),
    ],
)
def test_what_a_cel_condition_may_not_ask_is_refused_by_name(condition: dict[str, Any], what: str) -> None:
    with pytest.raises(ResourceError, match=what):
        parse_rbac(rbac_with(condition), "RBAC", Notes())


def test_a_cel_condition_nested_without_end_is_refused() -> None:
    condition = select("connection", "mtls")
    for _ in range(30):
        condition = {"call_expr": {"function": "!_", "args": [condition]}}
    with pytest.raises(ResourceError, match="nested deeper"):
        parse_rbac(rbac_with(condition), "RBAC", Notes())


@pytest.mark.parametrize("name", ["a", ":80|80||a", f"a:{'9' * 5000}", "a:65536|80||a", "a:٣"])
def test_a_name_that_says_no_host_and_port_stands_for_none(name: str) -> None:
    cluster = Cluster("c", EdsDiscovery("c"))
    with pytest.raises(ResourceError, match="is to say a host and port"):
        at_original(cluster, f"original_dst@{name}")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"object_key": "wasm.x", "format_string": {"text_format": "x"}}, "factory_key: 'wasm.x' is refused"),
        ({"object_key": "envoy.string", "format_string": {"json_format": {}}}, "format_string.json_format"),
    ],
)
def test_filter_state_of_other_kinds_is_refused(value: dict[str, Any], problem: str) -> None:
    container = any_pb2.Any()
    container.Pack(json_format.ParseDict({"on_request_headers": [value]}, set_filter_state_pb2.Config()))
    with pytest.raises(ResourceError, match=problem):
        parse_set_filter_state(container, "filter", Notes())
