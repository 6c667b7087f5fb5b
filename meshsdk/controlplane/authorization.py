"""AuthorizationPolicy to RBAC, as istiod makes it (istio/istio pilot/pkg/security/authz/{builder,model,matcher}).

Each field and key has one maker of a matcher; the order of the fields is istiod's. Values have been checked when they
were read (`authorization_rules`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac_filter_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2

from .authorization_rules import claim_path, parse_network
from .security_world import AuthorizationPolicy, Condition, MeshConfig, Operation, Rule, Source, Values
from .trust_domains import expand_domains, replace_domains

__all__ = ["make_filter", "make_rbac"]

_JWT_FILTER = "envoy.filters.http.jwt_authn"
_SPIFFE = "spiffe://"
_ANY = ".+"

MakePermissions = Callable[[Values], Permission]
MakePrincipals = Callable[[Values], Principal]


def make_rbac(
    policies: Sequence[AuthorizationPolicy], action: RBAC.Action, mesh: MeshConfig, id_prefix: str = ""
) -> RBAC:
    """The rules of several policies with the same action."""
    rules = RBAC(action=action)
    for policy in policies:
        name = f"{id_prefix}ns[{policy.namespace}]-policy[{policy.name}]"
        for index, rule in enumerate(policy.rules):
            rules.policies[f"{name}-rule[{index}]"].CopyFrom(_policy(rule, policy.namespace, mesh))
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


def _policy(rule: Rule, namespace: str, mesh: MeshConfig) -> Policy:
    policy = Policy()
    of_permission = [one for one in rule.conditions if _is_permission(one.key)]
    of_principal = [one for one in rule.conditions if not _is_permission(one.key)]
    for operation in rule.operations or (Operation({}, {}),):
        permissions = _permissions(_OPERATION, operation.values, operation.not_values)
        for condition in of_permission:
            make = _permission_maker(condition)
            permissions += _permissions({"": make}, {"": condition.values}, {"": condition.not_values})
        policy.permissions.append(_all_permissions(permissions))
    makers = _source_makers(namespace, mesh)
    for source in rule.sources or (Source({}, {}),):
        principals = _principals({name: makers[name] for name in _SOURCE}, source.values, source.not_values)
        for condition in of_principal:
            maker = _principal_maker(condition, makers)
            principals += _principals({"": maker}, {"": condition.values}, {"": condition.not_values})
        policy.principals.append(_all_principals(principals))
    return policy


def _all_permissions(inner: Iterable[Permission]) -> Permission:
    joined = Permission()
    joined.and_rules.rules.extend(inner)
    if not joined.and_rules.rules:
        joined.and_rules.rules.add().any = True
    return joined


def _all_principals(inner: Iterable[Principal]) -> Principal:
    joined = Principal()
    joined.and_ids.ids.extend(inner)
    if not joined.and_ids.ids:
        joined.and_ids.ids.add().any = True
    return joined


def _permissions(
    makers: Mapping[str, MakePermissions], values: Mapping[str, Values], not_values: Mapping[str, Values]
) -> list[Permission]:
    made = []
    for name, make in makers.items():
        if values.get(name):
            made.append(make(values[name]))
        if not_values.get(name):
            none_of = Permission()
            none_of.not_rule.CopyFrom(make(not_values[name]))
            made.append(none_of)
    return made


def _principals(
    makers: Mapping[str, MakePrincipals], values: Mapping[str, Values], not_values: Mapping[str, Values]
) -> list[Principal]:
    made = []
    for name, make in makers.items():
        if values.get(name):
            made.append(make(values[name]))
        if not_values.get(name):
            none_of = Principal()
            none_of.not_id.CopyFrom(make(not_values[name]))
            made.append(none_of)
    return made


def _any_permission(make: Callable[[str], Permission]) -> MakePermissions:
    def any_of(values: Values) -> Permission:
        joined = Permission()
        joined.or_rules.rules.extend(map(make, values))
        return joined

    return any_of


def _any_principal(make: Callable[[str], Principal]) -> MakePrincipals:
    def any_of(values: Values) -> Principal:
        joined = Principal()
        joined.or_ids.ids.extend(map(make, values))
        return joined

    return any_of


# Matchers of words.


def _matcher(value: str, prefix: str = "", ignore_case: bool = False) -> string_pb2.StringMatcher:
    """Istio's wildcards: `*` is anything there is, `*suffix`, `prefix*`, or the exact text."""
    if value == "*":
        return _regex(_ANY)
    if value.startswith("*") and prefix:
        # Among the names of a peer, only those with the prefix are looked at.
        return _regex(f"{prefix}.*{_quote(value[1:])}")
    if value.startswith("*"):
        return string_pb2.StringMatcher(suffix=value[1:], ignore_case=ignore_case)
    if value.endswith("*"):
        return string_pb2.StringMatcher(prefix=prefix + value[:-1], ignore_case=ignore_case)
    return string_pb2.StringMatcher(exact=prefix + value, ignore_case=ignore_case)


