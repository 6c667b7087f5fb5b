"""What a client sees of the world: by its namespace, its labels, its locality, as istiod has it for a proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import meshsdk
from meshsdk.controlplane.client import Client
from meshsdk.controlplane.folder import load
from meshsdk.controlplane.served import ServedResources
from meshsdk.resources import ResourceType, decode
from tests.conftest import MakeMesh, destination_rule, service, virtual_service
from tests.servers import EchoServer

HOST = "a.default.svc.cluster.local"
TO_A = f"route: [{{destination: {{host: {HOST}}}}}]"
ANYBODY = Client()
SHOP = Client(namespace="shop")


def routes_of(folder: Path, yaml: str, client: Client = ANYBODY, host: str = HOST) -> tuple[Any, ...]:
    """The routes of a service for a client."""
    (folder / "m.yaml").write_text(yaml)
    state = load(folder)
    assert not state.errors
    packed = state.view(client).grpc.get((ResourceType.ROUTE_CONFIGURATION, f"outbound|80||{host}"))
    if packed is None:
        return ()
    return tuple(decode(ResourceType.ROUTE_CONFIGURATION, packed).virtual_hosts[0].routes)


def cluster_of(folder: Path, yaml: str, client: Client = ANYBODY, subset: str = "") -> Any:
    (folder / "m.yaml").write_text(yaml)
    state = load(folder)
    assert not state.errors
    name = f"outbound|80|{subset}|{HOST}"
    return decode(ResourceType.CLUSTER, state.view(client).grpc[(ResourceType.CLUSTER, name)])


def statuses(routes: tuple[Any, ...]) -> list[int]:
    """Of direct responses, by which rules are told from each other; 0 is another action."""
    return [getattr(route.action, "status", 0) for route in routes]


def answering(host: str, status: int, *, name: str = "", namespace: str = "default", more: str = "") -> str:
    """A VirtualService that answers itself."""
    rule = virtual_service(host, f"[{{directResponse: {{status: {status}}}}}]")
    rule = rule.replace(
        f"metadata: {{name: {host}}}", f"metadata: {{name: {name or f's{status}'}, namespace: {namespace}}}"
    )
    return rule.replace("spec: {", f"spec: {{{more}")


def of_namespace(yaml: str, namespace: str, name: str = "") -> str:
    return yaml.replace("metadata: {name: ", f"metadata: {{namespace: {namespace}, name: {name}")


@pytest.mark.parametrize(
    ("export_to", "seen_by"),
    [
        ("", ["chaos", "default", "shop"]),
        ("exportTo: ['*'], ", ["chaos", "default", "shop"]),
        ("exportTo: ['.'], ", ["chaos"]),
        ("exportTo: [shop], ", ["shop"]),
    ],
)
def test_a_virtual_service_holds_where_it_is_exported_to(tmp_path: Path, export_to: str, seen_by: list[str]) -> None:
    yaml = service("a", 1) + answering(HOST, 418, namespace="chaos", more=export_to)
    clients = {name: Client(namespace=name) for name in ("chaos", "default", "shop")}
    assert [name for name, one in clients.items() if statuses(routes_of(tmp_path, yaml, one)) == [418]] == seen_by


def test_of_two_virtual_services_the_clients_own_and_then_the_older_one_holds(tmp_path: Path) -> None:
    public = answering(HOST, 201) + answering(HOST, 202)
    private = answering(HOST, 203, namespace="shop", more="exportTo: ['.'], ")
    yaml = service("a", 1) + public + private
    assert statuses(routes_of(tmp_path, yaml)) == [201]
    assert statuses(routes_of(tmp_path, yaml, SHOP)) == [203]


def test_a_wildcard_has_services_that_no_other_rule_names(tmp_path: Path) -> None:
    wildcards = answering("'*.local'", 201, name="wide") + answering("'*.default.svc.cluster.local'", 202, name="near")
    assert statuses(routes_of(tmp_path, service("a", 1) + wildcards)) == [202]
    assert statuses(routes_of(tmp_path, service("a", 1) + wildcards + answering(HOST, 203))) == [203]


def test_conditions_on_clients_choose_the_routes_of_each(tmp_path: Path) -> None:
    http = (
        "[{match: [{sourceLabels: {app: web}}], directResponse: {status: 201}},"
        " {match: [{sourceNamespace: shop}], directResponse: {status: 202}},"
        " {match: [{gateways: [mesh], sourceNamespace: nowhere}], directResponse: {status: 203}}]"
    )
    yaml = service("a", 1) + virtual_service("a", http)
    assert statuses(routes_of(tmp_path, yaml, Client(labels=(("app", "web"), ("v", "1"))))) == [201, 203]
    assert statuses(routes_of(tmp_path, yaml, SHOP)) == [202, 203]


def test_a_rule_none_of_whose_routes_is_for_the_client_leaves_the_default_route(tmp_path: Path) -> None:
    rule = virtual_service("a", "[{match: [{sourceNamespace: shop}], directResponse: {status: 201}}]")
    [route] = routes_of(tmp_path, service("a", 1) + rule)
    assert route.name == "default"


def test_the_routes_of_a_delegate_stand_under_the_conditions_of_their_root(tmp_path: Path) -> None:
    root = virtual_service(
        "a",
        "[{name: root, match: [{uri: {prefix: /shop}, name: m}], delegate: {name: inner, namespace: shop},"
        " timeout: 3s}, {directResponse: {status: 404}}]",
    )
    inner = (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: inner, namespace: shop}\n"
        f"spec: {{http: [{{name: cart, match: [{{uri: {{prefix: /shop/cart}}}}], {TO_A}}},"
        " {match: [{uri: {prefix: /elsewhere}}], directResponse: {status: 500}},"
        f" {{timeout: 1s, {TO_A}}}]}}\n"
    )
    cart, rest, last = routes_of(tmp_path, service("a", 1) + root + inner)
    assert (cart.name, cart.match.path.value, cart.action.timeout_seconds) == ("root-cart.m", "/shop/cart", 3)
    assert (rest.name, rest.match.path.value, rest.action.timeout_seconds) == ("root.m", "/shop", 1)
    assert last.action.status == 404


@pytest.mark.parametrize("export_to", ["", "exportTo: ['.'], "])
def test_a_delegate_that_is_not_there_costs_its_route_and_is_told(tmp_path: Path, export_to: str) -> None:
    root = virtual_service(
        "a", f"[{{match: [{{uri: {{prefix: /b}}}}], delegate: {{name: b, namespace: shop}}}}, {{{TO_A}}}]"
    )
    other = (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: b, namespace: shop}}\nspec: {{{export_to}http: [{{{TO_A}}}]}}\n"
        if export_to
        else ""
    )
    assert len(routes_of(tmp_path, service("a", 1) + root + other)) == 1
    assert any("shop/b" in problem.text for problem in load(tmp_path).problems)


def test_a_host_that_is_no_service_has_its_rules_on_port_80(make_mesh: MakeMesh, echo: Any) -> None:
    server: EchoServer = echo("a")
    rule = virtual_service("shop.example.com", "[{match: [{uri: {prefix: /x}}], route: [{destination: {host: a}}]}]")
    with make_mesh(service("a", server.port) + rule).client() as client:
        assert client.get("http://shop.example.com/x").json()["headers"]["host"] == "shop.example.com"
        assert client.get("http://shop.example.com/y").status_code == 404


def test_a_rule_by_itself_has_its_host_in_each_form_of_its_name(make_mesh: MakeMesh, echo: Any) -> None:
    """Clients complete short names, and no listener of a port must be there for it as at a sidecar."""
    server: EchoServer = echo("a")
    for host in ("b.default.svc.cluster.local", "shop.example.com"):
        rule = virtual_service(host, "[{match: [{uri: {prefix: /x}}], route: [{destination: {host: a}}]}]")
        short = ("b", "b.default", "b.default.svc") if host.startswith("b.") else ()
        with make_mesh(
            service("a", server.port, port=8080) + rule.replace("host: a}", "host: a, port: {number: 8080}}")
        ).client() as client:
            for name in (host, *short, f"{host}."):
                assert client.get(f"http://{name}/x").json()["name"] == "a", name
                assert client.get(f"http://{name}/y").status_code == 404, name


def test_a_service_that_is_the_name_of_another_is_that_one(make_mesh: MakeMesh, echo: Any) -> None:
    server: EchoServer = echo("a")
    alias = (
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: shop}\n"
        f"spec: {{type: ExternalName, externalName: {HOST}, ports: [{{name: http, port: 80}}]}}\n"
    )
    rule = virtual_service(
        "a",
        "[{match: [{uri: {prefix: /b}}], route: [{destination: {host: b.shop.svc.cluster.local}}]},"
        " {route: [{destination: {host: a}}]}]",
    )
    with make_mesh(service("a", server.port) + alias + rule).client() as client:
        for url in ("http://b.shop/", "http://b.shop.svc.cluster.local/x", "http://a/b"):
            response = client.get(url)
            assert response.json()["name"] == "a"
            assert response.extensions["mesh"].cluster == f"outbound|80||{HOST}"


def policy_of(cluster: Any) -> str:
    return type(cluster.lb_policy).__name__


@pytest.mark.parametrize(
    ("rules", "client", "policy"),
    [
        ({"default": "RANDOM"}, ANYBODY, "Random"),
        ({"other": "RANDOM"}, ANYBODY, "LeastRequest"),
        ({"istio-system": "RANDOM"}, ANYBODY, "Random"),
        ({"default": "RANDOM", "shop": "ROUND_ROBIN"}, SHOP, "RoundRobin"),
        ({"default": "RANDOM", "shop": "ROUND_ROBIN"}, ANYBODY, "Random"),
        ({"default": "RANDOM", "istio-system": "ROUND_ROBIN"}, SHOP, "Random"),
    ],
)
def test_a_destination_rule_is_the_clients_the_services_or_the_root_namespaces(
    tmp_path: Path, rules: dict[str, str], client: Client, policy: str
) -> None:
    yaml = service("a", 1) + "".join(
        of_namespace(destination_rule(HOST, f"trafficPolicy: {{loadBalancer: {{simple: {simple}}}}}"), namespace)
        for namespace, simple in rules.items()
    )
    assert policy_of(cluster_of(tmp_path, yaml, client)).startswith(policy)


def test_several_destination_rules_of_one_host_are_one(tmp_path: Path) -> None:
    first = destination_rule(HOST, "subsets: [{name: v1, labels: {version: v1}}]")
    second = destination_rule(
        HOST, "trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v2, labels: {version: v2}}]"
    )
    yaml = service("a", 1) + first + of_namespace(second, "default", "z")
    assert policy_of(cluster_of(tmp_path, yaml)).startswith("Random")
    for subset in ("v1", "v2"):
        assert cluster_of(tmp_path, yaml, subset=subset) is not None


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
@pytest.mark.parametrize(
    "more", ["", "exportTo: [.], ", "exportTo: [default, shop], ", "workloadSelector: {matchLabels: {app: web}}, "]
)
@pytest.mark.parametrize("client", [ANYBODY, Client(labels=(("app", "web"),))], ids=["anybody", "web"])
def test_a_rule_that_cannot_be_read_is_not_made_up_for_by_another_of_its_host(
    tmp_path: Path, client: Client, more: str, order: tuple[str, str]
) -> None:
    """It may have asked for TLS, wherever it was exported to."""
    rules = {
        "one": destination_rule(HOST, f"{more}trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}"),
        "two": of_namespace(destination_rule(HOST, "trafficPolicy: {tls: {moed: SIMPLE}}"), "default", "z"),
    }
    (tmp_path / "m.yaml").write_text(service("a", 1) + "".join(rules[name] for name in order))
    state = load(tmp_path)
    assert [error for error in state.errors if "moed" in error]
    assert (ResourceType.CLUSTER, f"outbound|80||{HOST}") not in state.view(client).grpc


def test_a_clients_rules_are_the_root_namespaces_where_it_is_of_that_and_no_service_has_its_own(tmp_path: Path) -> None:
    of_all = of_namespace(
        destination_rule("'*.local'", "trafficPolicy: {loadBalancer: {simple: RANDOM}}"), "istio-system", "all"
    ).replace("all'*.local'", "all")
    of_service = destination_rule(HOST, "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}")
    client = Client(namespace="istio-system")
    assert policy_of(cluster_of(tmp_path, service("a", 1) + of_all, client)).startswith("Random")
    assert policy_of(cluster_of(tmp_path, service("a", 1) + of_all + of_service, client)).startswith("RoundRobin")


def test_a_destination_rule_for_some_workloads_is_for_those_of_its_namespace(tmp_path: Path) -> None:
    yaml = (
        service("a", 1)
        + destination_rule(
            HOST, "workloadSelector: {matchLabels: {app: web}}, trafficPolicy: {loadBalancer: {simple: RANDOM}}"
        )
        + of_namespace(destination_rule(HOST, "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"), "default", "z")
    )
    assert policy_of(cluster_of(tmp_path, yaml)).startswith("RoundRobin")
    assert policy_of(cluster_of(tmp_path, yaml, Client(labels=(("app", "web"),)))).startswith("Random")
    others = Client(namespace="shop", labels=(("app", "web"),))
    assert policy_of(cluster_of(tmp_path, yaml, others)).startswith("RoundRobin")


@pytest.mark.parametrize(
    ("rule", "of_subset", "rule_wide"),
    [
        (
            "trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}",
            "Ring",
            "Random",
        ),
        ("trafficPolicy: {loadBalancer: {simple: RANDOM}}", "Ring", "Random"),
        (
            "trafficPolicy: {loadBalancer: {simple: RANDOM},"
            " portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}",
            "Ring",
            "LeastRequest",
        ),
    ],
)
def test_a_subset_stands_over_the_port_and_the_port_over_the_rule(
    tmp_path: Path, rule: str, of_subset: str, rule_wide: str
) -> None:
    subset = "subsets: [{name: v1, labels: {}, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}]"
    yaml = service("a", 1) + destination_rule(HOST, f"{rule}, {subset}")
    assert policy_of(cluster_of(tmp_path, yaml, subset="v1")).startswith(of_subset)
    assert policy_of(cluster_of(tmp_path, yaml)).startswith(rule_wide)


def sidecar(namespace: str, spec: str, name: str = "s") -> str:
    return (
        f"---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{{spec}}}\n"
    )


@pytest.mark.parametrize(
    ("hosts", "sees"),
    [
        ("'./*'", []),
        ("'default/*'", ["a", "b"]),
        (f"'*/{HOST}'", ["a"]),
        ("'*/*'", ["a", "b"]),
        ("'~/*'", []),
        ("'*/*', '~/*'", []),
        (f"'*/*', '~default/{HOST}'", ["b"]),
        (f"'default/*', '~*/{HOST}'", ["b"]),
        (f"'default/*', '~./{HOST}'", ["a", "b"]),
        ("'~./*', 'default/*'", ["a", "b"]),
        ("'default/*.default.svc.cluster.local'", ["a", "b"]),
    ],
)
def test_a_sidecar_says_which_services_there_are(tmp_path: Path, hosts: str, sees: list[str]) -> None:
    yaml = service("a", 1) + "---\n" + service("b", 2) + sidecar("shop", f"egress: [{{hosts: [{hosts}]}}]")
    found = [name for name in ("a", "b") if routes_of(tmp_path, yaml, SHOP, host=f"{name}.default.svc.cluster.local")]
    assert found == sees
    assert routes_of(tmp_path, yaml)


def test_a_sidecar_for_some_workloads_stands_before_its_namespaces(tmp_path: Path) -> None:
    of_all = sidecar("shop", "egress: [{hosts: ['*/*']}]")
    of_some = sidecar("shop", "workloadSelector: {labels: {app: web}}, egress: [{hosts: ['~/*']}]", "t")
    yaml = service("a", 1) + of_all + of_some
    assert routes_of(tmp_path, yaml, SHOP)
    assert not routes_of(tmp_path, yaml, Client(namespace="shop", labels=(("app", "web"),)))


MESH = (
    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
    "data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}\n"
)


@pytest.mark.parametrize("mesh", ["", MESH], ids=["any", "registry only"])
def test_hosts_outside_the_registry_are_refused_where_the_mesh_says_so(
    make_mesh: MakeMesh, echo: Any, mesh: str
) -> None:
    inside, outside = echo("inside"), echo("outside")
    with make_mesh(service("a", inside.port) + mesh).client() as client:
        assert client.get("http://a/").json()["name"] == "inside"
        response = client.get(f"http://127.0.0.1:{outside.port}/")
        assert response.status_code == (502 if mesh else 200)
        if mesh:
            assert client.get("http://a:8080/").status_code == 502


@pytest.mark.parametrize("mesh", ["", MESH], ids=["any", "registry only"])
def test_a_short_name_by_itself_is_the_service_only_where_nothing_else_may_be_called(tmp_path: Path, mesh: str) -> None:
    """`a.` is asked for as `a`, and is not completed: it would be looked up past the mesh, or is the mesh's."""
    (tmp_path / "m.yaml").write_text(service("a", 1) + mesh)
    view = load(tmp_path).view(ANYBODY)
    packed = view.listener("a:80")
    assert (packed is not None) is bool(mesh)
    if packed is not None:
        found = decode(ResourceType.LISTENER, packed)
        assert (found.name, found.route_name) == ("a:80", f"outbound|80||{HOST}")


