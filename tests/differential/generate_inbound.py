"""Server policies and requests that have a good chance to meet: RBAC, tokens, limits, faults, CORS, CSRF, mutations.

The filters stand in the listener and do nothing by themselves; routes say what they do, so that each example brings
other policies without another listener.
"""

from __future__ import annotations

import functools
import json
from random import Random
from typing import Any

from cel_expr_python import cel
from google.api.expr.v1alpha1 import syntax_pb2
from google.protobuf import any_pb2, json_format
from hypothesis import strategies as st

from .generate import HOSTS, some
from .judge import ManagerOptions, Request
from .strategies import composite, sampled_from
from .tokens import ISSUERS, TOKENS

__all__ = ["CONDITIONS", "FILTERS", "OPTIONS", "condition", "make_request", "policies"]

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_UPSTREAM = "type.googleapis.com/envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher"
_TEMPLATE = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"


def _state(key: str, text: str, factory: str = "envoy.string", **more: Any) -> dict[str, Any]:
    """A value of set_filter_state."""
    form = {"text_format_source": {"inline_string": text}}
    return {"object_key": key, "factory_key": factory, "format_string": form, **more}


STATE = [
    _state("test.user", "%REQ(x-user)%"),
    _state("test.some", "%REQ(x-role)%", skip_if_empty=True),
    _state("test.address", "%REQ(x-forwarded-for)%", "envoy.network.ip"),
    _state("test.empty", "", skip_if_empty=True),
]


def _provider(issuer: str, **fields: Any) -> dict[str, Any]:
    return {"issuer": issuer, "local_jwks": {"inline_string": json.dumps(ISSUERS[issuer])}, **fields}


PROVIDERS = {
    # A skew so long that no token passes its end while the tests run.
    "one": _provider("one", payload_in_metadata="payload", audiences=["a1", "https://a2/"], clock_skew_seconds=7200),
    "two": _provider(
        "two",
        forward=True,
        forward_payload_header="x-payload",
        from_headers=[{"name": "x-jwt", "value_prefix": "Token "}],
        from_params=["token"],
        payload_in_metadata="two",
        claim_to_headers=[
            {"header_name": "x-sub", "claim_name": "sub"},
            {"header_name": "x-n", "claim_name": "nest.n"},
        ],
    ),
    "cookie": _provider("cookies", from_cookies=["jwt"], forward=True),
}
_MISSING: dict[str, Any] = {"allow_missing": {}}
_FAILED: dict[str, Any] = {"allow_missing_or_failed": {}}
REQUIREMENTS: dict[str, dict[str, Any]] = {
    "one": {"provider_name": "one"},
    "two": {"provider_name": "two"},
    "cookie": {"provider_name": "cookie"},
    "audience": {"provider_and_audiences": {"provider_name": "two", "audiences": ["b1"]}},
    "any": {"requires_any": {"requirements": [{"provider_name": "one"}, {"provider_name": "two"}]}},
    "all": {"requires_all": {"requirements": [{"provider_name": "one"}, {"provider_name": "two"}]}},
    "maybe": {"requires_any": {"requirements": [{"provider_name": "one"}, _MISSING]}},
    "whatever": {"requires_any": {"requirements": [{"provider_name": "two"}, _FAILED]}},
    "missing": _MISSING,
    "failed": _FAILED,
}

