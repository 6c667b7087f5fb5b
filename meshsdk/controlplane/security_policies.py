"""Istio's security policies, read: PeerAuthentication, RequestAuthentication, AuthorizationPolicy, and MeshConfig.

A security policy that cannot be read is never left out in silence: it would let in whom it was to keep out. What is
wrong with one is kept in `SecurityWorld.broken`, and while anything is, no inbound listener is made.

Sources: istio/api security/v1beta1/{peer_authentication,request_authentication,authorization_policy}.proto,
mesh/v1alpha1/config.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from .fields import Fields
from .kubernetes import Meta
from .security_world import (
    AuthorizationPolicy,
    Condition,
    JwtRule,
    MeshConfig,
    Operation,
    PeerAuthentication,
    Provider,
    RequestAuthentication,
    Rule,
    Source,
    Values,
)

__all__ = [
    "parse_authorization_policy",
    "parse_mesh_config",
    "parse_peer_authentication",
    "parse_request_authentication",
]

MODES = ("UNSET", "DISABLE", "PERMISSIVE", "STRICT")


def _selector(spec: Fields | None) -> Mapping[str, str] | None:
    if spec is None:
        return None
    for name in ("targetRef", "targetRefs"):
        if name in spec:
            raise spec.error(name, "is for gateways and waypoints; use selector")
    selector = spec.child("selector")
    if selector is None:
        return None
    labels = selector.labels("matchLabels")
    selector.finish()
    return labels or None


def _mode(fields: Fields | None) -> str:
    if fields is None:
        return "UNSET"
    mode = fields.text("mode", "UNSET")
    if mode not in MODES:
        raise fields.error("mode", f"must be one of {list(MODES)}, is {mode!r}")
    fields.finish()
    return mode


def parse_peer_authentication(spec: Fields | None, meta: Meta) -> PeerAuthentication:
    """A PeerAuthentication."""
    if spec is None:
        return PeerAuthentication(meta.name, meta.namespace, None, "UNSET")
    ports = {}
    for port, mtls in spec.child_map("portLevelMtls").items():
        if not port.isdecimal():
            raise spec.error("portLevelMtls", f"{port!r} is no port number")
        ports[int(port)] = _mode(mtls)
    parsed = PeerAuthentication(meta.name, meta.namespace, _selector(spec), _mode(spec.child("mtls")), ports)
    spec.finish()
    return parsed


def parse_request_authentication(spec: Fields | None, meta: Meta) -> RequestAuthentication:
    """A RequestAuthentication."""
    if spec is None:
        return RequestAuthentication(meta.name, meta.namespace, None, ())
    rules = tuple(_parse_jwt_rule(rule) for rule in spec.children("jwtRules"))
    parsed = RequestAuthentication(meta.name, meta.namespace, _selector(spec), rules)
    spec.finish()
    return parsed


def _parse_jwt_rule(rule: Fields) -> JwtRule:
    headers, claims = [], []
    for header in rule.children("fromHeaders"):
        headers.append((header.required_text("name"), header.text("prefix")))
        header.finish()
    for claim in rule.children("outputClaimToHeaders"):
        claims.append((claim.required_text("header"), claim.required_text("claim")))
        claim.finish()
    jwks, uri = rule.text("jwks"), rule.text("jwksUri") or rule.text("jwks_uri")
    if not jwks and not uri:
        raise rule.error("jwksUri", "must be set, or jwks: keys are not discovered from the issuer")
    parsed = JwtRule(
        issuer=rule.required_text("issuer"),
        audiences=rule.texts("audiences"),
        jwks=jwks,
        jwks_uri="" if jwks else uri,
        headers=tuple(headers),
        params=rule.texts("fromParams"),
        cookies=rule.texts("fromCookies"),
        output_payload_header=rule.text("outputPayloadToHeader"),
        claim_headers=tuple(claims),
        forward_token=rule.boolean("forwardOriginalToken"),
        timeout_seconds=rule.duration("timeout") or 5.0,
        space_delimited_claims=rule.texts("spaceDelimitedClaims"),
    )
    rule.finish()
    return parsed


_ACTIONS = ("ALLOW", "DENY", "AUDIT", "CUSTOM")
_SOURCE = {
    "principals": "notPrincipals",
    "requestPrincipals": "notRequestPrincipals",
    "namespaces": "notNamespaces",
    "serviceAccounts": "notServiceAccounts",
    "ipBlocks": "notIpBlocks",
    "remoteIpBlocks": "notRemoteIpBlocks",
}
_OPERATION = {"hosts": "notHosts", "ports": "notPorts", "methods": "notMethods", "paths": "notPaths"}


def parse_authorization_policy(
    spec: Fields | None, meta: Meta, annotations: Mapping[str, str], where: str
) -> AuthorizationPolicy:
    """An AuthorizationPolicy. Without a spec it allows nothing."""
    is_dry_run = annotations.get("istio.io/dry-run", "").lower() == "true"
    if spec is None:
        return AuthorizationPolicy(meta.name, meta.namespace, None, "ALLOW", (), is_dry_run=is_dry_run, where=where)
    action = spec.text("action", "ALLOW")
    if action not in _ACTIONS:
        raise spec.error("action", f"must be one of {list(_ACTIONS)}, is {action!r}")
    provider = spec.child("provider")
    name = provider.required_text("name") if provider is not None else ""
    if (action == "CUSTOM") != bool(name):
        raise spec.error("provider.name", "goes with action CUSTOM, which needs it")
    rules = tuple(_parse_rule(rule) for rule in spec.children("rules"))
    parsed = AuthorizationPolicy(
        meta.name, meta.namespace, _selector(spec), action, rules, name, is_dry_run=is_dry_run, where=where
    )
    _refuse_unknown(spec)
    return parsed


def _refuse_unknown(fields: Fields) -> None:
    """A field that is not understood may be a condition: a policy without it would be another one."""
    unread = fields.unread
    if unread:
        raise fields.error(unread[0], "is not known, and a policy without it would be another one")


def _parse_rule(rule: Fields) -> Rule:
    sources, operations, conditions = [], [], []
    for entry in rule.children("from"):
        source = entry.child("source")
        if source is None:
            raise entry.error("source", "must be set")
        sources.append(Source(*_pairs(source, _SOURCE)))
    for entry in rule.children("to"):
        operation = entry.child("operation")
        if operation is None:
            raise entry.error("operation", "must be set")
        operations.append(Operation(*_pairs(operation, _OPERATION)))
    for entry in rule.children("when"):
        condition = Condition(
            entry.required_text("key"), entry.texts("values"), entry.texts("notValues"), entry.path("key")
        )
        if not condition.values and not condition.not_values:
            raise entry.error("values", "must be set, or notValues")
        _refuse_unknown(entry)
        conditions.append(condition)
    _refuse_unknown(rule)
    return Rule(tuple(sources), tuple(operations), tuple(conditions))


def _pairs(fields: Fields, names: Mapping[str, str]) -> tuple[dict[str, Values], dict[str, Values]]:
    values = {name: fields.texts(name) for name in names if name in fields}
    not_values = {name: fields.texts(negated) for name, negated in names.items() if negated in fields}
    _refuse_unknown(fields)
    if not values and not not_values:
        raise fields.error(next(iter(names)), "must be set, or another field: empty, it would match nothing or all")
    return values, not_values


def parse_mesh_config(config_map: Fields, warnings: list[str]) -> MeshConfig:
    """The MeshConfig in Istio's ConfigMap `istio` (its key `mesh` holds YAML)."""
    data = config_map.child("data")
    text = data.text("mesh") if data is not None else ""
    try:
        document = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise config_map.error("data.mesh", f"is not YAML: {' '.join(str(error).split())}") from error
    mesh = Fields(f"{config_map.where}.data.mesh", document, warnings)
    normalization = mesh.child("pathNormalization")
    providers = {}
    for entry in mesh.children("extensionProviders"):
        provider = _parse_provider(entry)
        if provider is not None:
            providers[provider.name] = provider
    return MeshConfig(
        trust_domain=mesh.text("trustDomain", "cluster.local"),
        trust_domain_aliases=mesh.texts("trustDomainAliases"),
        path_normalization=normalization.text("normalization", "DEFAULT") if normalization is not None else "DEFAULT",
        root_namespace=mesh.text("rootNamespace", "istio-system"),
        providers=providers,
        enable_auto_mtls=mesh.boolean("enableAutoMtls", True),
    )


