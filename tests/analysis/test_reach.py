"""Whether an earlier rule takes all of a later one's requests: said where it is certain, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshsdk.analysis import Finding, analyze

V = "uri: {prefix: /v}"

# What the earlier rule matches, what the later one does, and whether the later one is out of reach.
PAIRS = [
    ("", "uri: {exact: /x}", True),
    ("uri: {prefix: /}", "", True),
    ("uri: {prefix: /}", "uri: {regex: '/a.*'}", True),
    (V, "uri: {prefix: /v/x}", True),
    (V, "uri: {exact: /v}", True),
    ("uri: {prefix: /v/x}", V, False),
    ("uri: {exact: /v}", V, False),
    ("uri: {regex: '/v.*'}", "uri: {exact: /v}", False),
    ("uri: {regex: '/v.*'}", "uri: {regex: '/v.*'}", True),
    (V, "uri: {prefix: /V}", False),
    (f"{V}, ignoreUriCase: true", "uri: {prefix: /V}", True),
    (V, "uri: {prefix: /v}, ignoreUriCase: true", False),
    (f"{V}, method: {{exact: GET}}", f"{V}, method: {{exact: GET}}", True),
    (f"{V}, method: {{exact: GET}}", V, False),
    (V, f"{V}, method: {{exact: GET}}", True),
    ("headers: {end-user: {exact: jason}}", "headers: {End-User: {exact: jason}, x-a: {exact: b}}", True),
    ("headers: {end-user: {exact: jason}, x-a: {exact: b}}", "headers: {end-user: {exact: jason}}", False),
    ("headers: {end-user: {}}", "headers: {end-user: {regex: 'a+'}}", True),
    ("headers: {end-user: {prefix: ja}}", "headers: {end-user: {exact: jason}}", True),
    ("queryParams: {q: {exact: a}}", "queryParams: {Q: {exact: a}}", False),
    ("withoutHeaders: {x-a: {exact: b}}", "withoutHeaders: {x-a: {}}", True),
    ("withoutHeaders: {x-a: {}}", "withoutHeaders: {x-a: {exact: b}}", False),
    ("withoutHeaders: {x-a: {}}", V, False),
    ("port: 80", "port: 80", True),
    ("port: 80", V, False),
    (V, f"{V}, port: 80", True),
    ("sourceLabels: {app: a}", "sourceLabels: {app: a, version: v1}", True),
    ("sourceLabels: {app: a, version: v1}", "sourceLabels: {app: a}", False),
    ("sourceNamespace: shop", V, False),
    (V, f"{V}, sourceNamespace: shop", True),
    ("gateways: [mesh]", V, False),
    ("gateways: [mesh, g]", f"{V}, gateways: [mesh]", True),
    ("authority: {prefix: a}", "authority: {exact: a.example}", True),
]


def rule(match: str, rest: str = "route: [{destination: {host: a}}]") -> str:
    return f"{{match: [{{{match}}}], {rest}}}" if match else f"{{{rest}}}"


def found(tmp_path: Path, rules: str, kind: str = "http", *, hosts: str = "[a]") -> list[Finding]:
    (tmp_path / "mesh.yaml").write_text(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n"
        f"spec: {{hosts: {hosts}, {kind}: [{rules}]}}\n"
    )
    return [one for one in analyze([tmp_path]).findings if one.code in ("unreachable-rule", "ineffective-match")]


@pytest.mark.parametrize(("earlier", "later", "is_covered"), PAIRS)
def test_a_rule_is_out_of_reach_where_an_earlier_one_takes_all(
    tmp_path: Path, earlier: str, later: str, is_covered: bool
) -> None:
    told = found(tmp_path, f"{rule(earlier)}, {rule(later)}")
    assert [(one.code, one.place.path) for one in told] == (
        [("unreachable-rule", "spec.http[1]")] if is_covered else []
    )


def test_a_rule_that_delegates_takes_nothing_for_certain(tmp_path: Path) -> None:
    assert found(tmp_path, "{delegate: {name: b}}, " + rule(V)) == []
    [told] = found(tmp_path, rule("") + ", {delegate: {name: b}}")
    assert told.place.path == "spec.http[1]"


def test_several_rules_may_take_all_of_one_together(tmp_path: Path) -> None:
    both = "{match: [{uri: {prefix: /w/x}}, {uri: {prefix: /v/x}}], redirect: {uri: /}}"
    [told] = found(tmp_path, f"{rule(V)}, {rule('uri: {prefix: /w}')}, {both}")
    assert told.text == "http[2] never matches: http[1] and http[0] take all that it would"


@pytest.mark.parametrize(
    ("kind", "earlier", "later", "is_covered"),
    [
        ("tls", "sniHosts: ['*.example']", "sniHosts: [a.example]", True),
        ("tls", "sniHosts: [a.example]", "sniHosts: ['*.example']", False),
        ("tls", "sniHosts: [a.example], port: 443", "sniHosts: [a.example]", False),
        ("tcp", "port: 80", "port: 80", True),
        ("tcp", "port: 80", "port: 81", False),
        ("tcp", "destinationSubnets: [10.0.0.0/8]", "destinationSubnets: [10.0.0.0/8]", True),
        ("tcp", "destinationSubnets: [10.0.0.0/8]", "destinationSubnets: [10.1.0.0/16]", False),
    ],
)
def test_rules_of_bytes_are_compared_as_well(
    tmp_path: Path, kind: str, earlier: str, later: str, is_covered: bool
) -> None:
    told = found(tmp_path, f"{rule(earlier)}, {rule(later)}", kind, hosts="[a.example, '*.example']")
    assert [one.code for one in told] == (["unreachable-rule"] if is_covered else [])


@pytest.mark.parametrize(
    ("first", "second", "is_covered"),
    [
        ("", "", True),
        ("", "matches: [{path: {type: PathPrefix, value: /}}], ", True),
        (
            "matches: [{path: {value: /v, type: PathPrefix}}], ",
            "matches: [{path: {type: PathPrefix, value: /v}}], ",
            True,
        ),
        # The more specific one comes first, wherever it stands.
        ("", "matches: [{path: {type: Exact, value: /v}}], ", False),
        ("matches: [{method: GET}], ", "matches: [{method: GET}, {method: PUT}], ", False),
    ],
)
def test_of_gateway_api_only_equal_matches_are_certain(
    tmp_path: Path, first: str, second: str, is_covered: bool
) -> None:
    rules = ", ".join(f"{{{one}backendRefs: [{{name: a, port: 80}}]}}" for one in (first, second))
    (tmp_path / "route.yaml").write_text(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n"
        f"spec: {{parentRefs: [{{kind: Service, group: '', name: a}}], rules: [{rules}]}}\n"
    )
    told = [one.place.path for one in analyze([tmp_path]).findings if one.code == "unreachable-rule"]
    assert told == (["spec.rules[1]"] if is_covered else [])