FILTERS: list[dict[str, Any]] = [
    {"name": "cors", "typed_config": {"@type": f"{_HTTP}.cors.v3.Cors"}},
    {
        "name": "csrf",
        "typed_config": {"@type": f"{_HTTP}.csrf.v3.CsrfPolicy", "filter_enabled": {"default_value": {"numerator": 0}}},
    },
    {
        "name": "jwt",
        "typed_config": {
            "@type": f"{_HTTP}.jwt_authn.v3.JwtAuthentication",
            "providers": PROVIDERS,
            "requirement_map": REQUIREMENTS,
            "rules": [
                {"match": {"prefix": "/ruled/free"}},
                {"match": {"prefix": "/ruled"}, "requires": {"provider_name": "one"}},
                # What a rule asks beside path, headers and parameters is not looked at.
                {
                    "match": {
                        "prefix": "/strict",
                        "grpc": {},
                        "runtime_fraction": {"default_value": {"numerator": 0}},
                        "tls_context": {"presented": True},
                    },
                    "requires": {"provider_name": "one"},
                },
            ],
        },
    },
    {"name": "early", "typed_config": {"@type": f"{_HTTP}.header_mutation.v3.HeaderMutation"}},
    {
        "name": "state",
        "typed_config": {"@type": f"{_HTTP}.set_filter_state.v3.Config", "on_request_headers": STATE},
    },
    {"name": "rbac", "typed_config": {"@type": f"{_HTTP}.rbac.v3.RBAC"}},
    {
        "name": "limit",
        "typed_config": {"@type": f"{_HTTP}.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "limit"},
    },
    {"name": "fault", "typed_config": {"@type": f"{_HTTP}.fault.v3.HTTPFault"}},
    {
        "name": "mutation",
        "typed_config": {
            "@type": f"{_HTTP}.header_mutation.v3.HeaderMutation",
            "mutations": {
                "request_mutations": [{"append": {"header": {"key": "x-late", "value": "1"}}}],
                "response_mutations": [{"append": {"header": {"key": "x-out", "value": "%RESPONSE_CODE%"}}}],
            },
        },
    },
]

OPTIONS = [
    ManagerOptions("plain"),
    ManagerOptions("base", {"normalize_path": True}),
    ManagerOptions("strict", {"normalize_path": True, "merge_slashes": True}),
    ManagerOptions(
        "decoded",
        {
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
            "xff_num_trusted_hops": 1,
        },
    ),
    ManagerOptions("reject", {"path_with_escaped_slashes_action": "REJECT_REQUEST"}),
]

PATHS = [
    "/",
    "/a",
    "/a/b",
    "/admin",
    "/Admin",
    "/%61dmin",
    "/admin/",
    "//admin",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/admin%2Fx",
    "/admin;x=1",
    "/a\\b",
    "/a/./b",
    "/admin?token=x",
    "/ruled",
    "/ruled/free",
    "/strict",
    "/a/b/c",
    "/a#frag",
]
_NAMES = ["x-user", "x-role", "x-gone", ":method", ":path", ":authority", "host"]
_VALUES = ["", "admin", "Admin", "adm", "user", "GET", "a.com", "/a", "1"]
# What proxies say to each other, and anybody may send.
_OF_PROXIES = [
    "x-envoy-internal",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-retry-on",
    "x-envoy-attempt-count",
    "x-envoy-force-trace",
    "x-envoy-peer-metadata",
    "x-forwarded-host",
    "x-request-id",
    "via",
    "forwarded",
    "x-real-ip",
]
_ORIGINS = ["http://a.com", "https://a.com", "http://b.com", "null", "http://a.com:8080", "", "junk"]

_texts = st.sampled_from(["admin", "/admin", "/a", "a.com", "GET", "adm", "one", "user"])


@functools.cache
def _strings() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(
            lambda kind, value, case: {kind: value, "ignore_case": case},
            st.sampled_from(["exact", "prefix", "suffix", "contains"]),
            _texts,
            st.booleans(),
        ),
        st.sampled_from([".*", "/a.*", "(?i)admin", "[^/]+", "a|admin"]).map(
            lambda one: {"safe_regex": {"regex": one}}
        ),
    )


@functools.cache
def _headers() -> st.SearchStrategy[dict[str, Any]]:
    match = st.one_of(
        _strings().map(lambda one: {"string_match": one}),
        st.just({"present_match": True}),
        st.just({"range_match": {"start": 0, "end": 5}}),
    )
    return st.builds(
        lambda name, match, invert, empty: {
            "name": name,
            **match,
            "invert_match": invert,
            "treat_missing_header_as_empty": empty,
        },
        st.sampled_from(_NAMES),
        match,
        st.booleans(),
        st.booleans(),
    )