def _regex(pattern: str) -> string_pb2.StringMatcher:
    matcher = string_pb2.StringMatcher()
    matcher.safe_regex.regex = pattern
    return matcher


_SPECIAL = frozenset("\\.+*?()|[]{}^$")


def _quote(text: str) -> str:
    """Text without a meaning in a regular expression, written as Go's QuoteMeta does."""
    return "".join(f"\\{one}" if one in _SPECIAL else one for one in text)


def _fill_header(message: Permission | Principal, name: str, value: str, ignore_case: bool = False) -> None:
    message.header.name = name
    if value == "*":
        # "Is there", also with an empty value.
        message.header.present_match = True
    else:
        message.header.string_match.CopyFrom(_matcher(value, ignore_case=ignore_case))


# What is asked.


def _host(value: str) -> Permission:
    permission = Permission()
    _fill_header(permission, ":authority", value, ignore_case=True)
    return permission


def _method(value: str) -> Permission:
    permission = Permission()
    _fill_header(permission, ":method", value)
    return permission


def _path(value: str) -> Permission:
    permission = Permission()
    if "{*}" in value or "{**}" in value:
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
    return Permission(destination_port=int(value))


def _destination(value: str) -> Permission:
    permission = Permission()
    network = parse_network(value)
    permission.destination_ip.address_prefix = str(network.network_address)
    permission.destination_ip.prefix_len.value = network.prefixlen
    return permission


def _server_name(value: str) -> Permission:
    permission = Permission()
    permission.requested_server_name.CopyFrom(_matcher(value))
    return permission


_OPERATION: dict[str, MakePermissions] = {
    "hosts": _any_permission(_host),
    "methods": _any_permission(_method),
    "paths": _any_permission(_path),
    "ports": _any_permission(_port),
}
_PERMISSION_KEYS: dict[str, MakePermissions] = {
    "destination.ip": _any_permission(_destination),
    "destination.port": _any_permission(_port),
    "connection.sni": _any_permission(_server_name),
}
_EXPERIMENTAL = "experimental."


def _is_permission(key: str) -> bool:
    return key in _PERMISSION_KEYS or key.startswith(_EXPERIMENTAL)


def _permission_maker(condition: Condition) -> MakePermissions:
    return _PERMISSION_KEYS.get(condition.key) or _metadata_maker(condition.key)


def _metadata_maker(key: str) -> MakePermissions:
    """`experimental.envoy.filters.a.b[c]`: what the filter `envoy.filters.a.b` has said under `c`."""
    name, _, path = key.removeprefix(_EXPERIMENTAL).removesuffix("]").partition("[")

    def made(values: Values) -> Permission:
        permission = Permission()
        permission.metadata.filter = name
        permission.metadata.path.add(key=path)
        permission.metadata.value.CopyFrom(_any_value([_metadata_value(value) for value in values]))
        return permission

    return made


def _metadata_value(value: str) -> value_pb2.ValueMatcher:
    """`[v]` is one of a list."""
    matcher = value_pb2.ValueMatcher()
    if value.startswith("[") and value.endswith("]"):
        matcher.list_match.one_of.string_match.CopyFrom(_matcher(value.strip("[]")))
    else:
        matcher.string_match.CopyFrom(_matcher(value))
    return matcher


def _any_value(matchers: Sequence[value_pb2.ValueMatcher]) -> value_pb2.ValueMatcher:
    if len(matchers) == 1:
        return matchers[0]
    joined = value_pb2.ValueMatcher()
    joined.or_match.value_matchers.extend(matchers)
    return joined


# Who asks.

_SOURCE = {
    "principals": "source.principal",
    "requestPrincipals": "request.auth.principal",
    "serviceAccounts": "source.serviceAccount",
    "trustDomains": "source.trustDomain",
    "namespaces": "source.namespace",
    "remoteIpBlocks": "remote.ip",
    "ipBlocks": "source.ip",
}


def _source_makers(namespace: str, mesh: MeshConfig) -> dict[str, MakePrincipals]:
    """By field of a source, and by key of a condition that says the same."""
    domains = (mesh.trust_domain, *mesh.trust_domain_aliases)
    names = _any_principal(lambda value: _authenticated(_matcher(value, prefix=_SPIFFE)))
    of_domain = _any_principal(_trust_domain)
    makers: dict[str, MakePrincipals] = {
        "principals": lambda values: names(replace_domains(values, domains)),
        "requestPrincipals": _request_principals,
        "serviceAccounts": _any_principal(lambda value: _service_account(value, namespace)),
        "trustDomains": lambda values: of_domain(expand_domains(values, domains)),
        "namespaces": _any_principal(_namespace),
        "remoteIpBlocks": _any_principal(lambda value: _address("remote_ip", value)),
        "ipBlocks": _any_principal(lambda value: _address("direct_remote_ip", value)),
    }
    return makers | {key: makers[name] for name, key in _SOURCE.items()}


