"""Istio's security policies, read: PeerAuthentication, RequestAuthentication, AuthorizationPolicy.

A security policy that cannot be read is never left out in silence: it would let in whom it was to keep out. What is
wrong with one is kept in `SecurityWorld.broken`, and while anything is, no inbound listener is made. A field that is
not known, or has no value, is wrong, and so is all that Istio's own servers refuse.

Sources: istio/api security/v1beta1/{peer_authentication,request_authentication,authorization_policy}.proto; istio/istio
pkg/config/validation/validation.go, pkg/config/security/security.go, manifests/charts/base/files/crd-all.gen.yaml.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping

import re2

from .authorization_rules import parse_rules
from .checks import check_selector
from .fields import Fields
from .kubernetes import Meta
from .security_world import AuthorizationPolicy, JwtRule, PeerAuthentication, RequestAuthentication

__all__ = [
    "is_for_gateways",
    "parse_authorization_policy",
    "parse_peer_authentication",
    "parse_request_authentication",
]

MODES = ("UNSET", "DISABLE", "PERMISSIVE", "STRICT")

_PORT = re2.compile(r"[1-9][0-9]{0,4}")
_HEADER_NAME = re2.compile(r"[-_A-Za-z0-9]+")
_GATEWAYS = (("gateway.networking.k8s.io", "Gateway"), ("gateway.networking.k8s.io", "GatewayClass"))


def is_for_gateways(spec: Fields) -> bool:
    """Whether a policy is for gateways only, by `targetRefs`: proxies beside applications leave those out."""
    references = [*spec.children("targetRefs")]
    single = spec.child("targetRef")
    references += [single] if single is not None else []
    kinds = {(reference.text("group"), reference.text("kind")) for reference in references}
    return bool(kinds) and kinds <= set(_GATEWAYS) and "selector" not in spec


def _selector(spec: Fields) -> Mapping[str, str] | None:
    for name in ("targetRef", "targetRefs"):
        if name in spec:
            raise spec.error(name, "is for gateways and waypoints; use selector")
    selector = spec.child("selector")
    if selector is None:
        return None
    check_selector(selector, "matchLabels")
    labels = selector.labels("matchLabels")
    selector.finish_exactly()
    return labels or None


def _mode(fields: Fields | None) -> str:
    if fields is None:
        return "UNSET"
    mode = fields.choice("mode", MODES, "UNSET")
    fields.finish_exactly()
    return mode


def parse_peer_authentication(spec: Fields, meta: Meta) -> PeerAuthentication:
    """A PeerAuthentication."""
    ports = {}
    levels = spec.child_map("portLevelMtls")
    if "portLevelMtls" in spec and not levels:
        raise spec.error("portLevelMtls", "must have a port")
    for port, mtls in levels.items():
        if not _PORT.fullmatch(port) or int(port) > 65535:
            raise spec.error("portLevelMtls", f"{port!r} is no port number")
        ports[int(port)] = _mode(mtls)
    mode = _mode(spec.child("mtls"))
    parsed = PeerAuthentication(meta.name, meta.namespace, _selector(spec), mode, ports, meta.created)
    if ports and parsed.selector is None:
        raise spec.error("portLevelMtls", "needs a selector: ports are those of a workload")
    spec.finish_exactly()
    return parsed


def parse_request_authentication(spec: Fields, meta: Meta) -> RequestAuthentication:
    """A RequestAuthentication."""
    rules = tuple(_parse_jwt_rule(rule) for rule in spec.children("jwtRules"))
    parsed = RequestAuthentication(meta.name, meta.namespace, _selector(spec), rules)
    spec.finish_exactly()
    return parsed


def _parse_jwt_rule(rule: Fields) -> JwtRule:
    headers, claims = [], []
    for header in rule.children("fromHeaders"):
        headers.append((header.required_text("name"), header.text("prefix")))
        header.finish_exactly()
    for claim in rule.children("outputClaimToHeaders"):
        claims.append((claim.required_text("header"), claim.required_text("claim")))
        if not _HEADER_NAME.fullmatch(claims[-1][0]):
            raise claim.error("header", f"{claims[-1][0]!r} is no name of a header")
        claim.finish_exactly()
    timeout = rule.duration("timeout")
    if timeout is not None and timeout < 0.001:
        raise rule.error("timeout", "must be 1ms at least")
    jwks, uri = _keys(rule)
    parsed = JwtRule(
        issuer=rule.required_text("issuer"),
        audiences=rule.words("audiences"),
        jwks=jwks,
        jwks_uri=uri,
        headers=tuple(headers),
        params=rule.words("fromParams"),
        cookies=rule.words("fromCookies"),
        output_payload_header=rule.text("outputPayloadToHeader"),
        claim_headers=tuple(claims),
        forward_token=rule.boolean("forwardOriginalToken"),
        timeout_seconds=timeout or 5.0,
        space_delimited_claims=rule.words("spaceDelimitedClaims"),
    )
    rule.finish_exactly()
    return parsed


def _keys(rule: Fields) -> tuple[str, str]:
    """The key set, or where it is."""
    jwks, uri = rule.text("jwks"), rule.text("jwksUri") or rule.text("jwks_uri")
    if not jwks and not uri:
        raise rule.error("jwksUri", "must be set, or jwks: keys are not discovered from the issuer")
    if jwks and uri:
        raise rule.error("jwksUri", "must not be set beside jwks")
    if uri:
        _check_uri(rule, uri)
    if jwks:
        try:
            is_object = isinstance(json.loads(jwks), dict)
        except (ValueError, RecursionError) as error:
            raise rule.error("jwks", f"is not JSON: {error}") from error
        if not is_object:
            raise rule.error("jwks", "must be a JSON object, a key set")
    return jwks, uri


def _check_uri(rule: Fields, uri: str) -> None:
    try:
        parts = urllib.parse.urlsplit(uri)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise rule.error("jwksUri", f"must be an http:// or https:// address, is {uri!r}")


_ACTIONS = ("ALLOW", "DENY", "AUDIT", "CUSTOM")


def parse_authorization_policy(spec: Fields, meta: Meta, where: str) -> AuthorizationPolicy:
    """An AuthorizationPolicy."""
    action = spec.choice("action", _ACTIONS, "ALLOW")
    provider = spec.child("provider")
    name = provider.required_text("name") if provider is not None else ""
    if provider is not None:
        provider.finish_exactly()
    if (action == "CUSTOM") != bool(name):
        raise spec.error("provider.name", "goes with action CUSTOM, which needs it")
    rules = parse_rules(spec, action)
    if not rules and action in ("DENY", "CUSTOM"):
        raise spec.error("rules", f"must be set: without one {action} never applies; {{}} is a rule for every request")
    parsed = AuthorizationPolicy(
        meta.name,
        meta.namespace,
        _selector(spec),
        action,
        rules,
        name,
        is_dry_run=_is_dry_run(meta.annotations),
        where=where,
    )
    spec.finish_exactly()
    return parsed


def _is_dry_run(annotations: Mapping[str, str]) -> bool:
    """Go's strconv.ParseBool, as istiod has it; what it does not know is no dry run, and the policy holds."""
    return annotations.get("istio.io/dry-run", "") in ("1", "t", "T", "TRUE", "true", "True")