@functools.cache
def _metadata() -> st.SearchStrategy[dict[str, Any]]:
    value = st.one_of(
        st.sampled_from(["s1", "s2", "one", "a1"]).map(lambda one: {"string_match": {"exact": one}}),
        st.just({"present_match": True}),
        st.sampled_from(["a1", "b1"]).map(lambda one: {"list_match": {"one_of": {"string_match": {"exact": one}}}}),
        st.just({"double_match": {"exact": 7}}),
        st.just({"bool_match": True}),
        st.just(
            {
                "or_match": {
                    "value_matchers": [
                        {"string_match": {"exact": "a1"}},
                        {"list_match": {"one_of": {"string_match": {"prefix": "b"}}}},
                    ]
                }
            }
        ),
    )
    return st.builds(
        lambda name, claims, value, invert: {
            "filter": "envoy.filters.http.jwt_authn",
            "path": [{"key": key} for key in (name, *claims)],
            "value": value,
            "invert": invert,
        },
        st.sampled_from(["payload", "two"]),
        st.sampled_from([["sub"], ["iss"], ["aud"], ["nest", "n"], ["flag"], ["none"]]),
        value,
        st.booleans(),
    )


_RANGES = [("10.0.0.0", 8), ("10.1.0.0", 16), ("192.168.1.1", 32), ("::1", 128), ("0.0.0.0", 0)]
_states = st.sampled_from(["test.user", "test.some", "test.address", "test.empty", "test.none"])
_ranges = st.sampled_from(_RANGES).map(lambda one: {"address_prefix": one[0], "prefix_len": one[1]})


def _nested(leaves: st.SearchStrategy[Any], all_of: str, any_of: str, not_of: str, inner: str) -> Any:
    return st.recursive(
        leaves,
        lambda deeper: st.one_of(
            st.lists(deeper, min_size=1, max_size=3).map(lambda some: {all_of: {inner: some}}),
            st.lists(deeper, min_size=1, max_size=3).map(lambda some: {any_of: {inner: some}}),
            deeper.map(lambda one: {not_of: one}),
        ),
        max_leaves=4,
    )


@functools.cache
def _permissions() -> Any:
    leaves = st.one_of(
        st.just({"any": True}),
        _headers().map(lambda one: {"header": one}),
        _strings().map(lambda one: {"url_path": {"path": one}}),
        st.sampled_from(["/a/*", "/a/**", "/{x}/b", "/admin"]).map(
            lambda text: {"uri_template": {"name": "t", "typed_config": {"@type": _TEMPLATE, "path_template": text}}}
        ),
        _metadata().map(lambda one: {"metadata": one}),
        st.just({"requested_server_name": {"exact": "a.com"}}),
        _ranges.map(lambda one: {"matcher": {"name": "m", "typed_config": {"@type": _UPSTREAM, "upstream_ip": one}}}),
    )
    return _nested(leaves, "and_rules", "or_rules", "not_rule", "rules")


@functools.cache
def _principals() -> Any:
    leaves = st.one_of(
        st.just({"any": True}),
        _headers().map(lambda one: {"header": one}),
        _strings().map(lambda one: {"url_path": {"path": one}}),
        _ranges.map(lambda one: {"remote_ip": one}),
        _ranges.map(lambda one: {"direct_remote_ip": one}),
        _metadata().map(lambda one: {"metadata": one}),
        st.builds(lambda key, one: {"filter_state": {"key": key, "string_match": one}}, _states, _strings()),
        st.builds(
            lambda key, one: {"filter_state": {"key": key, "address_match": {"ranges": [one]}}}, _states, _ranges
        ),
        st.just({"authenticated": {}}),
        st.just({"authenticated": {"principal_name": {"exact": "spiffe://a"}}}),
    )
    return _nested(leaves, "and_ids", "or_ids", "not_id", "ids")


