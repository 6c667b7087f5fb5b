"""Each field and key of an AuthorizationPolicy as the RBAC that istiod makes of it, and what Istio's servers refuse.

Right is istio/istio pilot/pkg/security/authz/{model,matcher} and its golden files, pkg/config/validation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from envoy.config.rbac.v3.rbac_pb2 import RBAC
from google.protobuf import json_format

# So that Any fields of these can be shown: their types are known by this import.
from meshsdk.controlplane.authorization import make_rbac
from meshsdk.controlplane.folder import load
from meshsdk.controlplane.security_world import MeshConfig
from meshsdk.errors import ConfigError
from tests.conftest import service

PORT = 8080


def rbac_of(folder: Path, rule: str, mesh: MeshConfig | None = None, namespace: str = "shop") -> dict[str, Any]:
    (folder / "policy.yaml").write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: p, namespace: {namespace}}}\nspec: {{action: DENY, rules: [{rule}]}}\n"
    )
    state = load(folder)
    assert not state.errors
    made = make_rbac(state.world.security.authorizations, RBAC.DENY, mesh or MeshConfig())
    [policy] = json_format.MessageToDict(made, preserving_proto_field_name=True)["policies"].values()
    return policy  # type: ignore[no-any-return]


def exact(text: str, **more: Any) -> dict[str, Any]:
    return {"exact": text, **more}


def header(name: str, **match: Any) -> dict[str, Any]:
    return {"header": {"name": name, "string_match": match}}


def present(name: str) -> dict[str, Any]:
    return {"header": {"name": name, "present_match": True}}


def named(**match: Any) -> dict[str, Any]:
    return {"authenticated": {"principal_name": match}}


def regex(text: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": text}}


def address(prefix: str, length: int) -> dict[str, Any]:
    return {"address_prefix": prefix, "prefix_len": length}


def template(text: str) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
    return {"uri_template": {"name": "uri-template", "typed_config": {"@type": kind, "path_template": text}}}


def path(**match: Any) -> dict[str, Any]:
    return {"url_path": {"path": match}}


def jwt(keys: list[str], value: dict[str, Any]) -> dict[str, Any]:
    where = [{"key": key} for key in ("payload", *keys)]
    return {"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": where, "value": value}}


def claim(keys: list[str], *matches: dict[str, Any]) -> dict[str, Any]:
    words = [{"string_match": match} for match in matches]
    value = words[0] if len(words) == 1 else {"or_match": {"value_matchers": words}}
    return jwt(keys, {"or_match": {"value_matchers": [{"list_match": {"one_of": value}}, value]}})


def token(issuer: dict[str, Any], subject: dict[str, Any]) -> dict[str, Any]:
    return {"and_ids": {"ids": [jwt(["iss"], {"string_match": issuer}), jwt(["sub"], {"string_match": subject})]}}


def said(name: str, key: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"filter": name, "path": [{"key": key}], "value": value}}


ANY = regex(".+")
ACCOUNT = "spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?"

# Field, value, and the permission; ports and addresses have no wildcards.
OPERATIONS = [
    ("hosts", "A.example", header(":authority", exact="A.example", ignore_case=True)),
    ("hosts", "a.*", header(":authority", prefix="a.", ignore_case=True)),
    ("hosts", "*.b", header(":authority", suffix=".b", ignore_case=True)),
    ("hosts", "*", present(":authority")),
    ("methods", "GET", header(":method", exact="GET")),
    ("methods", "P*", header(":method", prefix="P")),
    ("methods", "*T", header(":method", suffix="T")),
    ("methods", "*", present(":method")),
    ("paths", "/a", path(exact="/a")),
    ("paths", "/a*", path(prefix="/a")),
    ("paths", "*/a", path(suffix="/a")),
    ("paths", "*", path(**ANY)),
    ("paths", "/a/{*}/b", template("/a/*/b")),
    ("paths", "/a/{**}", template("/a/**")),
    ("paths", "/{*}/{**}/", template("/*/**/")),
    ("ports", "80", {"destination_port": 80}),
    ("ports", "65535", {"destination_port": 65535}),
]
SOURCES = [
    ("principals", "cluster.local/ns/a/sa/b", named(exact="spiffe://cluster.local/ns/a/sa/b")),
    ("principals", "cluster.local/ns/a*", named(prefix="spiffe://cluster.local/ns/a")),
    ("principals", "*/sa/b.c", named(**regex(r"spiffe://.*/sa/b\.c"))),
    ("principals", "*", named(**ANY)),
    ("requestPrincipals", "issuer/subject", token(exact("issuer"), exact("subject"))),
    ("requestPrincipals", "https://i/s", token(exact("https://i"), exact("s"))),
    ("requestPrincipals", "issuer", token(exact("issuer"), exact(""))),
    ("requestPrincipals", "*", token(ANY, ANY)),
    ("requestPrincipals", "*/s", token(ANY, exact("s"))),
    ("requestPrincipals", "*i/s", token({"suffix": "i"}, exact("s"))),
    ("requestPrincipals", "*s", token(ANY, {"suffix": "s"})),
    ("requestPrincipals", "i/*", token(exact("i"), ANY)),
    ("requestPrincipals", "i/s*", token(exact("i"), {"prefix": "s"})),
    ("requestPrincipals", "i*", token({"prefix": "i"}, ANY)),
    ("namespaces", "a", named(**regex(".*/ns/a/.*"))),
    ("namespaces", "a-*", named(**regex(".*/ns/a-.*/.*"))),
    ("namespaces", "*.b", named(**regex(r".*/ns/.*\.b/.*"))),
    ("namespaces", "*", named(**regex(".*/ns/.*/.*"))),
    ("serviceAccounts", "web", named(**regex(ACCOUNT.format("shop", "web")))),
    ("serviceAccounts", "a/w.b", named(**regex(ACCOUNT.format("a", r"w\.b")))),
    ("trustDomains", "td", named(prefix="spiffe://td/")),
    ("trustDomains", "*", named(prefix="spiffe://")),
    ("trustDomains", "*.b", named(**regex(r"spiffe://[^/]*\.b/.*"))),
    ("trustDomains", "a.*", named(**regex(r"spiffe://a\.[^/]*/.*"))),
    ("ipBlocks", "10.1.2.3", {"direct_remote_ip": address("10.1.2.3", 32)}),
    ("ipBlocks", "10.0.0.0/8", {"direct_remote_ip": address("10.0.0.0", 8)}),
    ("ipBlocks", "2001:db8::/32", {"direct_remote_ip": address("2001:db8::", 32)}),
    ("remoteIpBlocks", "10.1.2.3", {"remote_ip": address("10.1.2.3", 32)}),
]
WHEN = [
    ("source.ip", "10.0.0.0/8", {"direct_remote_ip": address("10.0.0.0", 8)}),
    ("remote.ip", "10.0.0.0/8", {"remote_ip": address("10.0.0.0", 8)}),
    ("source.namespace", "a", named(**regex(".*/ns/a/.*"))),
    ("source.serviceAccount", "web", named(**regex(ACCOUNT.format("shop", "web")))),
    ("source.trustDomain", "td", named(prefix="spiffe://td/")),
    ("source.principal", "*", named(**ANY)),
    ("request.auth.principal", "i", token(exact("i"), exact(""))),
    ("request.auth.audiences", "a*", claim(["aud"], {"prefix": "a"})),
    ("request.auth.presenter", "*", claim(["azp"], ANY)),
    ("request.auth.claims[a]", "x", claim(["a"], exact("x"))),
    ("request.auth.claims[a][b]", "*x", claim(["a", "b"], {"suffix": "x"})),
    ("request.headers[X-Role]", "admin", header("X-Role", exact="admin")),
    ("request.headers[x-role]", "*", present("x-role")),
    ("request.headers[x-role]", "a*", header("x-role", prefix="a")),
    ("request.headers[:path]", "*a", header(":path", suffix="a")),
]
WHEN_PERMISSIONS = [
    ("destination.ip", "10.1.0.0/16", {"destination_ip": address("10.1.0.0", 16)}),
    ("destination.port", "80", {"destination_port": 80}),
    ("connection.sni", "a", {"requested_server_name": exact("a")}),
    ("connection.sni", "*.a", {"requested_server_name": {"suffix": ".a"}}),
    ("connection.sni", "*", {"requested_server_name": ANY}),
    (
        "experimental.envoy.filters.a.b[c]",
        "x*",
        said("envoy.filters.a.b", "c", {"string_match": {"prefix": "x"}}),
    ),
    (
        "experimental.envoy.filters.a.b[c]",
        "[x]",
        said("envoy.filters.a.b", "c", {"list_match": {"one_of": {"string_match": exact("x")}}}),
    ),
]


def negated(name: str) -> str:
    return f"not{name[0].upper()}{name[1:]}"


@pytest.mark.parametrize(("field", "value", "permission"), OPERATIONS)
def test_an_operation_is_istiods_permission(tmp_path: Path, field: str, value: str, permission: dict[str, Any]) -> None:
    of_any = {"or_rules": {"rules": [permission]}}
    made = rbac_of(tmp_path, f"{{to: [{{operation: {{{field}: ['{value}']}}}}]}}")
    assert made["permissions"] == [{"and_rules": {"rules": [of_any]}}]
    made = rbac_of(tmp_path, f"{{to: [{{operation: {{{negated(field)}: ['{value}']}}}}]}}")
    assert made["permissions"] == [{"and_rules": {"rules": [{"not_rule": of_any}]}}]
    assert made["principals"] == [{"and_ids": {"ids": [{"any": True}]}}]


@pytest.mark.parametrize(("field", "value", "principal"), SOURCES)
def test_a_source_is_istiods_principal(tmp_path: Path, field: str, value: str, principal: dict[str, Any]) -> None:
    of_any = principal if field == "requestPrincipals" else {"or_ids": {"ids": [principal]}}
    made = rbac_of(tmp_path, f"{{from: [{{source: {{{field}: ['{value}']}}}}]}}")
    assert made["principals"] == [{"and_ids": {"ids": [of_any]}}]
    made = rbac_of(tmp_path, f"{{from: [{{source: {{{negated(field)}: ['{value}']}}}}]}}")
    assert made["principals"] == [{"and_ids": {"ids": [{"not_id": of_any}]}}]
    assert made["permissions"] == [{"and_rules": {"rules": [{"any": True}]}}]


@pytest.mark.parametrize(("key", "value", "principal"), WHEN)
def test_a_condition_about_who_asks_is_istiods_principal(
    tmp_path: Path, key: str, value: str, principal: dict[str, Any]
) -> None:
    of_any = principal if key.startswith("request.auth.") else {"or_ids": {"ids": [principal]}}
    made = rbac_of(tmp_path, f"{{when: [{{key: '{key}', values: ['{value}'], notValues: ['{value}']}}]}}")
    assert made["principals"] == [{"and_ids": {"ids": [of_any, {"not_id": of_any}]}}]


@pytest.mark.parametrize(("key", "value", "permission"), WHEN_PERMISSIONS)
def test_a_condition_about_what_is_asked_is_istiods_permission(
    tmp_path: Path, key: str, value: str, permission: dict[str, Any]
) -> None:
    of_any = permission if key.startswith("experimental.") else {"or_rules": {"rules": [permission]}}
    made = rbac_of(tmp_path, f"{{when: [{{key: '{key}', values: ['{value}'], notValues: ['{value}']}}]}}")
    assert made["permissions"] == [{"and_rules": {"rules": [of_any, {"not_rule": of_any}]}}]


def test_several_values_are_any_and_several_fields_are_all_in_istiods_order(tmp_path: Path) -> None:
    rule = (
        "{from: [{source: {ipBlocks: [1.1.1.1], requestPrincipals: [i/a, i/b], notTrustDomains: [t]}}],"
        " to: [{operation: {ports: ['80'], hosts: [a, b]}}],"
        " when: [{key: request.auth.audiences, values: [x, y]}, {key: destination.port, values: ['1']}]}"
    )
    made = rbac_of(tmp_path, rule)
    [principal], [permission] = made["principals"], made["permissions"]
    assert principal["and_ids"]["ids"] == [
        {"or_ids": {"ids": [token(exact("i"), exact("a")), token(exact("i"), exact("b"))]}},
        {"not_id": {"or_ids": {"ids": [named(prefix="spiffe://t/")]}}},
        {"or_ids": {"ids": [{"direct_remote_ip": address("1.1.1.1", 32)}]}},
        claim(["aud"], exact("x"), exact("y")),
    ]
    hosts = [header(":authority", exact=one, ignore_case=True) for one in "ab"]
    assert permission["and_rules"]["rules"] == [
        {"or_rules": {"rules": hosts}},
        {"or_rules": {"rules": [{"destination_port": 80}]}},
        {"or_rules": {"rules": [{"destination_port": 1}]}},
    ]


@pytest.mark.parametrize(
    ("field", "value", "names"),
    [
        ("principals", "td1/ns/a/sa/b", ["td1/ns/a/sa/b", "td2/ns/a/sa/b"]),
        ("principals", "cluster.local/ns/a/sa/b", ["td1/ns/a/sa/b", "td2/ns/a/sa/b"]),
        ("principals", "other/ns/a/sa/b", ["other/ns/a/sa/b"]),
        ("principals", "*1/ns/a/sa/b", ["*1/ns/a/sa/b", "td2/ns/a/sa/b"]),
        ("notPrincipals", "td2/ns/a/sa/b", ["td1/ns/a/sa/b", "td2/ns/a/sa/b"]),
        ("trustDomains", "td1", ["td1", "td2"]),
        ("trustDomains", "other", ["other"]),
    ],
)
def test_a_peer_has_every_name_of_its_trust_domain(tmp_path: Path, field: str, value: str, names: list[str]) -> None:
    mesh = MeshConfig(trust_domain="td1", trust_domain_aliases=("td2",))
    of_alias = rbac_of(tmp_path, f"{{from: [{{source: {{{field}: ['{value}']}}}}]}}", mesh)
    of_each = rbac_of(tmp_path, f"{{from: [{{source: {{{field}: {names}}}}}]}}")
    assert of_alias == of_each


REFUSED = [
    ("{from: []}", "must not be empty"),
    ("{from: }", "has no value"),
    ("{to: []}", "must not be empty"),
    ("{to: [{}]}", "operation: must be set"),
    ("{from: [{sorce: {principals: [a]}}]}", "did you mean 'source'"),
    ("{from: [{source: {}}]}", "must be set"),
    ("{from: [{source: {principals: []}}]}", "must be set"),
    ("{from: [{source: {principals: }}]}", "has no value"),
    ("{from: [{source: {principals: ['']}}]}", "must not be empty"),
    ("{from: [{source: {principles: [a]}}]}", "did you mean 'principals'"),
    ("{from: [{source: {not_principals: [a]}}]}", "did you mean 'notPrincipals'"),
    ("{from: [{source: {serviceAccounts: [a], principals: [b]}}]}", "cannot stand beside"),
    ("{from: [{source: {notServiceAccounts: [a], namespaces: [b]}}]}", "cannot stand beside"),
    ("{from: [{source: {serviceAccounts: ['a*']}}]}", "without a star"),
    ("{from: [{source: {serviceAccounts: [a/b/c]}}]}", "namespace/name"),
    ("{from: [{source: {serviceAccounts: [/b]}}]}", "namespace/name"),
    ("{from: [{source: {serviceAccounts: [a/]}}]}", "namespace/name"),
    (f"{{from: [{{source: {{serviceAccounts: [{', '.join(map(str, 'abcdefghijklmnopq'))}]}}}}]}}", "16"),
    ("{from: [{source: {trustDomains: [a/b]}}]}", "trust domain"),
    ("{from: [{source: {trustDomains: ['*a*']}}]}", "trust domain"),
    ("{from: [{source: {trustDomains: ['a*b']}}]}", "trust domain"),
    ("{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}", "no address"),
    ("{from: [{source: {ipBlocks: [10.0.0.0/08]}}]}", "no address"),
    ("{from: [{source: {ipBlocks: [10.0.0.0/255.0.0.0]}}]}", "no address"),
    ("{from: [{source: {ipBlocks: [10.0.0]}}]}", "no address"),
    ("{from: [{source: {notRemoteIpBlocks: [anybody]}}]}", "no address"),
    ("{to: [{operation: {ports: ['65536']}}]}", "no port"),
    ("{to: [{operation: {ports: [http]}}]}", "no port"),
    ("{to: [{operation: {ports: ['٨٠']}}]}", "no port"),
    ("{to: [{operation: {ports: [80]}}]}", "must be a string"),
    ("{to: [{operation: {paths: ['/a/{x}']}}]}", "cannot stand"),
    ("{to: [{operation: {paths: ['/{**}/{*}']}}]}", "last"),
    ("{to: [{operation: {paths: ['/a/{*}.txt']}}]}", "cannot stand"),
    ("{to: [{operation: {paths: ['/*/{*}']}}]}", "cannot stand"),
    ("{when: [{key: source.ip}]}", "must be set"),
    ("{when: [{values: [a]}]}", "key: must be set"),
    ("{when: [{key: source.ip, values: [a]}]}", "no address"),
    ("{when: [{key: destination.port, notValues: [a]}]}", "no port"),
    ("{when: [{key: request.header, values: [a]}]}", "not known"),
    ("{when: [{key: 'request.headers', values: [a]}]}", "not known"),
    ("{when: [{key: 'request.headers[]', values: [a]}]}", "not known"),
    ("{when: [{key: 'request.headers[a b]', values: [a]}]}", "no name of a header"),
    ("{when: [{key: 'request.auth.claims[a][]', values: [a]}]}", "empty name"),
    ("{when: [{key: 'source.principle', values: [a]}]}", "did you mean 'source.principal'"),
    ("{when: [{key: 'destination.labels[a]', values: [a]}]}", "not known"),
    ("{when: [{key: destination.user, values: [a]}]}", "not known"),
    ("{when: [{key: source.principal, value: [a]}]}", "did you mean 'values'"),
    ("{wen: [{key: source.principal, values: [a]}]}", "did you mean 'when'"),
    ("null", "must be an object"),
]
SPECS = [
    ("AuthorizationPolicy", "{action: DENY}", "rules: must be set"),
    ("AuthorizationPolicy", "{action: DENY, rules: []}", "rules: must be set"),
    ("AuthorizationPolicy", "{action: Deny, rules: [{}]}", "must be one of"),
    ("AuthorizationPolicy", "{action: , rules: [{}]}", "has no value"),
    ("AuthorizationPolicy", "{acton: DENY, rules: [{}]}", "did you mean 'action'"),
    ("AuthorizationPolicy", "{rules: [{}], provider: {name: a}}", "goes with action CUSTOM"),
    ("AuthorizationPolicy", "{action: CUSTOM, provider: {name: a}}", "rules: must be set"),
    (
        "AuthorizationPolicy",
        "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {principals: [a]}}]}]}",
        "CUSTOM",
    ),
    (
        "AuthorizationPolicy",
        "{action: CUSTOM, provider: {name: a}, rules: [{when: [{key: request.auth.audiences, values: [a]}]}]}",
        "CUSTOM",
    ),
    ("AuthorizationPolicy", "{selector: {matchLables: {a: b}}, rules: [{}]}", "did you mean 'matchLabels'"),
    ("AuthorizationPolicy", "{selector: {matchLabels: {a: 'b*'}}, rules: [{}]}", "star"),
    ("AuthorizationPolicy", "{selector: {matchLabels: {'': b}}, rules: [{}]}", "no label"),
    ("AuthorizationPolicy", "{targetRefs: [{kind: Service, name: a}], rules: [{}]}", "use selector"),
    ("PeerAuthentication", "{mtls: STRICT}", "must be an object"),
    ("PeerAuthentication", "{mtls: {mod: STRICT}}", "did you mean 'mode'"),
    ("PeerAuthentication", "{mtls: {mode: strict}}", "must be one of"),
    ("PeerAuthentication", "{mtls: }", "has no value"),
    ("PeerAuthentication", "{mlts: {mode: STRICT}}", "did you mean 'mtls'"),
    ("PeerAuthentication", "{portLevelMtls: {80: {mode: STRICT}}}", "needs a selector"),
    ("PeerAuthentication", "{selector: {matchLabels: {a: b}}, portLevelMtls: {}}", "must have a port"),
    ("PeerAuthentication", "{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}", "no port"),
    ("PeerAuthentication", "{selector: {matchLabels: {a: b}}, portLevelMtls: {65536: {mode: STRICT}}}", "no port"),
    ("PeerAuthentication", "{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {}, '80': {}}}", "twice"),
    ("RequestAuthentication", "{jwtRules: [{jwks: '{}'}]}", "issuer: must be set"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a}]}", "jwksUri: must be set"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{}', jwksUri: 'http://a/'}]}", "beside"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{'}]}", "not JSON"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwksUri: 'file:///a'}]}", "http://"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwksUri: 'http://a:99999/'}]}", "http://"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{}', audiences: ['']}]}", "must not be empty"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{}', audience: [a]}]}", "did you mean 'audiences'"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{}', fromParams: ['']}]}", "must not be empty"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{}', fromHeaders: [{}]}]}", "name: must be set"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{}', fromHeaders: [{name: a, prefx: b}]}]}", "did you"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{}', timeout: 0s}]}", "1ms"),
    (
        "RequestAuthentication",
        "{jwtRules: [{issuer: a, jwks: '{}', outputClaimToHeaders: [{header: 'a b', claim: c}]}]}",
        "no name of a header",
    ),
    ("RequestAuthentication", "{jwtrules: []}", "did you mean 'jwtRules'"),
]


@pytest.mark.parametrize(("rule", "words"), REFUSED)
def test_a_rule_that_istio_refuses_lets_nobody_in(tmp_path: Path, rule: str, words: str) -> None:
    check_refused(tmp_path, "AuthorizationPolicy", f"{{action: DENY, rules: [{rule}]}}", words)


@pytest.mark.parametrize(("kind", "spec", "words"), SPECS)
def test_a_policy_that_istio_refuses_lets_nobody_in(tmp_path: Path, kind: str, spec: str, words: str) -> None:
    check_refused(tmp_path, kind, spec, words)


def check_refused(folder: Path, kind: str, spec: str, words: str) -> None:
    (folder / "web.yaml").write_text(service("web", PORT))
    (folder / "policy.yaml").write_text(
        f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p}}\nspec: {spec}\n"
    )
    state = load(folder)
    assert any(words in text and "policy.yaml" in text for text in state.errors), state.errors
    with pytest.raises(ConfigError, match="nobody gets in"):
        state.inbound(f"xds.istio.io/grpc/lds/inbound/127.0.0.1:{PORT}")