def test_hosts_that_are_passed_through_are_so_on_their_ports_alone(tmp_path: Path) -> None:
    free = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: w}\n"
        "spec: {hosts: ['*.free.example'], resolution: NONE, ports: [{number: 80, name: p, protocol: HTTP}]}\n"
    )
    (tmp_path / "m.yaml").write_text(service("a", 1) + free + MESH)
    view = load(tmp_path).view(ANYBODY)
    assert view.listener("x.free.example:80") is None
    for refused in ("x.free.example:8080", "x.other.example:80"):
        packed = view.listener(refused)
        assert packed is not None
        [host] = decode(ResourceType.LISTENER, packed).route_configuration.virtual_hosts
        assert statuses(host.routes) == [502]


def test_a_mesh_over_a_folder_is_of_its_identitys_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.yaml").write_text(service("a", 1) + answering(HOST, 418, namespace="shop", more="exportTo: ['.'], "))
    url = f"http://{HOST}/"
    with meshsdk.Mesh(config=tmp_path) as mesh:
        assert mesh.explain("GET", url).status != 418
    with meshsdk.Mesh(config=tmp_path, identity="spiffe://cluster.local/ns/shop/sa/web") as mesh:
        assert mesh.explain("GET", url).status == 418
    monkeypatch.setenv("POD_NAMESPACE", "shop")
    with meshsdk.Mesh(config=tmp_path) as mesh:
        assert mesh.explain("GET", url).status == 418