CONDITIONS = [
    "request.path.startsWith('/a')",
    "request.url_path == '/admin'",
    "request.query == 'token=x'",
    "request.host == 'a.com'",
    "request.method in ['GET', 'PUT']",
    "request.headers['X-User'] == 'admin'",
    "request.headers['x-role'].contains('adm')",
    "'x-user' in request.headers",
    "has(request.headers.x)",
    "request.headers[':path'].matches('^/a.*')",
    "request.headers[':authority'].endsWith('.com')",
    "request.scheme == 'http' && size(request.path) > 4",
    "request.referer == 'x' || true",
    "request.useragent == ''",
    "!(request.headers['x-gone'] == '1')",
    "request.headers['x-user'] != 'admin' ? request.method == 'GET' : request.method == 'PUT'",
    "connection.mtls",
    "connection.requested_server_name == ''",
    "connection.uri_san_peer_certificate == 'x' || request.method == 'GET'",
    "metadata.filter_metadata['envoy.filters.http.jwt_authn']['payload']['sub'] == 's1'",
    "metadata.filter_metadata['envoy.filters.http.jwt_authn']['two']['nest']['n'] == 7.0",
    "'envoy.filters.http.jwt_authn' in metadata.filter_metadata",
    "size(request.path) % 2 == 0 && size(request.path) - 1 >= 0",
    "has(request.time) && request.time > timestamp('2020-01-01T00:00:00Z')",
    "request.time.getFullYear('UTC') < 2020 || timestamp('2020-01-01T00:00:00Z').getMonth() == 0",
    "has(request.duration)",
    "request.duration > duration('0s')",
    "request.size == 0",
    "request.size > 0",
    "request.method",
    "[1, 2].exists(x, x == 2)",
    "string(1) == '1'",
]


@functools.cache
def condition(text: str) -> dict[str, Any]:
    """An expression as RBAC takes it."""
    environment = cel.NewEnv(variables=dict.fromkeys(["request", "connection", "metadata", "source"], cel.Type.DYN))
    packed = any_pb2.Any.FromString(environment.compile(text, disable_check=True).serialize())
    tree: dict[str, Any] = json_format.MessageToDict(syntax_pb2.ParsedExpr.FromString(packed.value).expr)
    return tree


@functools.cache
def _conditions() -> Any:
    return st.sampled_from([condition(text) for text in CONDITIONS])


@functools.cache
def _rbac() -> Any:
    policy = st.builds(
        lambda permissions, principals, condition: {
            "permissions": permissions,
            "principals": principals,
            **({"condition": condition} if condition else {}),
        },
        st.lists(_permissions(), min_size=1, max_size=3),
        st.lists(_principals(), min_size=1, max_size=3),
        st.one_of(st.none(), st.none(), _conditions()),
    )
    rules = st.builds(
        lambda action, policies: {"action": action, "policies": policies},
        st.sampled_from(["ALLOW", "ALLOW", "DENY", "LOG"]),
        st.dictionaries(st.sampled_from(["p one", "q", "r"]), policy, max_size=3),
    )
    return st.builds(
        lambda rules, shadow: {
            "@type": f"{_HTTP}.rbac.v3.RBACPerRoute",
            "rbac": {**({"rules": rules} if rules else {}), **({"shadow_rules": shadow} if shadow else {})},
        },
        st.one_of(rules, rules, st.none()),
        st.one_of(st.none(), rules),
    )


@functools.cache
def _jwt() -> Any:
    return st.sampled_from([*REQUIREMENTS, "unknown"]).map(
        lambda name: {"@type": f"{_HTTP}.jwt_authn.v3.PerRouteConfig", "requirement_name": name}
    )


def _percent(numerator: int) -> dict[str, Any]:
    return {"default_value": {"numerator": numerator}}


