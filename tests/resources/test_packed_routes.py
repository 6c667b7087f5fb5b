"""Routes of many hosts, of which one is parsed when it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from meshsdk.errors import ResourceError
from meshsdk.resources import ResourceType, decode
from meshsdk.resources.route import PackedRoutes, parse_packed_routes
from meshsdk.routing.virtual_hosts import VirtualHostIndex


def virtual_host(name: str, *domains: str, **fields: Any) -> dict[str, Any]:
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": name}}]
    return {"name": name, "domains": domains, "routes": routes, **fields}


def packed(*virtual_hosts: dict[str, Any], **fields: Any) -> bytes:
    data = {"name": "80", "virtual_hosts": virtual_hosts, **fields}
    return bytes(json_format.ParseDict(data, route_pb2.RouteConfiguration()).SerializeToString())


def found(routes: PackedRoutes, host: str, port: int = 80) -> str:
    virtual_host = routes.find(host, port)
    return "" if virtual_host is None else virtual_host.parse().virtual_hosts[0].name


MANY = packed(
    virtual_host("a", "a", "A.Default", "10.0.0.1"),
    virtual_host("suffix", "*.example.com"),
    virtual_host("longer", "*.x.example.com"),
    virtual_host("prefix", "www.*"),
    virtual_host("any", "*"),
    virtual_host("port", "a:81"),
    ignore_port_in_host_matching=True,
)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a", "a"),
        ("A", "a"),
        ("a.default", "a"),
        ("10.0.0.1", "a"),
        ("b.example.com", "suffix"),
        (".example.com", "any"),
        ("b.x.example.com", "longer"),
        ("www.org", "prefix"),
        ("www.example.com", "suffix"),
        ("other", "any"),
    ],
)
def test_the_virtual_host_of_a_host_is_found_as_envoy_finds_it(host: str, name: str) -> None:
    assert found(parse_packed_routes(MANY), host) == name


def test_where_ports_are_looked_at_a_domain_with_the_port_comes_first() -> None:
    routes = parse_packed_routes(packed(virtual_host("a", "a"), virtual_host("port", "a:81")))
    assert [found(routes, "a", port) for port in (80, 81)] == ["a", "port"]
    assert found(routes, "none") == ""


def test_what_all_virtual_hosts_have_in_common_is_each_ones() -> None:
    added = [{"header": {"key": "x-all", "value": "1"}}]
    routes = parse_packed_routes(packed(virtual_host("a", "a"), request_headers_to_add=added, vhost_header=""))
    one = routes.find("a", 80)
    assert one is not None
    assert one.parse().request_headers == routes.common.request_headers
    assert one.parse().name == "80"


def test_a_broken_virtual_host_is_told_of_when_it_is_asked_for_and_not_before() -> None:
    broken = virtual_host("b", "b")
    broken["routes"][0]["match"] = {"safe_regex": {"regex": "("}}
    routes = parse_packed_routes(packed(virtual_host("a", "a"), broken))
    assert found(routes, "a") == "a"
    one = routes.find("b", 80)
    assert one is not None
    with pytest.raises(ResourceError, match="regex"):
        one.parse()


@pytest.mark.parametrize("end", range(1, 60))
def test_bytes_that_end_in_the_middle_are_refused_or_mean_what_they_say(end: int) -> None:
    try:
        routes = parse_packed_routes(MANY[:end])
    except ResourceError:
        return
    assert isinstance(found(routes, "nobody"), str)


@given(st.binary(max_size=80))
def test_no_bytes_are_a_fault(data: bytes) -> None:
    try:
        routes = decode(ResourceType.ROUTE_CONFIGURATION, data, sidecar_profile=True)
        for domain, _ in routes.wildcards:
            routes.find(domain.replace("*", "x"), 80)
    except ResourceError:
        pass


_LABELS = st.sampled_from(["a", "b", "c.d", "*", "*.d", "c.*", "A", "*.c.d", "a:80"])


@given(
    st.lists(_LABELS, min_size=1, max_size=8, unique_by=str.lower), st.sampled_from(["a", "c.d", "x.c.d", "c.x", "d"])
)
def test_the_same_is_found_as_by_routes_that_are_all_parsed(domains: list[str], host: str) -> None:
    routes = parse_packed_routes(
        packed(
            *(virtual_host(f"v{place}", one) for place, one in enumerate(domains)), ignore_port_in_host_matching=True
        )
    )
    index = VirtualHostIndex({one.lower(): f"v{place}" for place, one in enumerate(domains)}, ignore_port=True)
    assert found(routes, host) == (index.find(host) or "")