def test_a_wildcard_is_for_every_host_of_its_domain(make_mesh: MakeMesh, echo: Any) -> None:
    """Of a ServiceEntry with endpoints, and of a rule for hosts that are no service."""
    server: EchoServer = echo("a")
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: w}\n"
        "spec: {hosts: ['*.wild.example.com'], resolution: STATIC, ports: [{number: 80, name: p, protocol: HTTP}],"
        f" endpoints: [{{address: 127.0.0.1, ports: {{p: {server.port}}}}}]}}\n"
    )
    rule = virtual_service("'*.rules.example.com'", f"[{{rewrite: {{uri: /by-rule}}, {TO_A}}}]")
    rule = rule.replace("metadata: {name: '*.rules.example.com'}", "metadata: {name: rules}")
    with make_mesh(service("a", server.port) + entry + rule).client() as client:
        answer = client.get("http://x.wild.example.com/y").json()
        assert (answer["path"], answer["headers"]["host"]) == ("/y", "x.wild.example.com")
        assert client.get("http://x.rules.example.com/").json()["path"] == "/by-rule"


def entry(name: str, host: str, port: int, address_port: int) -> str:
    """YAML of a ServiceEntry of one endpoint on loopback."""
    return (
        f"---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n"
        f"spec: {{hosts: ['{host}'], resolution: STATIC, ports: [{{number: {port}, name: p, protocol: HTTP}}],"
        f" endpoints: [{{address: 127.0.0.1, ports: {{p: {address_port}}}}}]}}\n"
    )