@functools.cache
def _cors() -> Any:
    return st.builds(
        lambda origins, credentials, methods, forward, expose, enabled: {
            "@type": f"{_HTTP}.cors.v3.CorsPolicy",
            "allow_origin_string_match": origins,
            **({"allow_credentials": credentials} if credentials is not None else {}),
            "allow_methods": methods,
            "allow_headers": methods and "x-a",
            "max_age": expose and "7",
            "expose_headers": expose,
            "filter_enabled": _percent(enabled),
            **({"forward_not_matching_preflights": forward} if forward is not None else {}),
        },
        st.lists(
            st.sampled_from([{"exact": "http://a.com"}, {"prefix": "http"}, {"safe_regex": {"regex": ".*b.com"}}]),
            max_size=2,
        ),
        st.sampled_from([None, True, False]),
        st.sampled_from(["", "GET,POST"]),
        st.sampled_from([None, True, False]),
        st.sampled_from(["", "x-e"]),
        st.sampled_from([100, 100, 0]),
    )


@functools.cache
def _csrf() -> Any:
    return st.builds(
        lambda enabled, origins: {
            "@type": f"{_HTTP}.csrf.v3.CsrfPolicy",
            "filter_enabled": _percent(enabled),
            "additional_origins": origins,
        },
        st.sampled_from([100, 100, 0]),
        st.lists(st.sampled_from([{"exact": "b.com"}, {"suffix": ".com"}]), max_size=1),
    )


@functools.cache
def _action() -> Any:
    key = {"metadata_key": {"key": "envoy.filters.http.jwt_authn", "path": [{"key": "payload"}, {"key": "sub"}]}}
    return st.one_of(
        st.just({"generic_key": {"descriptor_value": "all"}}),
        st.just({"generic_key": {"descriptor_value": "%REQ(x-role)%", "descriptor_key": "role"}}),
        st.just({"remote_address": {}}),
        st.just({"destination_cluster": {}}),
        st.builds(
            lambda name, skips: {
                "request_headers": {"header_name": name, "descriptor_key": "h", "skip_if_absent": skips}
            },
            st.sampled_from(["x-user", "x-role", ":method", ":path"]),
            st.booleans(),
        ),
        st.booleans().map(
            lambda skips: {
                "query_parameters": {
                    "query_parameter_name": "token",
                    "descriptor_key": "q",
                    "skip_if_absent": skips,
                }
            }
        ),
        st.builds(
            lambda headers, expected: {
                "header_value_match": {"descriptor_value": "yes", "expect_match": expected, "headers": headers}
            },
            st.lists(_headers(), min_size=1, max_size=2),
            st.booleans(),
        ),
        st.booleans().map(
            lambda expected: {
                "query_parameter_value_match": {
                    "descriptor_value": "yes",
                    "expect_match": expected,
                    "query_parameters": [{"name": "token", "string_match": {"exact": "x"}}],
                }
            }
        ),
        st.builds(
            lambda default, skips: {
                "metadata": {**key, "descriptor_key": "m", "default_value": default, "skip_if_absent": skips}
            },
            st.sampled_from(["", "nobody"]),
            st.booleans(),
        ),
    )


@functools.cache
def _rules(stages: bool = True) -> Any:
    """What requests are counted by."""
    return st.lists(
        st.builds(
            lambda actions, stage, addend: {
                "actions": actions,
                **({"stage": stage} if stages else {}),
                **({"hits_addend": {"number": addend}} if addend else {}),
            },
            st.lists(_action(), min_size=1, max_size=2),
            st.sampled_from([0, 0, 0, 1]),
            st.sampled_from([0, 0, 2]),
        ),
        max_size=3,
    )


_ENTRIES = [
    [("generic_key", "all")],
    [("role", "admin")],
    [("role", "")],
    [("h", "admin")],
    [("h", "GET")],
    [("h", "")],
    [("q", "x")],
    [("header_match", "yes")],
    [("query_match", "yes")],
    [("m", "nobody")],
    [("m", "")],
    [("destination_cluster", "c0")],
    [("generic_key", "all"), ("h", "admin")],
    [("generic_key", "all"), ("h", "")],
]


