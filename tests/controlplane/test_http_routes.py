"""Fields of a VirtualService's http routes as istiod translates them (route.go, retry.go)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshsdk.controlplane.folder import load
from meshsdk.resources import ResourceType, decode
from tests.conftest import destination_rule, service, virtual_service

HOST = "a.default.svc.cluster.local"
TO_A = "route: [{destination: {host: a}}]"


def route_of(folder: Path, http: str, more: str = "") -> Any:
    (folder / "m.yaml").write_text(service("a", 8081) + virtual_service("a", f"[{{{http}}}]") + more)
    state = load(folder)
    assert not state.errors
    packed = state.grpc[(ResourceType.ROUTE_CONFIGURATION, f"outbound|80||{HOST}")]
    return decode(ResourceType.ROUTE_CONFIGURATION, packed).virtual_hosts[0].routes[0]


@pytest.mark.parametrize(
    ("redirect", "port"),
    [
        ("{scheme: https, port: 443}", None),
        ("{port: 80}", None),
        ("{port: 443}", 443),
        ("{scheme: https, port: 80}", 80),
        ("{scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}", None),
        ("{scheme: https, derivePort: FROM_REQUEST_PORT}", 80),
        ("{derivePort: FROM_REQUEST_PORT}", None),
    ],
)
def test_a_redirect_names_no_port_that_is_its_schemes(tmp_path: Path, redirect: str, port: int | None) -> None:
    assert (route_of(tmp_path, f"redirect: {redirect}").action.port or None) == port


@pytest.mark.parametrize(
    ("mirror", "share"),
    [
        ("", 100.0),
        (", mirrorPercent: 25", 25.0),
        (", mirrorPercent: 0", None),
        (", mirrorPercentage: {value: 0}", None),
        (", mirrorPercentage: {value: 0.5}, mirrorPercent: 7", 0.5),
    ],
)
def test_a_mirror_gets_the_share_that_is_said_and_none_of_zero(
    tmp_path: Path, mirror: str, share: float | None
) -> None:
    mirrors = route_of(tmp_path, f"{TO_A}, mirror: {{host: a}}{mirror}").action.mirrors
    assert [one.fraction.numerator * 100 / one.fraction.denominator for one in mirrors] == ([share] if share else [])


@pytest.mark.parametrize(
    ("fault", "delay", "abort"),
    [
        ("{abort: {httpStatus: 418}}", 0, 0),
        ("{abort: {httpStatus: 418, percentage: {value: 30}}}", 0, 30),
        ("{delay: {fixedDelay: 1s}}", 0, 0),
        ("{delay: {fixedDelay: 1s, percent: 20}}", 20, 0),
        ("{delay: {fixedDelay: 1s, percentage: {value: 10}, percent: 20}}", 10, 0),
    ],
)
def test_a_fault_without_a_percentage_happens_to_nobody(tmp_path: Path, fault: str, delay: int, abort: int) -> None:
    made = route_of(tmp_path, f"{TO_A}, fault: {fault}").filters[0].setting
    shares = (made.delay_share, made.abort_share)
    assert tuple(round(one.numerator * 100 / one.denominator) for one in shares) == (delay, abort)


def test_a_fault_may_end_a_call_with_a_status_of_grpc(tmp_path: Path) -> None:
    route = route_of(tmp_path, f"{TO_A}, fault: {{abort: {{grpcStatus: DATA_LOSS, percentage: {{value: 100}}}}}}")
    assert route.filters[0].setting.abort_grpc_status == 15


@pytest.mark.parametrize("name", ["Host", "host", "':authority'"])
@pytest.mark.parametrize("level", ["route", "destination"])
def test_a_host_header_that_is_set_rewrites_the_host(tmp_path: Path, level: str, name: str) -> None:
    headers = f"headers: {{request: {{set: {{{name}: b.example, x-a: b}}}}}}"
    http = f"{TO_A}, {headers}" if level == "route" else f"route: [{{destination: {{host: a}}, {headers}}}]"
    route = route_of(tmp_path, http)
    assert route.action.host_rewrite == "b.example"
    assert [one.name for one in route.request_headers.add] == ["x-a"]


HASHED = destination_rule("a", "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}")


@pytest.mark.parametrize(
    ("retries", "more", "goes_elsewhere"),
    [
        ("attempts: 3", "", True),
        ("attempts: 3, retryIgnorePreviousHosts: false", "", False),
        ("attempts: 3", HASHED, False),
        ("attempts: 3, retryIgnorePreviousHosts: true", HASHED, True),
    ],
)
def test_a_retry_stays_with_its_host_where_requests_are_hashed(
    tmp_path: Path, retries: str, more: str, goes_elsewhere: bool
) -> None:
    policy = route_of(tmp_path, f"{TO_A}, retries: {{{retries}}}", more).action.retry_policy
    assert policy.avoid_previous_hosts is goes_elsewhere


def test_retries_wait_and_look_elsewhere_as_they_are_told(tmp_path: Path) -> None:
    retries = "retries: {attempts: 3, backoff: 50ms, retryRemoteLocalities: true}"
    policy = route_of(tmp_path, f"{TO_A}, {retries}").action.retry_policy
    assert policy.back_off.base_seconds == 0.05
    assert policy.retry_other_priorities == 2


def test_a_destination_without_weight_among_others_gets_nothing(tmp_path: Path) -> None:
    http = "route: [{destination: {host: a}, weight: 0}, {destination: {host: a, port: {number: 80}}, weight: 5}]"
    assert [cluster.weight for cluster in route_of(tmp_path, http).action.clusters] == [5]


def test_what_is_for_gateways_is_no_route_of_a_client(tmp_path: Path) -> None:
    http = (
        "name: first, match: [{gateways: [out]}, {gateways: [mesh, out], uri: {prefix: /x}}], " + TO_A + "}, "
        "{name: second, match: [{gateways: [out]}], " + TO_A + "}, {name: third, " + TO_A
    )
    (tmp_path / "m.yaml").write_text(service("a", 8081) + virtual_service("a", f"[{{{http}}}]"))
    packed = load(tmp_path).grpc[(ResourceType.ROUTE_CONFIGURATION, f"outbound|80||{HOST}")]
    routes = decode(ResourceType.ROUTE_CONFIGURATION, packed).virtual_hosts[0].routes
    assert [(route.name, route.match.path.value) for route in routes] == [("first", "/x"), ("third", "/")]


@pytest.mark.parametrize("port", ["name: tcp-a", "name: x, appProtocol: tcp", "name: https", "name: tls-a"])
def test_rules_of_requests_are_not_for_ports_that_carry_bytes(tmp_path: Path, port: str) -> None:
    yaml = service("a", 8081).replace("name: http, port: 80", f"{port}, port: 80")
    (tmp_path / "m.yaml").write_text(yaml + virtual_service("a", "[{directResponse: {status: 418}}]"))
    packed = load(tmp_path).grpc[(ResourceType.ROUTE_CONFIGURATION, f"outbound|80||{HOST}")]
    [route] = decode(ResourceType.ROUTE_CONFIGURATION, packed).virtual_hosts[0].routes
    assert [cluster.name for cluster in route.action.clusters] == [f"outbound|80||{HOST}"]
    assert route.action.retry_policy is None
