"""The rules of an AuthorizationPolicy, read, and refused where Istio's own servers refuse them.

Sources: istio/istio pkg/config/validation/validation.go (ValidateAuthorizationPolicy), pkg/config/security/security.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping

import re2

from .fields import Fields
from .kinds import did_you_mean
from .security_world import Condition, Operation, Rule, Source, Values

__all__ = ["claim_path", "parse_network", "parse_rules"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Check = Callable[[Fields, str, str], None]

_PORT = re2.compile(r"[0-9]{1,5}")
_PREFIX_LENGTH = re2.compile(r"0|[1-9][0-9]{0,2}")
# RFC 3986 pchar, as Envoy's uri_template has it.
_LITERAL = re2.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+")
# RFC 9110 5.6.2, and the pseudo-headers that a proxy can match.
_HEADER_NAME = re2.compile(r":?[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MAX_ACCOUNTS = 16


def parse_network(value: str) -> Network:
    """An address, or a range such as 10.0.0.0/8; not the masks that Python knows besides.

    Raises:
        ValueError: It is neither.
    """
    address, slash, length = value.partition("/")
    if "%" in address or (slash and not _PREFIX_LENGTH.fullmatch(length)):
        raise ValueError(f"{value!r} is no address or range")
    return ipaddress.ip_network(value, strict=False)


def _check_any(fields: Fields, name: str, value: str) -> None:
    """Any word."""


def _check_network(fields: Fields, name: str, value: str) -> None:
    try:
        parse_network(value)
    except ValueError as error:
        raise fields.error(name, f"{value!r} is no address or range: {error}") from error


def _check_port(fields: Fields, name: str, value: str) -> None:
    if not _PORT.fullmatch(value) or int(value) > 65535:
        raise fields.error(name, f"{value!r} is no port")


def _check_account(fields: Fields, name: str, value: str) -> None:
    namespace, slash, account = value.partition("/")
    if "*" in value or "/" in account or (slash and not (namespace and account)) or len(value) > 320:
        raise fields.error(name, f"{value!r} must be a name, or namespace/name, without a star")


def _check_trust_domain(fields: Fields, name: str, value: str) -> None:
    is_wildcard = value == "*" or value.startswith("*") != value.endswith("*")
    if "/" in value or value.count("*") > 1 or ("*" in value and not is_wildcard):
        raise fields.error(name, f"{value!r} must be a trust domain, with a star at its beginning or end at most")


def _check_path(fields: Fields, name: str, value: str) -> None:
    is_template = "{*}" in value or "{**}" in value
    is_at_end = False
    for part in value.strip("/").split("/"):
        if part in ("{*}", "{**}"):
            if is_at_end:
                raise fields.error(name, f"{value!r}: {{**}} must be the last of its templates")
            is_at_end = part == "{**}"
        elif "{" in part or "}" in part or (is_template and not _LITERAL.fullmatch(part)):
            raise fields.error(name, f"{value!r}: {part!r} cannot stand in a path with {{*}} or {{**}}")


_SOURCE: dict[str, tuple[str, Check]] = {
    "principals": ("notPrincipals", _check_any),
    "requestPrincipals": ("notRequestPrincipals", _check_any),
    "serviceAccounts": ("notServiceAccounts", _check_account),
    "trustDomains": ("notTrustDomains", _check_trust_domain),
    "namespaces": ("notNamespaces", _check_any),
    "remoteIpBlocks": ("notRemoteIpBlocks", _check_network),
    "ipBlocks": ("notIpBlocks", _check_network),
}
_OPERATION: dict[str, tuple[str, Check]] = {
    "hosts": ("notHosts", _check_any),
    "methods": ("notMethods", _check_any),
    "paths": ("notPaths", _check_path),
    "ports": ("notPorts", _check_port),
}
_KEYS: dict[str, Check] = {
    "source.ip": _check_network,
    "remote.ip": _check_network,
    "source.namespace": _check_any,
    "source.serviceAccount": _check_account,
    "source.principal": _check_any,
    "source.trustDomain": _check_trust_domain,
    "request.auth.principal": _check_any,
    "request.auth.audiences": _check_any,
    "request.auth.presenter": _check_any,
    "destination.ip": _check_network,
    "destination.port": _check_port,
    "connection.sni": _check_any,
}
_MAPS = ("request.headers[", "request.auth.claims[", "experimental.envoy.filters.")

# What is not known before an authorization server is asked.
_NOT_CUSTOM_SOURCES = ("principals", "requestPrincipals", "namespaces", "serviceAccounts", "trustDomains")
_NOT_CUSTOM_KEYS = ("source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal")


def parse_rules(spec: Fields, action: str) -> tuple[Rule, ...]:
    """`rules` of a spec."""
    return tuple(_parse_rule(rule, action) for rule in spec.children("rules"))


def _parse_rule(rule: Fields, action: str) -> Rule:
    sources, operations = [], []
    for entry in rule.children("from"):
        sources.append(_parse_source(_only(entry, "source"), action))
        entry.finish_exactly()
    for entry in rule.children("to"):
        operations.append(Operation(*_pairs(_only(entry, "operation"), _OPERATION)))
        entry.finish_exactly()
    for name, found in (("from", sources), ("to", operations)):
        if name in rule and not found:
            raise rule.error(name, "must not be empty: it would be no condition at all")
    conditions = tuple(_parse_condition(entry, action) for entry in rule.children("when"))
    rule.finish_exactly()
    return Rule(tuple(sources), tuple(operations), conditions)


def _only(entry: Fields, name: str) -> Fields:
    child = entry.child(name)
    if child is None:
        entry.finish_exactly()
        raise entry.error(name, "must be set")
    return child


def _parse_source(fields: Fields, action: str) -> Source:
    source = Source(*_pairs(fields, _SOURCE))
    named = {name for name in _SOURCE if name in source.values or name in source.not_values}
    if "serviceAccounts" in named and named & {"principals", "namespaces"}:
        raise fields.error("serviceAccounts", "cannot stand beside principals or namespaces")
    for name in ("serviceAccounts", "notServiceAccounts"):
        if len(fields.texts(name)) > _MAX_ACCOUNTS:
            raise fields.error(name, f"may have {_MAX_ACCOUNTS} values at most")
    if action == "CUSTOM" and named.intersection(_NOT_CUSTOM_SOURCES):
        raise fields.error(min(named.intersection(_NOT_CUSTOM_SOURCES)), "cannot be asked of with action CUSTOM")
    return source


def _pairs(fields: Fields, names: Mapping[str, tuple[str, Check]]) -> tuple[dict[str, Values], dict[str, Values]]:
    """The values, and those that must not be, by field; an empty list is no condition, as in Istio."""
    values, not_values = {}, {}
    for name, (negated, check) in names.items():
        if found := _checked(fields, name, check):
            values[name] = found
        if found := _checked(fields, negated, check):
            not_values[name] = found
    fields.finish_exactly()
    if not values and not not_values:
        raise fields.error(next(iter(names)), "must be set, or another field: empty, it would match nothing or all")
    return values, not_values


def _checked(fields: Fields, name: str, check: Check) -> Values:
    values = fields.words(name)
    for value in values:
        check(fields, name, value)
    return values


def _parse_condition(entry: Fields, action: str) -> Condition:
    key = entry.required_text("key")
    check = _check_of(entry, key)
    is_unasked = key in _NOT_CUSTOM_KEYS or key.startswith("request.auth.")
    if action == "CUSTOM" and is_unasked:
        raise entry.error("key", f"{key!r} cannot be asked of with action CUSTOM")
    condition = Condition(key, _checked(entry, "values", check), _checked(entry, "notValues", check))
    entry.finish_exactly()
    if not condition.values and not condition.not_values:
        raise entry.error("values", "must be set, or notValues")
    return condition


def _check_of(entry: Fields, key: str) -> Check:
    check = _KEYS.get(key)
    if check is not None:
        return check
    kind, bracket, rest = key.partition("[")
    if not (bracket and rest.endswith("]") and len(rest) > 1 and key.startswith(_MAPS)):
        known = [*_KEYS, "request.headers[…]", "request.auth.claims[…]", "experimental.envoy.filters.…[…]"]
        raise entry.error("key", f"{key!r} is not known{did_you_mean(key, known)}")
    if kind == "request.headers" and not _HEADER_NAME.fullmatch(rest[:-1]):
        raise entry.error("key", f"{rest[:-1]!r} is no name of a header")
    if kind == "request.auth.claims" and not all(claim_path(key.removeprefix(kind))):
        raise entry.error("key", f"{key!r} has an empty name")
    return _check_any


def claim_path(text: str) -> list[str]:
    """`[a][b]` as names; what is not of this form is one name (istiod's extractNameInNestedBrackets)."""
    inner = text[1:-1]
    parts = inner.split("][")
    return [inner] if any("[" in part or "]" in part for part in parts) else parts
