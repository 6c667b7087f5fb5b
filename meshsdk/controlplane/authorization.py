"""AuthorizationPolicy to RBAC, as istiod makes it (istio/istio pilot/pkg/security/authz/{builder,model,matcher})."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence

import re2
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac_filter_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.type.matcher.v3 import string_pb2

from ..errors import ConfigError
from .security_world import AuthorizationPolicy, Condition, Operation, Rule, Source

__all__ = ["make_rbac"]

_JWT_FILTER = "envoy.filters.http.jwt_authn"
_SPIFFE = "spiffe://"

MakeMatcher = Callable[[str], string_pb2.StringMatcher]


def make_rbac(policies: Sequence[AuthorizationPolicy], action: RBAC.Action, id_prefix: str = "") -> RBAC:
    """The rules of several policies with the same action."""
    rules = RBAC(action=action)
    for policy in policies:
        name = f"{id_prefix}ns[{policy.namespace}]-policy[{policy.name}]"
        for index, rule in enumerate(policy.rules):
            rules.policies[f"{name}-rule[{index}]"].CopyFrom(_policy(rule))
        if not policy.rules:
            # A policy without rules matches nothing: under ALLOW, nobody gets in by it.
            rules.policies[f"{name}-rule[none]"].CopyFrom(_never())
    return rules


def make_filter(rules: RBAC | None, shadow: RBAC | None, prefix: str) -> rbac_filter_pb2.RBAC:
    """The HTTP filter."""
    message = rbac_filter_pb2.RBAC(shadow_rules_stat_prefix=prefix)
    if rules is not None:
        message.rules.CopyFrom(rules)
    if shadow is not None:
        message.shadow_rules.CopyFrom(shadow)
    return message


def _never() -> Policy:
    policy = Policy()
    policy.permissions.add().not_rule.any = True
    policy.principals.add().not_id.any = True
    return policy


def _policy(rule: Rule) -> Policy:
    of_permission = [one for one in rule.conditions if _kind(one) == "permission"]
    of_principal = [one for one in rule.conditions if _kind(one) == "principal"]
    policy = Policy()
    for operation in rule.operations or (None,):
        permissions = _operation(operation) if operation is not None else []
        for condition in of_permission:
            permissions += _permission_condition(condition)
        policy.permissions.append(_all_permissions(permissions))
    for source in rule.sources or (None,):
        principals = _source(source) if source is not None else []
        for condition in of_principal:
            principals += _principal_condition(condition)
        policy.principals.append(_all_principals(principals))
    return policy


def _all_permissions(inner: Iterable[Permission]) -> Permission:
    joined = Permission()
    joined.and_rules.rules.extend(inner)
    if not joined.and_rules.rules:
        joined.any = True
    return joined


def _all_principals(inner: Iterable[Principal]) -> Principal:
    joined = Principal()
    joined.and_ids.ids.extend(inner)
    if not joined.and_ids.ids:
        joined.any = True
    return joined


def _permissions(
    values: Sequence[str] | None, not_values: Sequence[str] | None, make: Callable[[str], Permission]
) -> list[Permission]:
    made = []
    if values:
        any_of = Permission()
        any_of.or_rules.rules.extend(map(make, values))
        made.append(any_of)
    if not_values:
        none_of = Permission()
        none_of.not_rule.or_rules.rules.extend(map(make, not_values))
        made.append(none_of)
    return made


def _principals(
    values: Sequence[str] | None, not_values: Sequence[str] | None, make: Callable[[str], Principal]
) -> list[Principal]:
    made = []
    if values:
        any_of = Principal()
        any_of.or_ids.ids.extend(map(make, values))
        made.append(any_of)
    if not_values:
        none_of = Principal()
        none_of.not_id.or_ids.ids.extend(map(make, not_values))
        made.append(none_of)
    return made


def _operation(operation: Operation) -> list[Permission]:
    makers: dict[str, Callable[[str], Permission]] = {
        "hosts": lambda value: _header_permission(":authority", value, ignore_case=True),
        "ports": _port,
        "methods": lambda value: _header_permission(":method", value),
        "paths": _path,
    }
    made: list[Permission] = []
    for name, make in makers.items():
        made += _permissions(operation.values.get(name), operation.not_values.get(name), make)
    return made


def _source(source: Source) -> list[Principal]:
    makers: dict[str, Callable[[str], Principal]] = {
        "principals": _principal_name,
        "requestPrincipals": _request_principal,
        "namespaces": _namespace,
        "serviceAccounts": _service_account,
        "ipBlocks": lambda value: _address("direct_remote_ip", value),
        "remoteIpBlocks": lambda value: _address("remote_ip", value),
    }
    made: list[Principal] = []
    for name, make in makers.items():
        made += _principals(source.values.get(name), source.not_values.get(name), make)
    return made


_PERMISSION_KEYS = ("destination.ip", "destination.port", "connection.sni")


def _kind(condition: Condition) -> str:
    is_permission = condition.key in _PERMISSION_KEYS or condition.key.startswith("experimental.")
    return "permission" if is_permission else "principal"


def _permission_condition(condition: Condition) -> list[Permission]:
    makers: dict[str, Callable[[str], Permission]] = {
        "destination.ip": _destination,
        "destination.port": _port,
        "connection.sni": _server_name,
    }
    make = makers.get(condition.key)
    if make is None:
        raise ConfigError(condition.where, f"{condition.key!r} is not known")
    return _permissions(condition.values, condition.not_values, make)


def _principal_condition(condition: Condition) -> list[Principal]:
    key = condition.key
    makers: dict[str, Callable[[str], Principal]] = {
        "source.ip": lambda value: _address("direct_remote_ip", value),
        "remote.ip": lambda value: _address("remote_ip", value),
        "source.namespace": _namespace,
        "source.principal": _principal_name,
        "source.serviceAccount": _service_account,
        "request.auth.principal": _request_principal,
        "request.auth.audiences": lambda value: _claim(["aud"], value),
        "request.auth.presenter": lambda value: _claim(["azp"], value),
    }
    make = makers.get(key)
    if make is None and key.startswith("request.headers[") and key.endswith("]"):
        name = key.removeprefix("request.headers[").removesuffix("]")
        make = lambda value: _header_principal(name, value)  # noqa: E731 - it stands beside its kind.
    if make is None and key.startswith("request.auth.claims["):
        path = _claim_path(key.removeprefix("request.auth.claims"), condition.where)
        make = lambda value: _claim(path, value)  # noqa: E731
    if make is None:
        raise ConfigError(condition.where, f"{key!r} is not known")
    return _principals(condition.values, condition.not_values, make)


def _claim_path(text: str, where: str) -> list[str]:
    """`[a][b]` as names."""
    if not text.endswith("]") or "[]" in text:
        raise ConfigError(where, f"{text!r} must be names in brackets")
    return text[1:-1].split("][")


def _matcher(value: str, prefix: str = "", ignore_case: bool = False) -> string_pb2.StringMatcher:
    """Istio's wildcards: `*` is anything there is, `*suffix`, `prefix*`, or the exact text."""
    if value == "*":
        return _regex(".+")
    if value.startswith("*"):
        return string_pb2.StringMatcher(suffix=value[1:], ignore_case=ignore_case)
    if value.endswith("*"):
        return string_pb2.StringMatcher(prefix=prefix + value[:-1], ignore_case=ignore_case)
    return string_pb2.StringMatcher(exact=prefix + value, ignore_case=ignore_case)