@functools.cache
def _descriptors() -> Any:
    return st.builds(
        lambda entries, sizes: [
            {
                "entries": [{"key": key, "value": value} for key, value in one],
                "token_bucket": {"max_tokens": size, "fill_interval": f"{3600 + index}s"},
            }
            for index, (one, size) in enumerate(zip(entries, sizes, strict=True))
        ],
        st.permutations(_ENTRIES).map(lambda some: some[:6]),
        st.lists(st.sampled_from([1, 2, 4]), min_size=6, max_size=6),
    )


@functools.cache
def _limit() -> Any:
    """A bucket, or several by descriptor."""
    return st.builds(
        lambda limit, more: {**limit, **more},
        _plain_limit(),
        st.one_of(
            st.just({}),
            st.builds(
                lambda descriptors, rules, default_too, stage, option, tells: {
                    "descriptors": descriptors,
                    **({"rate_limits": rules} if rules else {}),
                    **({"always_consume_default_token_bucket": default_too} if default_too is not None else {}),
                    "stage": stage,
                    "vh_rate_limits": option,
                    "enable_x_ratelimit_headers": tells,
                },
                _descriptors(),
                st.one_of(st.just([]), _rules(stages=False)),
                st.sampled_from([None, True, False]),
                st.sampled_from([0, 0, 0, 1]),
                st.sampled_from(["OVERRIDE", "INCLUDE", "IGNORE"]),
                st.sampled_from(["OFF", "DRAFT_VERSION_03"]),
            ),
        ),
    )


@functools.cache
def _plain_limit() -> Any:
    return st.builds(
        lambda tokens, status, enforced: {
            "@type": f"{_HTTP}.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "route",
            "token_bucket": {"max_tokens": tokens, "fill_interval": "3600s"},
            "filter_enabled": _percent(100),
            "filter_enforced": _percent(enforced),
            "status": {"code": status},
            "response_headers_to_add": [{"header": {"key": "x-limited", "value": "yes"}}],
            "request_headers_to_add_when_not_enforced": [{"header": {"key": "x-over", "value": "yes"}}],
        },
        st.sampled_from([1, 3, 100000]),
        st.sampled_from([429, 503]),
        st.sampled_from([100, 100, 0]),
    )


@functools.cache
def _fault() -> Any:
    return st.builds(
        lambda status, numerator, headers: {
            "@type": f"{_HTTP}.fault.v3.HTTPFault",
            "abort": {"http_status": status, "percentage": {"numerator": numerator}},
            "headers": headers,
        },
        st.sampled_from([418, 503]),
        st.sampled_from([100, 100, 0]),
        st.lists(_headers(), max_size=1),
    )


@functools.cache
def _mutation() -> Any:
    change = st.one_of(
        st.sampled_from(["x-user", "x-gone"]).map(lambda name: {"remove": name}),
        st.builds(
            lambda name, value, action: {"append": {"header": {"key": name, "value": value}, "append_action": action}},
            st.sampled_from(["x-user", "x-role", "x-new"]),
            st.sampled_from(["admin", "%REQ(x-role)%", "%PROTOCOL%"]),
            st.sampled_from(["APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD"]),
        ),
    )
    return st.builds(
        lambda request, response: {
            "@type": f"{_HTTP}.header_mutation.v3.HeaderMutationPerRoute",
            "mutations": {"request_mutations": request, "response_mutations": response},
        },
        st.lists(change, max_size=2),
        st.lists(change, max_size=2),
    )


_SETTINGS = {
    "rbac": _rbac,
    "jwt": _jwt,
    "cors": _cors,
    "csrf": _csrf,
    "limit": _limit,
    "fault": _fault,
    "early": _mutation,
    "mutation": _mutation,
}
_SWITCH = st.just({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True})


