"""The folder's objects as the xDS that Istio makes of them, and what is said about those that are not translated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshsdk.controlplane.client import Client
from meshsdk.controlplane.folder import FolderState, load
from meshsdk.controlplane.http_rules import HttpRoute, VirtualService
from meshsdk.controlplane.memo import Memo
from meshsdk.controlplane.scope import Scope
from meshsdk.controlplane.virtual_hosts import make_virtual_hosts
from meshsdk.controlplane.world import World
from meshsdk.resources import ResourceType, decode
from meshsdk.resources.route import RetryOn
from tests.conftest import MakeMesh, destination_rule, service, virtual_service
from tests.servers import EchoServer

HOST = "a.default.svc.cluster.local"


def translate(folder: Path, yaml: str) -> FolderState:
    (folder / "m.yaml").write_text(yaml)
    return load(folder)


def resource(state: FolderState, kind: ResourceType, name: str) -> Any:
    return decode(kind, state.grpc[(kind, name)])


def first_route(state: FolderState) -> Any:
    return resource(state, ResourceType.ROUTE_CONFIGURATION, f"outbound|80||{HOST}").virtual_hosts[0].routes[0]


def test_a_service_has_istios_names_domains_and_defaults(tmp_path: Path) -> None:
    state = translate(tmp_path, service("a", 8081))
    assert not state.problems
    name = f"outbound|80||{HOST}"
    assert resource(state, ResourceType.LISTENER, f"{HOST}:80").route_name == name
    host = resource(state, ResourceType.ROUTE_CONFIGURATION, name).virtual_hosts[0]
    assert host.name == f"{HOST}:80"
    names = ("a", "a.default", "a.default.svc", HOST, f"{HOST}.")
    assert {*names, *(f"{name}:80" for name in names)} == set(host.domains)
    action = host.routes[0].action
    assert action.timeout_seconds is None
    assert action.retry_policy.num_retries == 2
    assert action.retry_policy.avoid_previous_hosts
    wanted = RetryOn.CONNECT_FAILURE | RetryOn.REFUSED_STREAM | RetryOn.GRPC_UNAVAILABLE | RetryOn.GRPC_CANCELLED
    wanted |= RetryOn.RETRIABLE_STATUS_CODES
    assert action.retry_policy.conditions == wanted
    cluster = resource(state, ResourceType.CLUSTER, name)
    assert cluster.connect_timeout_seconds == 10.0
    assert type(cluster.lb_policy).__name__ == "LeastRequest"
    assert cluster.circuit_breakers.default.max_requests == 0xFFFFFFFF
    assert len(resource(state, ResourceType.ENDPOINTS, name)) == 1


def test_an_envoy_gets_one_listener_for_each_port_with_all_its_hosts(tmp_path: Path) -> None:
    state = translate(tmp_path, service("a", 1) + "---\n" + service("b", 2))
    listeners = [name for kind, name in state.sidecar if kind is ResourceType.LISTENER]
    assert listeners == ["127.0.0.1_80"]
    routes = decode(ResourceType.ROUTE_CONFIGURATION, state.sidecar[(ResourceType.ROUTE_CONFIGURATION, "80")])
    assert [host.name for host in routes.virtual_hosts] == [
        "a.default.svc.cluster.local:80",
        "b.default.svc.cluster.local:80",
    ]


def test_subsets_become_clusters_with_their_own_endpoints_and_policy(tmp_path: Path) -> None:
    rule = destination_rule(
        "a",
        "trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {connectTimeout: 3s}}},"
        " subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]",
    )
    state = translate(tmp_path, service("a", 1, 2, versions={1: "v1", 2: "v2"}) + rule)
    subset = f"outbound|80|v1|{HOST}"
    endpoints = resource(state, ResourceType.ENDPOINTS, subset)
    assert [e.address.port for locality in endpoints.localities for e in locality.endpoints] == [1]
    assert type(resource(state, ResourceType.CLUSTER, subset).lb_policy).__name__ == "RoundRobin"
    assert resource(state, ResourceType.CLUSTER, subset).connect_timeout_seconds == 3.0
    assert type(resource(state, ResourceType.CLUSTER, f"outbound|80||{HOST}").lb_policy).__name__ == "Random"


def test_matches_retries_faults_and_rewrites_are_translated(tmp_path: Path) -> None:
    state = translate(
        tmp_path,
        service("a", 1)
        + virtual_service(
            "a",
            "[{match: [{uri: {prefix: /x}, method: {exact: PUT}, headers: {h: {regex: 'a.*'}}, withoutHeaders: {n: {}},"
            " queryParams: {q: {exact: '1'}}}], rewrite: {uri: /y}, timeout: 1500ms,"
            " retries: {attempts: 4, perTryTimeout: 0.5s, retryOn: '5xx,418'},"
            " fault: {abort: {httpStatus: 500, percentage: {value: 0.5}}}, route: [{destination: {host: a}}]}]",
        ),
    )
    route = first_route(state)
    assert {header.name for header in route.match.headers} == {":method", "h", "n"}
    assert route.match.query_parameters[0].name == "q"
    assert route.action.prefix_rewrite == "/y"
    assert route.action.timeout_seconds == 1.5
    policy = route.action.retry_policy
    assert (policy.num_retries, policy.per_try_timeout_seconds) == (4, 0.5)
    assert policy.conditions == RetryOn.SERVER_ERROR | RetryOn.RETRIABLE_STATUS_CODES
    assert policy.retriable_status_codes == {418}
    assert route.filters[0].setting.abort_share.share == pytest.approx(0.005)


POD = """
apiVersion: v1
kind: Pod
metadata: {name: a-1, labels: {app: a, version: v7}}
status: {podIP: 10.1.2.3, conditions: [{type: Ready, status: "True"}]}
spec: {containers: [{ports: [{name: web, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a-2, labels: {app: a}}
status: {podIP: 10.1.2.4, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{name: http, port: 80, targetPort: web}]}
"""


def addresses(state: FolderState) -> list[tuple[str, str]]:
    endpoints = resource(state, ResourceType.ENDPOINTS, f"outbound|80||{HOST}")
    return [(str(e.address), e.health.name) for locality in endpoints.localities for e in locality.endpoints]


def test_pods_are_selected_by_labels_with_their_named_port(tmp_path: Path) -> None:
    assert addresses(translate(tmp_path, POD)) == [("10.1.2.3:8080", "UNKNOWN")]


def test_readiness_is_health(tmp_path: Path) -> None:
    state = translate(tmp_path, POD.replace("targetPort: web", "targetPort: 9"))
    assert addresses(state) == [("10.1.2.3:9", "UNKNOWN"), ("10.1.2.4:9", "UNHEALTHY")]


def test_endpoint_slices_and_endpoints_name_their_service(tmp_path: Path) -> None:
    slices = """
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-x, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
endpoints:
- {addresses: [10.0.0.1], zone: eu-west-1a, conditions: {ready: false, terminating: false}}
- {addresses: [10.0.0.2]}
ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: a}
subsets: [{addresses: [{ip: 10.0.0.3}], ports: [{name: http, port: 8081}]}]
"""
    state = translate(tmp_path, slices)
    assert set(addresses(state)) == {("10.0.0.1:8080", "UNHEALTHY"), ("10.0.0.2:8080", "UNKNOWN")}
    without = slices.replace("service-name: a}", "service-name: b}")
    assert set(addresses(translate(tmp_path, without))) == {("10.0.0.3:8081", "UNKNOWN")}


@pytest.mark.parametrize(
    ("resolution", "kind"), [("STATIC", "EDS"), ("DNS", "STRICT_DNS"), ("DNS_ROUND_ROBIN", "LOGICAL_DNS")]
)
def test_a_service_entrys_resolution_is_the_clusters_type(tmp_path: Path, resolution: str, kind: str) -> None:
    endpoints = "endpoints: [{address: 10.0.0.1}]," if resolution == "STATIC" else ""
    state = translate(
        tmp_path,
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\n"
        f"spec: {{hosts: [api.example.com], {endpoints} resolution: {resolution},"
        " ports: [{number: 443, name: http, protocol: HTTP}]}\n",
    )
    assert not state.errors
    assert resource(state, ResourceType.CLUSTER, "outbound|443||api.example.com").kind.value == kind


def test_simple_tls_verifies_the_name_that_it_asks_for(tmp_path: Path) -> None:
    state = translate(
        tmp_path, service("a", 1) + destination_rule("a", "trafficPolicy: {tls: {mode: SIMPLE, sni: x.y}}")
    )
    tls = resource(state, ResourceType.CLUSTER, f"outbound|80||{HOST}").tls
    assert tls.sni == "x.y"
    assert tls.trust.trusted_ca is None
    assert [matcher.value.value for matcher in tls.trust.san_matchers] == ["x.y"]
    state = translate(tmp_path, service("a", 1) + destination_rule("a", "trafficPolicy: {tls: {mode: SIMPLE}}"))
    tls = resource(state, ResourceType.CLUSTER, f"outbound|80||{HOST}").tls
    assert (tls.sni, [matcher.value.value for matcher in tls.trust.san_matchers]) == (HOST, [HOST])


@pytest.mark.parametrize(
    ("timeout", "whole", "stream"), [("timeout: 3s, ", 3.0, 3.0), ("", None, 0.0)], ids=["3s", "none"]
)
def test_grpcs_own_client_is_told_timeouts_as_the_longest_time_of_a_stream(
    tmp_path: Path, timeout: str, whole: float | None, stream: float
) -> None:
    """Which it knows in place of a timeout; to others it would be a second one, that ends requests in another way."""
    rule = virtual_service("a", f"[{{{timeout}route: [{{destination: {{host: a}}}}]}}]")
    state = translate(tmp_path, service("a", 1) + rule)
    name = (ResourceType.ROUTE_CONFIGURATION, f"outbound|80||{HOST}")
    view = state.view(Client())
    for packed, wanted in ((view.grpc[name], None), (view.grpc_core[name], stream)):
        [route] = decode(*name[:1], packed).virtual_hosts[0].routes
        duration = route.action.stream_duration
        assert (duration.max_seconds if duration is not None else None) == wanted
        assert route.action.timeout_seconds == whole
        assert (route.action.max_grpc_timeout_seconds is None) is (wanted is not None)


def test_grpcs_own_client_is_told_nothing_of_a_stream_where_no_rule_says_so(tmp_path: Path) -> None:
    """Nor of a route that sends nothing anywhere."""
    rule = virtual_service("b", "[{redirect: {uri: /x}}]")
    view = translate(tmp_path, service("a", 1) + "---\n" + service("b", 2) + rule).view(Client())
    for host in ("a", "b"):
        name = (ResourceType.ROUTE_CONFIGURATION, f"outbound|80||{host}.default.svc.cluster.local")
        assert view.grpc_core[name] == view.grpc[name]


@pytest.mark.parametrize(
    ("yaml", "place", "problem"),
    [
        ("kind: [", "m.yaml", "is not YAML"),
        ("- 1", "m.yaml", "must be an object"),
        (service("a", 1).replace("port: 80", "port: '80'"), "Service/a.spec.ports[0].port", "whole number"),
        (service("a", 1) + virtual_service("a", "[{timeout: soon}]"), ".spec.http[0].timeout", "duration"),
        (service("a", 1) + virtual_service("a", "[{}]"), ".spec.http[0].route", "exactly one"),
        (
            service("a", 1)
            + virtual_service("a", "[{match: [{uri: {regex: '('}}], route: [{destination: {host: a}}]}]"),
            "match[0].uri.regex",
            "RE2",
        ),
        (service("a", 1) + "---\n" + service("a", 1).partition("---")[0], "Service/a", "is also defined by"),
        ('"@type": type.googleapis.com/x.Y', "@type", "must be one of"),
        (
            '"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: c\nconnect_timeout: -1s\ntype: STATIC',
            "Cluster.connect_timeout",
            "above",
        ),
    ],
)
def test_an_error_names_file_document_and_field(tmp_path: Path, yaml: str, place: str, problem: str) -> None:
    errors = translate(tmp_path, yaml).errors
    assert any(place in error and problem in error for error in errors), errors


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        (service("a", 1) + virtual_service("a", "[{corsPolicy: {}, route: [{destination: {host: a}}]}]"), "corsPolicy"),
        (service("a", 1) + virtual_service("a", "[{rout: 1, route: [{destination: {host: a}}]}]"), "rout"),
        (service("a", 1) + virtual_service("a", "[{route: [{destination: {host: nobody}}]}]"), "nobody"),
        (service("a", 1) + virtual_service("a", "[{route: [{destination: {host: a, subset: v9}}]}]"), "v9"),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n", "Deployment/d"),
        (
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: t}\n"
            "spec: {metrics: [{overrides: [{match: {customMetric: ours}}]}]}\n",
            "customMetric: 'ours' is not counted",
        ),
    ],
)
def test_what_is_not_translated_is_warned_about_by_name_and_breaks_nothing(
    tmp_path: Path, yaml: str, words: str
) -> None:
    state = translate(tmp_path, yaml)
    assert not state.errors
    assert any(words in problem.text for problem in state.problems)


def test_nothing_is_said_of_rules_that_name_what_is_there(tmp_path: Path) -> None:
    rules = virtual_service("a", "[{route: [{destination: {host: a}}]}]") + destination_rule("a", "subsets: []")
    assert not translate(tmp_path, service("a", 1) + rules).problems


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 15))
    assert any("aliases" in error for error in translate(tmp_path, "l0: &l0 [x]\n" + levels).errors)


def test_yaml_never_makes_objects(tmp_path: Path) -> None:
    state = translate(tmp_path, "!!python/object/apply:os.system ['true']")
    assert any("is not YAML" in error for error in state.errors)


TEMPLATE = service("a", 1) + virtual_service("a", "[{route: [{destination: {host: a}, weight: 1}], timeout: 1s}]")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_hostile_yaml_ends_in_a_state_with_problems_and_never_in_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    text = TEMPLATE
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6))
        text = text[:at] + data.draw(st.text(max_size=6)) + text[at + cut :]
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    assert isinstance(load(tmp_path), FolderState)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    kind=st.sampled_from(["Service", "Pod", "Endpoints", "EndpointSlice", "ServiceEntry", "WorkloadEntry"])
    | st.sampled_from(["VirtualService", "DestinationRule", "PeerAuthentication"]),
    field=st.sampled_from(["spec", "metadata", "endpoints", "subsets", "status", "http", "hosts", "ports"]),
    value=values,
)
def test_wrong_types_anywhere_end_in_problems(tmp_path: Path, kind: str, field: str, value: Any) -> None:
    import yaml

    groups = {"Service": "v1", "Pod": "v1", "Endpoints": "v1", "EndpointSlice": "discovery.k8s.io/v1"}
    groups["PeerAuthentication"] = "security.istio.io/v1"
    spec: Any = {"hosts": ["a"], "host": "a", "address": "1.1.1.1", "ports": [{"port": 1, "number": 1, "name": "n"}]}
    document = {"apiVersion": groups.get(kind, "networking.istio.io/v1"), "kind": kind, "metadata": {"name": "n"}}
    document["spec"] = {**spec, field: value} if field not in ("spec", "metadata") else spec
    document[field] = value if field in ("spec", "metadata", "endpoints", "subsets", "status") else document.get(field)
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8", errors="replace")
    assert isinstance(load(tmp_path), FolderState)


@pytest.mark.parametrize("host", ["web", "'*.local'"])
def test_nothing_is_sent_past_a_destination_rule_that_cannot_be_read(
    make_mesh: MakeMesh, echo: Callable[[str], EchoServer], host: str
) -> None:
    """It may have asked for TLS; other hosts are reached."""
    web, other = echo("web"), echo("other")
    rule = destination_rule(host, "trafficPolicy: {tls: {moed: ISTIO_MUTUAL}}")
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: other}\n"
        "spec: {hosts: [other.example], ports: [{number: 80, name: http}], resolution: STATIC,"
        f" endpoints: [{{address: 127.0.0.1, ports: {{http: {other.port}}}}}]}}\n"
    )
    mesh = make_mesh(service("web", web.port) + rule + entry)
    with mesh.client() as client:
        answer = client.get("http://web/")
        assert (answer.status_code, answer.extensions["mesh"].flag) == (503, "NC")
        assert client.get("http://other.example/").status_code == 200
    assert "did you mean 'mode'" in mesh.status()["problem"]


def test_what_xds_cannot_say_of_a_service_costs_that_service_alone(
    make_mesh: MakeMesh, echo: Callable[[str], EchoServer]
) -> None:
    """Envoy: the weights of a locality come to 4294967295 at the most."""
    other = echo("other")
    heavy = (
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w{0}}}\n"
        "spec: {{address: 127.0.0.{0}, labels: {{app: heavy}}, weight: 4294967295}}\n"
    )
    yaml = service("other", other.port) + "---\n" + service("heavy", 1)
    mesh = make_mesh(yaml + heavy.format(2) + heavy.format(3))
    with mesh.client() as client:
        assert client.get("http://other/").json()["name"] == "other"
        answer = client.get("http://heavy/")
        assert (answer.status_code, answer.extensions["mesh"].flag) == (503, "NC")
    assert "cannot be said in xDS: Value out of range: 858993459" in mesh.status()["problem"]


def test_a_host_whose_routes_cannot_be_said_is_not_called_past_the_mesh() -> None:
    world = World(
        virtual_services=[VirtualService("r", "default", ("x.example",), (HttpRoute(timeout_seconds=1e300),))]
    )
    [host] = make_virtual_hosts(Scope(world, Client(), Memo()), 80, Memo())
    assert (list(host.message.domains), len(host.message.routes)) == (["x.example", "x.example:80"], 0)
    assert [error.where for error in host.errors] == ["x.example:80"]
