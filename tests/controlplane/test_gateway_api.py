"""HTTPRoute and GRPCRoute whose parents are services, as istiod has them for clients in the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshsdk.controlplane.client import Client
from meshsdk.controlplane.folder import load
from meshsdk.resources import ResourceType, decode
from tests.conftest import MakeMesh, service, virtual_service

from .gateway_objects import SERVICE, backends, grpc_route, http_route

HOST = "a.default.svc.cluster.local"
A_AND_B = service("a", 1) + "---\n" + service("b", 2)
ANYBODY = Client()
SHOP = Client(namespace="shop")


def routes_of(folder: Path, yaml: str, client: Client = ANYBODY, *, port: int = 80) -> list[Any]:
    """The routes of the service `a` for a client."""
    (folder / "m.yaml").write_text(A_AND_B + yaml)
    packed = load(folder).view(client).grpc[(ResourceType.ROUTE_CONFIGURATION, f"outbound|{port}||{HOST}")]
    return list(decode(ResourceType.ROUTE_CONFIGURATION, packed).virtual_hosts[0].routes)


def names_of(folder: Path, yaml: str, client: Client = ANYBODY) -> list[str]:
    return [one.name for one in routes_of(folder, yaml, client)]


def warnings_of(folder: Path, yaml: str) -> list[str]:
    (folder / "m.yaml").write_text(A_AND_B + yaml)
    state = load(folder)
    assert not state.errors
    return [problem.text for problem in state.problems]


def errors_of(folder: Path, yaml: str) -> list[str]:
    (folder / "m.yaml").write_text(A_AND_B + yaml)
    return load(folder).errors


def rule(name: str, *matches: str, more: str = "") -> str:
    """A rule with a name and conditions that sends to b."""
    return f"{{name: {name}, matches: [{', '.join(matches)}], {more}{backends('b')}}}"


def test_the_most_specific_match_comes_first_wherever_it_is_written(tmp_path: Path) -> None:
    rules = [
        rule("regex", "{path: {type: RegularExpression, value: /a.*}}"),
        rule("root", "{path: {value: /}}"),
        rule("short", "{path: {value: /a}}"),
        rule("long", "{path: {value: /a/b}}"),
        rule("exact", "{path: {type: Exact, value: /a}}"),
        rule("method", "{path: {value: /a}, method: GET}"),
        rule("header", "{path: {value: /a}, headers: [{name: x, value: y}]}"),
        rule("query", "{path: {value: /a}, queryParams: [{name: x, value: y}, {name: z, value: y}]}"),
    ]
    expected = ["exact", "long", "method", "header", "query", "short", "root", "regex"]
    assert names_of(tmp_path, http_route(f"[{', '.join(rules)}]")) == expected


def test_each_match_of_a_rule_has_its_own_place(tmp_path: Path) -> None:
    rules = [rule("both", "{path: {value: /}}", "{path: {value: /a/b}}"), rule("between", "{path: {value: /a}}")]
    assert names_of(tmp_path, http_route(f"[{', '.join(rules)}]")) == ["both", "between", "both"]


def test_of_equal_matches_those_of_the_older_object_come_first(tmp_path: Path) -> None:
    def dated(name: str, day: int) -> str:
        route = http_route(f"[{rule(f'r{day}', '{path: {value: /same}}')}]", name=name)
        return route.replace("metadata: {", f"metadata: {{creationTimestamp: '2024-01-0{day}T00:00:00Z', ")

    assert names_of(tmp_path, dated("b", 2) + dated("c", 1) + dated("a", 2).replace("r2", "r3")) == ["r1", "r3", "r2"]


@pytest.mark.parametrize(
    ("path", "matched", "missed"),
    [
        ("{value: /a}", ["/a", "/a/", "/a/b", "/a?x=1"], ["/ab", "/", "/b/a"]),
        ("{value: /a/}", ["/a", "/a/b"], ["/ab"]),
        ("{type: PathPrefix, value: /}", ["/", "/a"], []),
        ("{type: Exact, value: /a}", ["/a", "/a?x=1"], ["/a/", "/A"]),
        ("{type: RegularExpression, value: '/a[0-9]'}", ["/a1"], ["/a12", "/b/a1"]),
    ],
)
def test_a_prefix_ends_where_a_segment_does(
    make_mesh: MakeMesh, path: str, matched: list[str], missed: list[str]
) -> None:
    mesh = make_mesh(A_AND_B + http_route(f"[{rule('found', f'{{path: {path}}}')}]"))
    assert [mesh.explain("GET", f"http://a{one}").route for one in matched] == ["found"] * len(matched)
    assert {mesh.explain("GET", f"http://a{one}").action for one in missed} <= {"no_route"}


@pytest.mark.parametrize(
    ("match", "request_of", "is_matched"),
    [
        ("{method: POST}", ("POST", "/", {}), True),
        ("{method: POST}", ("GET", "/", {}), False),
        ("{headers: [{name: X-User, value: ann}]}", ("GET", "/", {"x-user": "ann"}), True),
        ("{headers: [{name: X-User, value: ann}]}", ("GET", "/", {"x-user": "anna"}), False),
        ("{headers: [{name: x, type: RegularExpression, value: v.}]}", ("GET", "/", {"x": "v1"}), True),
        ("{headers: [{name: x, type: RegularExpression, value: v.}]}", ("GET", "/", {"x": "v12"}), False),
        ("{queryParams: [{name: q, value: '1'}]}", ("GET", "/?q=1", {}), True),
        ("{queryParams: [{name: q, value: '1'}]}", ("GET", "/?q=2", {}), False),
        ("{queryParams: [{name: q, type: RegularExpression, value: '[0-9]+'}]}", ("GET", "/?q=12", {}), True),
        ("{method: POST, headers: [{name: x, value: y}]}", ("POST", "/", {}), False),
    ],
)
def test_all_conditions_of_a_match_must_hold(
    make_mesh: MakeMesh, match: str, request_of: tuple[str, str, dict[str, str]], is_matched: bool
) -> None:
    method, target, headers = request_of
    mesh = make_mesh(A_AND_B + http_route(f"[{rule('found', match)}]"))
    assert (mesh.explain(method, f"http://a{target}", headers).route == "found") is is_matched


@pytest.mark.parametrize(
    ("method", "matched", "missed"),
    [
        ("{service: p.S, method: M}", "/p.S/M", "/p.S/Mx"),
        ("{service: p.S}", "/p.S/M", "/p.Sx/M"),
        ("{method: M}", "/any.Thing/M", "/any.Thing/N"),
        ("{type: RegularExpression, service: 'p[.].*'}", "/p.S/M", "/q.S/M"),
        ("{type: RegularExpression, service: p.S, method: 'Get.*'}", "/p.S/GetAll", "/p.S/Put"),
    ],
)
def test_a_call_is_matched_by_service_and_method(make_mesh: MakeMesh, method: str, matched: str, missed: str) -> None:
    mesh = make_mesh(A_AND_B + grpc_route(f"[{rule('found', f'{{method: {method}}}')}]"))
    assert mesh.explain("POST", f"http://a{matched}").route == "found"
    assert mesh.explain("POST", f"http://a{missed}").action == "no_route"


def test_a_grpc_route_and_an_http_route_of_a_service_are_one(tmp_path: Path) -> None:
    calls = grpc_route(f"[{rule('call', '{method: {service: p.S, method: M}}')}]", name="calls")
    paths = http_route(f"[{rule('path', '{path: {value: /}}')}]", name="paths")
    assert names_of(tmp_path, paths + calls) == ["call", "path"]


@pytest.mark.parametrize(
    ("match", "modifier", "target", "sent"),
    [
        ("/a", "{type: ReplacePrefixMatch, replacePrefixMatch: /new}", "/a/b?c=d", "/new/b?c=d"),
        ("/a", "{type: ReplacePrefixMatch, replacePrefixMatch: /new/}", "/a", "/new"),
        ("/a", "{type: ReplacePrefixMatch, replacePrefixMatch: /}", "/a/b", "/b"),
        ("/a", "{type: ReplacePrefixMatch, replacePrefixMatch: /}", "/a", "/"),
        ("/a", "{type: ReplacePrefixMatch, replacePrefixMatch: ''}", "/a/b?c=d", "/b?c=d"),
        ("/a+b.c", "{type: ReplacePrefixMatch, replacePrefixMatch: /}", "/a+b.c/d", "/d"),
        ("/a", "{type: ReplaceFullPath, replaceFullPath: /whole}", "/a/b?c=d", "/whole?c=d"),
    ],
)
def test_a_path_is_rewritten(make_mesh: MakeMesh, match: str, modifier: str, target: str, sent: str) -> None:
    rewrite = f"filters: [{{type: URLRewrite, urlRewrite: {{hostname: b.example, path: {modifier}}}}}], "
    mesh = make_mesh(A_AND_B + http_route(f"[{rule('r', f'{{path: {{value: {match}}}}}', more=rewrite)}]"))
    decision = mesh.explain("GET", f"http://a{target}")
    assert (decision.path, decision.host) == (sent, "b.example")


@pytest.mark.parametrize(
    ("redirect", "status", "location"),
    [
        ("{}", 302, "http://a/x/y?z=1"),
        ("{hostname: b.example, statusCode: 301}", 301, "http://b.example/x/y?z=1"),
        ("{scheme: https, statusCode: 308}", 308, "https://a/x/y?z=1"),
        ("{port: 8443}", 302, "http://a:8443/x/y?z=1"),
        ("{scheme: https, port: 443}", 302, "https://a/x/y?z=1"),
        ("{path: {type: ReplaceFullPath, replaceFullPath: /w}}", 302, "http://a/w?z=1"),
        ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /w}}", 302, "http://a/w/y?z=1"),
    ],
)
def test_a_request_is_redirected(make_mesh: MakeMesh, redirect: str, status: int, location: str) -> None:
    filters = f"filters: [{{type: RequestRedirect, requestRedirect: {redirect}}}]"
    mesh = make_mesh(A_AND_B + http_route(f"[{{matches: [{{path: {{value: /x}}}}], {filters}}}]"))
    decision = mesh.explain("GET", "http://a/x/y?z=1")
    assert (decision.status, decision.location) == (status, location)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ("", "there are no rules"),
        ("[{matches: [{path: {value: /}}]}]", "there are no backends"),
        ("[{backendRefs: [{name: b, port: 80, weight: 0}, {name: a, port: 80, weight: 0}]}]", "nothing has a weight"),
    ],
)
def test_what_has_nowhere_to_go_is_answered_with_500(make_mesh: MakeMesh, rules: str, why: str) -> None:
    decision = make_mesh(A_AND_B + http_route(rules)).explain("GET", "http://a/")
    assert (decision.action, decision.status) == ("direct_response", 500), why


def test_a_grpc_route_without_rules_says_nothing(tmp_path: Path) -> None:
    assert names_of(tmp_path, grpc_route("")) == ["default"]


def test_a_backend_that_is_not_there_takes_its_share_and_is_told(tmp_path: Path) -> None:
    thing = "{group: example.com, kind: Thing, name: t, port: 80, weight: 2}"
    yaml = http_route(f"[{{backendRefs: [{{name: nobody, port: 80}}, {{name: b, port: 80, weight: 0}}, {thing}]}}]")
    action = routes_of(tmp_path, yaml)[0].action
    assert [(one.name, one.weight) for one in action.clusters] == [
        ("outbound|80||nobody.default.svc.cluster.local", 1),
        ("UnknownService", 2),
    ]
    assert action.cluster_not_found_status == 500
    told = warnings_of(tmp_path, yaml)
    assert any("backendRefs[0]: its requests are answered with 500: there is no service" in one for one in told)
    assert any("example.com Thing is no kind of backend" in one for one in told)
    assert len(told) == 2, told


def test_a_backend_of_another_namespace_needs_no_grant(tmp_path: Path) -> None:
    other = "---\napiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: shop}\nspec: {ports: [{port: 80}]}\n"
    yaml = other + http_route("[{backendRefs: [{name: c, namespace: shop, port: 80}]}]")
    assert routes_of(tmp_path, yaml)[0].action.clusters[0].name == "outbound|80||c.shop.svc.cluster.local"
    assert not [one for one in warnings_of(tmp_path, yaml) if "HTTPRoute" in one]


@pytest.mark.parametrize(
    ("more", "timeout", "attempts", "per_try"),
    [
        ("", None, 2, None),
        ("timeouts: {request: 1s500ms}, ", 1.5, 2, None),
        ("timeouts: {request: 10s, backendRequest: 2s}, ", 2.0, 2, None),
        ("timeouts: {request: 0s}, ", None, 2, None),
        ("timeouts: {request: 10s, backendRequest: 2s}, retry: {attempts: 3}, ", 10.0, 3, 2.0),
        ("retry: {codes: [503]}, ", None, 2, None),
    ],
)
def test_timeouts_and_retries(
    tmp_path: Path, more: str, timeout: float | None, attempts: int, per_try: float | None
) -> None:
    action = routes_of(tmp_path, http_route(f"[{{{more}{backends('b')}}}]"))[0].action
    assert (action.timeout_seconds or None) == timeout
    assert (action.retry_policy.num_retries, action.retry_policy.per_try_timeout_seconds) == (attempts, per_try)


@pytest.mark.parametrize(
    ("share", "percent"),
    [("", 100), (", percent: 25", 25), (", percent: 0", None), (", fraction: {numerator: 1, denominator: 8}", 12.5)],
)
def test_a_mirror_gets_the_share_that_is_said(tmp_path: Path, share: str, percent: float | None) -> None:
    mirror = f"{{type: RequestMirror, requestMirror: {{backendRef: {{name: b, port: 80}}{share}}}}}"
    mirrors = routes_of(tmp_path, http_route(f"[{{filters: [{mirror}], {backends('a')}}}]"))[0].action.mirrors
    shares = [one.fraction.numerator * 100 / one.fraction.denominator for one in mirrors]
    assert shares == ([] if percent is None else [percent])


def test_a_parent_may_be_one_port(tmp_path: Path) -> None:
    yaml = http_route(f"[{rule('r', '{path: {value: /}}')}]", parents=SERVICE.replace("}", ", port: 81}"))
    assert names_of(tmp_path, yaml) == ["default"]
    assert names_of(tmp_path, yaml.replace("port: 81", "port: 80")) == ["r"]


def test_a_service_entry_may_be_a_parent(make_mesh: MakeMesh) -> None:
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: out}\n"
        "spec: {hosts: [x.example, y.example], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}]}\n"
    )
    parent = "{group: networking.istio.io, kind: ServiceEntry, name: out}"
    mesh = make_mesh(A_AND_B + entry + http_route(f"[{rule('r', '{path: {value: /}}')}]", parents=parent))
    assert [mesh.explain("GET", f"http://{host}.example/").route for host in "xy"] == ["r", "r"]


def test_routes_of_consumers_hold_for_clients_of_their_own_namespace(tmp_path: Path) -> None:
    producer = http_route(f"[{rule('producer', '{path: {value: /}}')}]")
    parent = SERVICE.replace("}", ", namespace: default}")
    consumer = http_route(f"[{rule('consumer', '{path: {value: /}}')}]", parents=parent, namespace="shop")
    assert names_of(tmp_path, producer + consumer) == ["producer"]
    assert names_of(tmp_path, producer + consumer, SHOP) == ["consumer"]
    assert names_of(tmp_path, producer + consumer, Client(namespace="third")) == ["producer"]


def test_beside_a_virtual_service_the_clients_own_routes_hold_and_then_what_is_older(tmp_path: Path) -> None:
    rules = http_route(f"[{rule('route', '{path: {value: /}}')}]")
    virtual = virtual_service("a", "[{name: virtual, route: [{destination: {host: b}}]}]")
    assert names_of(tmp_path, virtual + rules) == ["route"]
    assert names_of(tmp_path, virtual + rules, SHOP) == ["virtual"]
    assert names_of(tmp_path, rules + virtual, SHOP) == ["route"]


@pytest.mark.parametrize(
    ("parent", "told"),
    [
        ("{name: gw}", "Gateway is for gateways, and has no effect in a mesh client"),
        ("{kind: Service, name: a}", "Service is not of gateway.networking.k8s.io; did you mean group: ''?"),
        ("{group: '', kind: Servce, name: a}", "core Servce is no kind of parent, and has no effect; did you mean 'Se"),
        ("{group: '', kind: Service, name: nobody}", "there is no Service default/nobody"),
        (SERVICE.replace("}", ", sectionName: http}"), "name the number of the port in `port`"),
    ],
)
def test_a_parent_that_is_not_as_meant_is_told(tmp_path: Path, parent: str, told: str) -> None:
    yaml = http_route(f"[{rule('r', '{path: {value: /}}')}]", parents=parent)
    assert any(told in one for one in warnings_of(tmp_path, yaml))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("filters: [{type: ExtensionRef, extensionRef: {group: g, kind: K, name: n}}]", "type ExtensionRef"),
        ("filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC}}]", "type ExternalAuth"),
        ("backendRefs: [{name: b.default, port: 80}]", "must be the name of a Service"),
        (
            "backendRefs: [{name: b, port: 80, filters: [{type: RequestRedirect, requestRedirect: {}}]}]",
            "RequestRedirect is not carried out by Istio at a backend",
        ),
    ],
)
def test_what_istio_does_not_carry_out_costs_the_whole_object_and_is_told(tmp_path: Path, bad: str, told: str) -> None:
    yaml = http_route(f"[{rule('good', '{path: {value: /}}')}, {{matches: [{{path: {{value: /bad}}}}], {bad}}}]")
    assert names_of(tmp_path, yaml) == ["default"]
    assert any("has no effect, none of its rules" in one and told in one for one in warnings_of(tmp_path, yaml))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("matches: [{path: {value: /a}, header: []}]", "header: is not known; did you mean 'headers'?"),
        ("matches: [{path: {type: Prefix, value: /a}}]", "is 'Prefix'; did you mean 'PathPrefix'?"),
        ("matches: [{path: {value: a}}]", "must begin with a slash"),
        ("matches: [{path: {value: /a//b}}]", "must not have '//'"),
        ("matches: [{path: {type: RegularExpression, value: '['}}]", "is no regular expression"),
        ("matches: [{method: get}]", "did you mean 'GET'?"),
        ("matches: [{headers: [{name: x}]}]", "headers[0].value: must be set"),
        ("matches: [{headers: [{name: x, value: y, typ: Exact}]}]", "typ: is not known; did you mean 'type'?"),
        ("matches: null", "matches: has no value"),
        ("match: [{path: {value: /a}}]", "match: is not known; did you mean 'matches'?"),
        ("filters: [{type: URLRewrit}]", "did you mean 'URLRewrite'?"),
        ("filters: [{type: URLRewrite}]", "urlRewrite: must be set"),
        ("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 300}}]", "statusCode"),
        (f"filters: [{{type: RequestRedirect, requestRedirect: {{}}}}], {backends('b')}", "beside RequestRedirect"),
        (
            "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite:"
            " {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]",
            "ReplacePrefixMatch needs a rule with one match, of a path of type PathPrefix",
        ),
        ("backendRefs: [{name: b}]", "port: must be set for a Service"),
        ("backendRefs: [{name: b, port: 80, namespac: c}]", "did you mean 'namespace'?"),
        ("timeouts: {request: 1s, backendRequest: 2s}", "must not be longer than request"),
        ("retry: {codes: [200]}", "codes"),
    ],
)
def test_a_rule_that_is_not_understood_costs_itself_only(tmp_path: Path, bad: str, told: str) -> None:
    yaml = http_route(f"[{{name: bad, {bad}}}, {rule('good', '{path: {value: /good}}')}]")
    assert names_of(tmp_path, yaml) == ["good"]
    [error] = errors_of(tmp_path, yaml)
    assert told in error


@pytest.mark.parametrize(
    ("kind", "told"),
    [("HTTPRout", "did you mean gateway.networking.k8s.io/v1"), ("GRPCroute", "v1 GRPCRoute"), ("UDPRoute", "")],
)
def test_a_kind_that_is_misspelt_is_refused_and_others_are_left_out(tmp_path: Path, kind: str, told: str) -> None:
    errors = errors_of(tmp_path, http_route("").replace("HTTPRoute", kind))
    assert [told in one for one in errors] == ([True] if told else [])


def test_grants_and_host_names_are_for_gateways(tmp_path: Path) -> None:
    grant = (
        "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g}\n"
        "spec: {from: [{group: g, kind: HTTPRoute, namespace: x}], to: [{group: '', kind: Service}]}\n"
    )
    named = http_route(f"[{{{backends('b')}}}]").replace("spec: {", "spec: {hostnames: [x.example], ")
    told = warnings_of(tmp_path, grant + named)
    assert any("ReferenceGrant/g.spec: is for gateways" in one for one in told)
    assert any("hostnames: are for gateways" in one for one in told)