def _regex(pattern: str) -> string_pb2.StringMatcher:
    matcher = string_pb2.StringMatcher()
    matcher.safe_regex.regex = pattern
    return matcher


def _header_permission(name: str, value: str, ignore_case: bool = False) -> Permission:
    permission = Permission()
    permission.header.name = name
    permission.header.string_match.CopyFrom(_matcher(value, ignore_case=ignore_case))
    return permission


def _header_principal(name: str, value: str) -> Principal:
    principal = Principal()
    principal.header.name = name
    principal.header.string_match.CopyFrom(_matcher(value))
    return principal


def _path(value: str) -> Permission:
    permission = Permission()
    if "{" in value:
        # AuthorizationPolicy: {*} is one segment, {**} any number.
        template = uri_template_match_pb2.UriTemplateMatchConfig(
            path_template=value.replace("{*}", "*").replace("{**}", "**")
        )
        permission.uri_template.name = "uri-template"
        permission.uri_template.typed_config.Pack(template)
    else:
        permission.url_path.path.CopyFrom(_matcher(value))
    return permission


def _port(value: str) -> Permission:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise ConfigError("AuthorizationPolicy", f"{value!r} is no port")
    return Permission(destination_port=int(value))


def _destination(value: str) -> Permission:
    permission = Permission()
    network = _network(value)
    permission.destination_ip.address_prefix = str(network.network_address)
    permission.destination_ip.prefix_len.value = network.prefixlen
    return permission


def _server_name(value: str) -> Permission:
    permission = Permission()
    permission.requested_server_name.CopyFrom(_matcher(value))
    return permission


def _network(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise ConfigError("AuthorizationPolicy", f"{value!r} is no address or range: {error}") from error


def _address(field: str, value: str) -> Principal:
    principal = Principal()
    network = _network(value)
    target = getattr(principal, field)
    target.address_prefix = str(network.network_address)
    target.prefix_len.value = network.prefixlen
    return principal


def _authenticated(matcher: string_pb2.StringMatcher) -> Principal:
    principal = Principal()
    principal.authenticated.principal_name.CopyFrom(matcher)
    return principal


def _principal_name(value: str) -> Principal:
    return _authenticated(_matcher(value, prefix=_SPIFFE))


def _namespace(value: str) -> Principal:
    # re2.escape leaves no character of a namespace with a meaning; the wildcard is put back.
    pattern = ".*".join(re2.escape(part) for part in value.split("*"))
    return _authenticated(_regex(f".*/ns/{pattern}/.*"))


def _service_account(value: str) -> Principal:
    namespace, slash, account = value.partition("/")
    if not slash:
        raise ConfigError("AuthorizationPolicy", f"serviceAccounts: {value!r} must be namespace/name")
    return _authenticated(_regex(f"spiffe://[^/]+/ns/{re2.escape(namespace)}/sa/{re2.escape(account)}"))


def _request_principal(value: str) -> Principal:
    """`issuer/subject` of the request's token; Istio's wildcards at either end."""
    principal = Principal()
    if value == "*":
        issuer, subject = "*", "*"
    elif "/" in value:
        issuer, _, subject = value.rpartition("/")
    elif value.startswith("*"):
        issuer, subject = "*", value
    else:
        issuer, subject = value, "*"
    principal.and_ids.ids.append(_claim(["iss"], issuer or "*"))
    principal.and_ids.ids.append(_claim(["sub"], subject or "*"))
    return principal


def _claim(path: Sequence[str], value: str) -> Principal:
    """A claim of the token, which is a string or a list of strings."""
    principal = Principal()
    metadata = principal.metadata
    metadata.filter = _JWT_FILTER
    for key in ("payload", *path):
        metadata.path.add(key=key)
    matchers = metadata.value.or_match.value_matchers
    matchers.add().string_match.CopyFrom(_matcher(value))
    matchers.add().list_match.one_of.string_match.CopyFrom(_matcher(value))
    return principal