def _principal_maker(condition: Condition, makers: Mapping[str, MakePrincipals]) -> MakePrincipals:
    kind, _, rest = condition.key.partition("[")
    if kind == "request.headers":
        return _any_principal(lambda value: _header(rest.removesuffix("]"), value))
    if kind == "request.auth.claims":
        return _claim_maker(claim_path(condition.key.removeprefix(kind)))
    single = {"request.auth.audiences": "aud", "request.auth.presenter": "azp"}.get(kind)
    return _claim_maker([single]) if single is not None else makers[kind]


def _header(name: str, value: str) -> Principal:
    principal = Principal()
    _fill_header(principal, name, value)
    return principal


def _address(field: str, value: str) -> Principal:
    principal = Principal()
    network = parse_network(value)
    target = getattr(principal, field)
    target.address_prefix = str(network.network_address)
    target.prefix_len.value = network.prefixlen
    return principal


def _authenticated(matcher: string_pb2.StringMatcher) -> Principal:
    principal = Principal()
    principal.authenticated.principal_name.CopyFrom(matcher)
    return principal


def _namespace(value: str) -> Principal:
    pattern = ".*".join(_quote(part) for part in value.split("*"))
    return _authenticated(_regex(f".*/ns/{pattern}/.*"))


def _service_account(value: str, own: str) -> Principal:
    """`namespace/name`, or a name in the policy's own namespace (istiod's serviceAccountRegex)."""
    namespace, slash, account = value.partition("/")
    if not slash:
        namespace, account = own, value
    return _authenticated(_regex(f"spiffe://.+/ns/{_quote(namespace)}/(.+/|)sa/{_quote(account)}(/.+)?"))


def _trust_domain(value: str) -> Principal:
    if value == "*":
        return _authenticated(string_pb2.StringMatcher(prefix=_SPIFFE))
    if "*" not in value:
        return _authenticated(string_pb2.StringMatcher(prefix=f"{_SPIFFE}{value}/"))
    before, _, after = value.partition("*")
    return _authenticated(_regex(f"spiffe://{_quote(before)}[^/]*{_quote(after)}/.*"))


def _request_principals(values: Values) -> Principal:
    made = [_request_principal(value) for value in values]
    if len(made) == 1:
        return made[0]
    joined = Principal()
    joined.or_ids.ids.extend(made)
    return joined


def _request_principal(value: str) -> Principal:
    """`issuer/subject` of the request's token. A value without a slash is an issuer, of a token without a subject."""
    issuer, slash, subject = value.rpartition("/")
    if not slash:
        issuer, subject = value, ""
    if value == "*":
        matchers = _regex(_ANY), _regex(_ANY)
    elif value.startswith("*") and not slash:
        matchers = _regex(_ANY), string_pb2.StringMatcher(suffix=value[1:])
    elif value.startswith("*"):
        of_issuer = _regex(_ANY) if issuer == "*" else string_pb2.StringMatcher(suffix=issuer[1:])
        matchers = of_issuer, string_pb2.StringMatcher(exact=subject)
    elif value.endswith("*") and not slash:
        matchers = string_pb2.StringMatcher(prefix=value[:-1]), _regex(_ANY)
    elif value.endswith("*"):
        of_subject = _regex(_ANY) if subject == "*" else string_pb2.StringMatcher(prefix=subject[:-1])
        matchers = string_pb2.StringMatcher(exact=issuer), of_subject
    else:
        matchers = string_pb2.StringMatcher(exact=issuer), string_pb2.StringMatcher(exact=subject)
    principal = Principal()
    for claim, matcher in zip(("iss", "sub"), matchers, strict=True):
        metadata = principal.and_ids.ids.add().metadata
        _point_at_claim(metadata, [claim])
        metadata.value.string_match.CopyFrom(matcher)
    return principal


def _claim_maker(path: Sequence[str]) -> MakePrincipals:
    """A claim of the token, which is a string or a list of strings."""

    def made(values: Values) -> Principal:
        principal = Principal()
        _point_at_claim(principal.metadata, path)
        value = _any_value([value_pb2.ValueMatcher(string_match=_matcher(one)) for one in values])
        matchers = principal.metadata.value.or_match.value_matchers
        matchers.add().list_match.one_of.CopyFrom(value)
        matchers.add().CopyFrom(value)
        return principal

    return made


def _point_at_claim(metadata: metadata_pb2.MetadataMatcher, path: Sequence[str]) -> None:
    metadata.filter = _JWT_FILTER
    for key in ("payload", *path):
        metadata.path.add(key=key)