def _parse_provider(entry: Fields) -> Provider | None:
    name = entry.required_text("name")
    grpc, http = entry.child("envoyExtAuthzGrpc"), entry.child("envoyExtAuthzHttp")
    fields = grpc or http
    if fields is None:
        return None
    port = fields.integer("port", low=1, high=65535)
    if port is None:
        raise fields.error("port", "must be set")
    body = fields.child("includeRequestBodyInCheck")
    status = fields.text("statusOnError")
    if status and not status.isdecimal():
        raise fields.error("statusOnError", f"must be a status, is {status!r}")
    return Provider(
        name=name,
        service=fields.required_text("service").rpartition("/")[2],
        port=port,
        is_http=grpc is None,
        timeout_seconds=fields.duration("timeout") or 600.0,
        fail_open=fields.boolean("failOpen"),
        status_on_error=int(status) if status else 403,
        path_prefix=fields.text("pathPrefix"),
        request_headers=fields.texts("includeRequestHeadersInCheck") + fields.texts("includeHeadersInCheck"),
        headers_to_add=fields.labels("includeAdditionalHeadersInCheck"),
        upstream_headers=fields.texts("headersToUpstreamOnAllow"),
        client_headers=fields.texts("headersToDownstreamOnDeny"),
        client_headers_on_success=fields.texts("headersToDownstreamOnAllow"),
        max_body_bytes=body.integer("maxRequestBytes") if body is not None else None,
        allow_partial_body=body.boolean("allowPartialMessage") if body is not None else False,
    )