def test_rules_for_a_wildcard_are_not_for_a_wider_one(make_mesh: MakeMesh, echo: Any) -> None:
    """Not all that the wider one is for is theirs; hosts that a narrower one is for are."""
    far, near = echo("far"), echo("near")
    rule = virtual_service("'*.b.example'", "[{directResponse: {status: 418}}]")
    broken = destination_rule("'*.b.example'", "trafficPolicy: {tls: {moed: SIMPLE}}")
    services = entry("far", "*.example", 80, far.port) + entry("near", "*.a.b.example", 80, near.port)
    mesh = make_mesh(services + rule.replace("name: '*.b.example'", "name: b"))
    with mesh.client() as client:
        assert client.get("http://x.example/").json()["name"] == "far"
        assert client.get("http://x.a.b.example/").status_code == 418
    mesh = make_mesh(services + broken.replace("name: '*.b.example'", "name: b"))
    with mesh.client() as client:
        assert client.get("http://x.example/").json()["name"] == "far"
        assert client.get("http://x.a.b.example/").status_code == 503


def test_a_full_name_that_is_anothers_short_form_is_reached_on_any_port(make_mesh: MakeMesh, echo: Any) -> None:
    service_a, namesake = echo("service"), echo("namesake")
    for port in (80, 9080):
        yaml = service("a", service_a.port, port=port) + entry("b", "a.default", port, namesake.port)
        with make_mesh(yaml).client() as client:
            suffix = "" if port == 80 else f":{port}"
            assert client.get(f"http://a.default{suffix}/").json()["name"] == "namesake"
            assert client.get(f"http://a.default.svc{suffix}/").json()["name"] == "service"