@composite
def _settings(draw: st.DrawFn, most: int) -> dict[str, Any]:
    names = draw(st.lists(sampled_from(["rbac", "rbac", *_SETTINGS]), max_size=most, unique=True))
    # Not by st.one_of, to which the same strategy several times is the same as once.
    return {name: draw(_SETTINGS[name]() if draw(st.integers(0, 3)) else _SWITCH) for name in names}


@composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """A route configuration whose routes say what the filters do."""
    routes = []
    for prefix in draw(st.lists(sampled_from(["/admin", "/a", "/ruled", "/x"]), max_size=2, unique=True)):
        route: dict[str, Any] = {"match": {"prefix": prefix}, "typed_per_filter_config": draw(_settings(3))}
        if draw(st.integers(0, 5)) == 0:
            route["direct_response"] = {"status": 203, "body": {"inline_string": "direct"}}
        else:
            route["route"] = {"cluster": "c0", "rate_limits": draw(_rules())}
            if draw(st.booleans()):
                route["route"]["include_vh_rate_limits"] = draw(st.booleans())
        if draw(st.booleans()):
            route["request_headers_to_add"] = [{"header": {"key": "x-route", "value": "%REQ(x-user)%"}}]
            route["response_headers_to_add"] = [{"header": {"key": "x-route", "value": "%RESPONSE_CODE%"}}]
        routes.append(route)
    if draw(st.integers(0, 4)):
        routes.append(
            {
                "match": {"prefix": "/"},
                "route": {"cluster": "c0", "rate_limits": draw(_rules())},
                "typed_per_filter_config": draw(_settings(4)),
            }
        )
    return {
        "virtual_hosts": [
            {
                "name": "v",
                "domains": ["*"],
                "routes": routes,
                "rate_limits": draw(_rules()),
                "typed_per_filter_config": draw(_settings(2)),
            }
        ]
    }


def make_request(rng: Random) -> Request:
    """A request with headers, tokens and origins, often in pairs that do not fit."""
    target = rng.choice(PATHS)
    headers = [(name, rng.choice(_VALUES)) for name in some(rng, ["x-user", "x-user", "x-role", "x-gone"], 3)]
    for name in some(rng, ["origin", "referer", "x-forwarded-for", "xfcc", "spoof", "proxy"], 2):
        match name:
            case "origin":
                headers.append(("origin", rng.choice(_ORIGINS)))
                if rng.random() < 1 / 2:
                    headers.append(("access-control-request-method", rng.choice(["GET", ""])))
            case "referer":
                headers.append(("referer", rng.choice(_ORIGINS) + "/page"))
            case "x-forwarded-for":
                addresses = ["10.1.2.3", "192.168.1.1", "::1", "junk", "10.9.9.9"]
                headers.append((name, ", ".join(rng.choices(addresses, k=rng.randint(1, 3)))))
            case "xfcc":
                headers.append(("x-forwarded-client-cert", "By=spiffe://x;URI=spiffe://a"))
            case "spoof":
                headers.append((rng.choice(["x-payload", "x-sub", "x-n"]), "forged"))
            case "proxy":
                headers.append((rng.choice(_OF_PROXIES), rng.choice(["true", "10.0.0.1", "1", "junk", "/x", "https"])))
    for where in some(rng, ["authorization", "x-jwt", "param", "cookie", "access"], 2):
        token = rng.choice(list(TOKENS.values()))
        match where:
            case "authorization":
                headers.append(("authorization", rng.choice(["Bearer ", "bearer ", "Basic "]) + token))
            case "x-jwt":
                headers.append(("x-jwt", rng.choice(["Token ", ""]) + token))
            case "cookie":
                headers.append(("cookie", f"a=b; jwt={token}"))
            case _:
                name = "token" if where == "param" else "access_token"
                target += f"{'&' if '?' in target else '?'}{name}={token}"
    method = rng.choice(["GET", "GET", "POST", "OPTIONS", "DELETE"])
    fields = {name: value.strip() for name, value in headers}  # As every HTTP parser has them.
    return Request(method, rng.choice(HOSTS), target, tuple(fields.items()))