def test_hosts_that_are_passed_through_go_elsewhere_by_a_rule(make_mesh: MakeMesh, echo: Any) -> None:
    """As those of a gateway for what leaves the mesh; without a rule they are called as they are named."""
    server: EchoServer = echo("gateway")
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: w}\n"
        "spec: {hosts: ['*.wild.example.com', '*.free.example.com'], resolution: NONE,"
        " ports: [{number: 80, name: p, protocol: HTTP}]}\n"
    )
    rule = virtual_service("'*.wild.example.com'", f"[{{{TO_A}}}]")
    rule = rule.replace("metadata: {name: '*.wild.example.com'}", "metadata: {name: wild}")
    mesh = make_mesh(service("a", server.port) + entry + rule)
    with mesh.client() as client:
        assert client.get("http://x.wild.example.com/y").json()["headers"]["host"] == "x.wild.example.com"
    assert mesh.explain("GET", "http://x.free.example.com/").action == "passthrough"


@pytest.mark.parametrize(
    ("tls", "mutual"), [("tls: {mode: DISABLE}, ", 0), ("tls: {mode: ISTIO_MUTUAL}, ", 1), ("", 1)]
)
def test_settings_of_a_port_do_not_hide_what_the_rule_says_of_tls(tmp_path: Path, tls: str, mutual: int) -> None:
    """Endpoints are marked by it, though the cluster has the port's settings alone (mtls_checker.go)."""
    ports = "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]"
    rule = f"trafficPolicy: {{{tls}{ports}}}"
    pod = (
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: b, security.istio.io/tlsMode: istio}}\n"
        "status: {podIP: 10.0.0.1}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n"
        "spec: {selector: {app: b}, ports: [{port: 80, name: http}]}\n---\n"
    )
    (tmp_path / "mesh.yaml").write_text(pod + destination_rule("b", rule).lstrip("-\n"))
    state = load(tmp_path)
    assert not state.errors
    packed = state.grpc[(ResourceType.ENDPOINTS, "outbound|80||b.default.svc.cluster.local")]
    assert (b"tlsMode" in packed) == mutual


def test_names_that_a_client_makes_up_are_forgotten() -> None:
    asked: list[str] = []
    served = ServedResources({}, asked.append, {})
    for number in range(25_000):
        assert served.get((ResourceType.LISTENER, f"h{number}:80")) is None
    assert served.get((ResourceType.LISTENER, "h24999:80")) is None
    assert len(asked) == 25_000
    assert len(served._asked) <= 10_000
