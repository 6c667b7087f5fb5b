"""Route configurations and requests that have a good chance to meet.

Words come from small pools, so that prefixes are prefixes of each other, headers are there or nearly there, and
several routes compete for a request. Configurations are drawn by hypothesis; requests, of which there are dozens for
each, by a plain generator, which takes a tenth of the time: where they differ, the first guilty one is looked at alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

from .judge import ManagerOptions, Request
from .strategies import composite, sampled_from

__all__ = ["CLUSTERS", "FILTERS", "OPTIONS", "make_request", "route_configurations", "some"]

# A file that any checkout has, for direct responses that come from one.
BODY_FILE = str(Path(__file__).with_name("__init__.py"))

CLUSTERS = ["c0", "c1", "c2"]

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_MUTATION = f"{_EXTENSIONS}.filters.http.header_mutation.v3"

FILTERS: list[dict[str, Any]] = [
    {
        "name": "mutation",
        "typed_config": {
            "@type": f"{_MUTATION}.HeaderMutation",
            "mutations": {
                "request_mutations": [{"append": {"header": {"key": "x-filter", "value": "listener"}}}],
                "response_mutations": [{"remove": "x-gone"}],
            },
        },
    },
    {"name": "fault", "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.fault.v3.HTTPFault"}},
]

OPTIONS = [
    ManagerOptions("plain"),
    ManagerOptions("normalized", {"normalize_path": True}),
    ManagerOptions("merged", {"merge_slashes": True}),
    ManagerOptions("both", {"normalize_path": True, "merge_slashes": True}),
    ManagerOptions("reject", {"path_with_escaped_slashes_action": "REJECT_REQUEST"}),
    ManagerOptions("redirect", {"path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT", "normalize_path": True}),
    ManagerOptions("forward", {"path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD", "merge_slashes": True}),
    ManagerOptions("stripped", {"strip_any_host_port": True, "strip_trailing_host_dot": True}),
]

HOSTS = ["a.com", "b.a.com", "x.b.a.com", "a.com:8080", "A.com", "a.org", "a.com.", "other", "a", "b.a.com:80"]
DOMAINS = ["a.com", "*.a.com", "*.com", "a.*", "b.a.*", "*.b.a.com", "A.com", "a.com:8080", "*", "*-x.com", "b.a.com"]
SEGMENTS = [
    "a",
    "b",
    "ab",
    "A",
    "1",
    "a.b",
    "a-b",
    "%61",
    "a%2Fb",
    "..",
    ".",
    "a;p=1",
    "~u",
    "a%20b",
    "%5Cq",
    "a+b",
    "",
]
HEADERS = ["x-a", "x-b", "x-num", "user-agent", "x-list"]
VALUES = ["", "a", "A", "ab", "b", "1", "42", "-7", "+5", "a,b", "a b", "007", "1.5", "9223372036854775807", "v%41"]
PARAMETERS = ["q", "Q", "r", "a%62", "s"]
REGEXES = ["/a.*", "/[a-z]+", ".*", "/(a|b)/([^/]+)", "/a", "(?i)/A.*", "/a/?", r"/\w+/\d+", "a+", "[0-9]*"]
REWRITES = ["/new", "/x/\\1", "\\0/y", "", "/n", "\\2-\\1", "/%"]
FORMATS = [
    "plain",
    "",
    "%REQ(x-a)%",
    "[%REQ(x-a)%]",
    "%REQ(X-B?x-a)%",
    "%REQ(x-a):1%",
    "100%%",
    "%PROTOCOL%",
    "%REQ(:path)%",
    "%REQ(:authority)%|%REQ(:METHOD)%",
    "%UPSTREAM_CLUSTER%",
    "%ROUTE_NAME%",
    "%CLUSTER_METADATA(test:key)%",
    "%CLUSTER_METADATA(test:nested:deep)%",
    "%CLUSTER_METADATA(test:nested)%",
    '%UPSTREAM_METADATA(["test", "key"])%',
    "%DYNAMIC_METADATA(a:b)%",
    "%FILTER_STATE(a)%",
    "%RESPONSE_CODE%",
    "%RESP(x-up-one)%",
    "%RESP(x-up-two)%",
    "%PATH(NQ)%",
    "%METADATA(CLUSTER:test:key)%",
    "%QUERY_PARAM(q)%",
    "%UPSTREAM_HOST_NAME%",
    "%TRAILER(x)%",
    "%DOWNSTREAM_PEER_SUBJECT%",
    "%UPSTREAM_METADATA(test:key)%",
    "%REQ(x-list)%",
]

texts = sampled_from(VALUES)
filled = texts.filter(bool)


@composite
def paths(draw: st.DrawFn) -> str:
    return "/" + "/".join(draw(st.lists(sampled_from(SEGMENTS), max_size=4)))


@functools.cache
def regexes() -> st.SearchStrategy[dict[str, Any]]:
    return sampled_from(REGEXES).map(lambda regex: {"regex": regex})


@composite
def string_matches(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(sampled_from(["exact", "prefix", "suffix", "contains", "safe_regex"]))
    if kind == "safe_regex":
        return {"safe_regex": {"regex": draw(sampled_from(["a.*", ".*", "[0-9]+", "a|b", "", "(?i)A"]))}}
    matcher: dict[str, Any] = {kind: draw(texts if kind == "exact" else filled)}
    if draw(st.booleans()):
        matcher["ignore_case"] = True
    return matcher


@composite
def header_matches(draw: st.DrawFn) -> dict[str, Any]:
    matcher: dict[str, Any] = {"name": draw(sampled_from([*HEADERS, ":method", ":authority", ":path", "X-A"]))}
    kind = draw(
        sampled_from(
            [
                "string_match",
                "range_match",
                "present_match",
                "exact_match",
                "safe_regex_match",
                "prefix_match",
                "suffix_match",
                "contains_match",
                "none",
            ]
        )
    )
    if kind == "string_match":
        matcher[kind] = draw(string_matches())
    elif kind == "range_match":
        start = draw(st.integers(-10, 50))
        matcher[kind] = {"start": str(start), "end": str(start + draw(st.integers(0, 40)))}
    elif kind == "present_match":
        matcher[kind] = draw(st.booleans())
    elif kind == "safe_regex_match":
        matcher[kind] = {"regex": draw(sampled_from(["a.*", "[0-9]+", "GET|POST", "/a.*"]))}
    elif kind != "none":
        matcher[kind] = draw(filled)
    for flag in ("invert_match", "treat_missing_header_as_empty"):
        if draw(st.integers(0, 3)) == 0:
            matcher[flag] = True
    return matcher


@composite
def query_matches(draw: st.DrawFn) -> dict[str, Any]:
    matcher: dict[str, Any] = {"name": draw(sampled_from(PARAMETERS))}
    kind = draw(sampled_from(["string_match", "present_match", "none"]))
    if kind == "string_match":
        matcher[kind] = draw(string_matches())
    elif kind == "present_match":
        matcher[kind] = draw(st.booleans())
    return matcher


TEMPLATES = ["/a/*", "/{x}", "/{x}/{y=**}", "/a/{x}/**", "/{x=a/*}/b", "/**", "/*/b", "/{x}.b", "/a"]
TEMPLATE_REWRITES = ["/{x}", "/new/{x}", "/{y}/{x}", "/{y}", "/fixed", "/{x}-{x}"]


def _policy(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": kind,
        "typed_config": {"@type": f"{_EXTENSIONS}.path.{kind}.uri_template.v3.{config.pop('@')}", **config},
    }


@composite
def matches(draw: st.DrawFn) -> dict[str, Any]:
    match: dict[str, Any] = {}
    kind = draw(
        sampled_from(
            ["prefix", "prefix", "path", "safe_regex", "path_separated_prefix", "path_match_policy", "connect_matcher"]
        )
    )
    if kind == "safe_regex":
        match[kind] = draw(regexes())
    elif kind == "path_match_policy":
        template = draw(sampled_from(TEMPLATES))
        match[kind] = _policy("match", {"@": "UriTemplateMatchConfig", "path_template": template})
    elif kind == "connect_matcher":
        match[kind] = {}
    elif kind == "path_separated_prefix":
        path = draw(paths()).rstrip("/")
        match[kind] = path or "/a"
    else:
        match[kind] = draw(paths())
    if kind in ("prefix", "path", "path_separated_prefix") and draw(st.integers(0, 2)) == 0:
        match["case_sensitive"] = draw(st.booleans())
    if draw(st.integers(0, 2)) == 0:
        match["headers"] = draw(st.lists(header_matches(), min_size=1, max_size=2))
    if draw(st.integers(0, 3)) == 0:
        match["query_parameters"] = draw(st.lists(query_matches(), min_size=1, max_size=2))
    if draw(st.integers(0, 9)) == 0:
        match["grpc"] = {}
    if draw(st.integers(0, 7)) == 0:
        share = draw(sampled_from([0, 100]))
        match["runtime_fraction"] = {"default_value": {"numerator": share, "denominator": "HUNDRED"}}
    if draw(st.integers(0, 11)) == 0:
        match["dynamic_metadata"] = [
            {"filter": "f", "path": [{"key": "k"}], "value": {"present_match": True}, "invert": draw(st.booleans())}
        ]
    if draw(st.integers(0, 11)) == 0:
        match["tls_context"] = {draw(sampled_from(["presented", "validated"])): draw(st.booleans())}
    if draw(st.integers(0, 15)) == 0:
        match["filter_state"] = [{"key": "k", "string_match": {"exact": "v"}}]
    return match


@composite
def header_options(draw: st.DrawFn) -> dict[str, Any]:
    option: dict[str, Any] = {
        "header": {
            "key": draw(sampled_from([*HEADERS, "x-new", "X-Up-One", "x-up-two", "x-gone"])),
            "value": draw(sampled_from(FORMATS)),
        },
        "append_action": draw(
            sampled_from(
                ["APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS"]
            )
        ),
    }
    if draw(st.integers(0, 3)) == 0:
        option["keep_empty_value"] = True
    return option


@composite
def mutations(draw: st.DrawFn) -> dict[str, Any]:
    """Header changes for some level, often none."""
    level: dict[str, Any] = {}
    for side in ("request", "response"):
        if draw(st.integers(0, 2)) == 0:
            level[f"{side}_headers_to_add"] = draw(st.lists(header_options(), min_size=1, max_size=3))
        if draw(st.integers(0, 3)) == 0:
            names = sampled_from([*HEADERS, "X-Up-Two", "x-gone"])
            level[f"{side}_headers_to_remove"] = draw(st.lists(names, min_size=1, max_size=2))
    return level


@composite
def filter_configs(draw: st.DrawFn) -> dict[str, Any]:
    """typed_per_filter_config for some level, mostly none."""
    configs: dict[str, Any] = {}
    if draw(st.integers(0, 4)) == 0:
        configs["mutation"] = {
            "@type": f"{_MUTATION}.HeaderMutationPerRoute",
            "mutations": {
                "request_mutations": [{"append": draw(header_options())}],
                "response_mutations": [{"remove": "x-up-one"}],
            },
        }
    if draw(st.integers(0, 6)) == 0:
        configs["fault"] = {
            "@type": f"{_EXTENSIONS}.filters.http.fault.v3.HTTPFault",
            "abort": {
                "http_status": draw(sampled_from([418, 503])),
                "percentage": {"numerator": draw(sampled_from([0, 100]))},
            },
            "headers": draw(st.lists(header_matches(), max_size=1)),
        }
    if draw(st.integers(0, 9)) == 0:
        name = draw(sampled_from(["mutation", "fault"]))
        configs[name] = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    return {"typed_per_filter_config": configs} if configs else {}


@functools.cache
def regex_rewrites() -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda pattern, substitution: {"pattern": {"regex": pattern}, "substitution": substitution},
        sampled_from(["/(a|b)/([^/]*)", "/(.*)/(.*)", "^/()()", "a()()", "([a-z])([0-9]?)"]),
        sampled_from(REWRITES),
    )


@composite
def hash_policies(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(sampled_from(["header", "query_parameter", "cookie", "connection_properties", "filter_state"]))
    values: dict[str, dict[str, Any]] = {
        "header": {"header_name": draw(sampled_from(HEADERS))},
        "query_parameter": {"name": draw(sampled_from(PARAMETERS))},
        "cookie": {"name": "session"},
        "connection_properties": {"source_ip": True},
        "filter_state": {"key": "k"},
    }
    policy: dict[str, Any] = {kind: values[kind], "terminal": draw(st.booleans())}
    if kind == "header" and draw(st.booleans()):
        policy["header"]["regex_rewrite"] = {"pattern": {"regex": "a"}, "substitution": "b"}
    return policy


@composite
def mirrors(draw: st.DrawFn) -> dict[str, Any]:
    """Copies change nothing about the request itself."""
    share = {"default_value": {"numerator": draw(sampled_from([0, 100]))}}
    target = draw(st.sampled_from([{"cluster": "c2"}, {"cluster_header": "x-cluster"}]))
    return {**target, "runtime_fraction": share, "disable_shadow_host_suffix_append": draw(st.booleans())}


@composite
def splits(draw: st.DrawFn) -> dict[str, Any]:
    """Weighted clusters whose choice does not depend on chance."""
    count = draw(st.integers(1, 3))
    by = draw(sampled_from(["header", "hash", "nothing"]))
    by_header = by == "header"
    clusters = []
    only = draw(st.integers(0, count - 1))
    for index in range(count):
        weight = draw(st.integers(1, 50)) if by != "nothing" else int(index == only)
        cluster: dict[str, Any] = {"weight": weight, **draw(mutations()), **draw(filter_configs())}
        if draw(st.integers(0, 5)) == 0:
            cluster["cluster_header"] = "x-cluster"
        else:
            cluster["name"] = draw(sampled_from(CLUSTERS))
        if draw(st.integers(0, 4)) == 0:
            cluster["host_rewrite_literal"] = "split.host"
        if draw(st.integers(0, 5)) == 0:
            cluster["metadata_match"] = {"filter_metadata": {"envoy.lb": {"version": "2"}}}
        clusters.append(cluster)
    split: dict[str, Any] = {"clusters": clusters}
    if by_header:
        # Every request of the generator carries exactly one legal number in this header.
        split["header_name"] = "x-random"
    if by == "hash":
        split["use_hash_policy"] = True
        return {"weighted_clusters": split, "hash_policy": [{"header": {"header_name": "x-random"}}]}
    return {"weighted_clusters": split}


@composite
def forwards(draw: st.DrawFn, template: str | None) -> dict[str, Any]:
    kind = draw(sampled_from(["cluster", "cluster", "cluster_header", "weighted"]))
    if kind == "cluster":
        action: dict[str, Any] = {"cluster": draw(sampled_from([*CLUSTERS, "missing"]))}
    elif kind == "cluster_header":
        action = {"cluster_header": "x-cluster"}
    else:
        action = draw(splits())
    rewrite = draw(
        sampled_from(["none", "none", "prefix_rewrite", "regex_rewrite", "path_rewrite_policy", "path_rewrite"])
    )
    if rewrite == "prefix_rewrite":
        action[rewrite] = draw(paths())
    elif rewrite == "regex_rewrite":
        action[rewrite] = draw(regex_rewrites())
    elif rewrite == "path_rewrite":
        action[rewrite] = draw(sampled_from(["/formatted%REQ(x-num)%", "/%PATH(NQ)%", "/fixed"]))
    elif rewrite == "path_rewrite_policy" and template is not None:
        names = [name for name in ("x", "y") if f"{{{name}" in template]
        fitting = [one for one in TEMPLATE_REWRITES if all(n in names for n in ("x", "y") if f"{{{n}}}" in one)]
        config = {"@": "UriTemplateRewriteConfig", "path_template_rewrite": draw(sampled_from(fitting))}
        action[rewrite] = _policy("rewrite", config)
    host = draw(
        sampled_from(
            [
                "none",
                "none",
                "host_rewrite_literal",
                "auto_host_rewrite",
                "host_rewrite_header",
                "host_rewrite_path_regex",
                "host_rewrite",
            ]
        )
    )
    if host == "host_rewrite_literal":
        action[host] = "rewritten.host"
    elif host == "auto_host_rewrite":
        action[host] = draw(st.booleans())
    elif host == "host_rewrite_header":
        action[host] = draw(sampled_from(["x-a", "x-b"]))
    elif host == "host_rewrite":
        action[host] = draw(sampled_from(["%REQ(x-cluster)%.formatted", "formatted", "%REQ(x-none)%"]))
    elif host == "host_rewrite_path_regex":
        action[host] = {"pattern": {"regex": "^/([a-z]*).*$"}, "substitution": "\\1.host"}
    if draw(st.integers(0, 3)) == 0:
        action["append_x_forwarded_host"] = True
    if draw(st.integers(0, 4)) == 0:
        action["cluster_not_found_response_code"] = draw(
            sampled_from(["SERVICE_UNAVAILABLE", "NOT_FOUND", "INTERNAL_SERVER_ERROR"])
        )
    if "hash_policy" not in action and draw(st.integers(0, 4)) == 0:
        action["hash_policy"] = draw(st.lists(hash_policies(), min_size=1, max_size=2))
    if draw(st.integers(0, 5)) == 0:
        action["timeout"] = draw(sampled_from(["5s", "0s"]))
    if draw(st.integers(0, 5)) == 0:
        action["retry_policy"] = {"retry_on": "5xx", "num_retries": 2}
    if draw(st.integers(0, 9)) == 0:
        action["priority"] = "HIGH"
    if draw(st.integers(0, 9)) == 0:
        action["idle_timeout"] = "60s"
    if draw(st.integers(0, 9)) == 0:
        action["max_stream_duration"] = {"max_stream_duration": "60s", "grpc_timeout_header_max": "0s"}
    elif draw(st.integers(0, 9)) == 0:
        action["max_grpc_timeout"] = draw(sampled_from(["3s", "0s"]))
        action["grpc_timeout_offset"] = "0.1s"
    if draw(st.integers(0, 9)) == 0:
        action["request_mirror_policies"] = draw(st.lists(mirrors(), min_size=1, max_size=2))
    if draw(st.integers(0, 9)) == 0:
        action["hedge_policy"] = {"hedge_on_per_try_timeout": True}
    if draw(st.integers(0, 9)) == 0:
        action["internal_redirect_policy"] = {"max_internal_redirects": 2}
    if draw(st.integers(0, 9)) == 0:
        action["rate_limits"] = [{"actions": [{"request_headers": {"header_name": "x-a", "descriptor_key": "k"}}]}]
    if draw(st.integers(0, 9)) == 0:
        action["metadata_match"] = {"filter_metadata": {"envoy.lb": {"version": "1"}}}
    return action


@composite
def redirects(draw: st.DrawFn) -> dict[str, Any]:
    action: dict[str, Any] = {}
    scheme = draw(sampled_from(["none", "https_redirect", "scheme_redirect"]))
    if scheme == "https_redirect":
        action[scheme] = True
    elif scheme == "scheme_redirect":
        action[scheme] = draw(sampled_from(["https", "http", "ftp"]))
    if draw(st.booleans()):
        action["host_redirect"] = draw(sampled_from(["new.host", "new.host:81"]))
    if draw(st.integers(0, 2)) == 0:
        action["port_redirect"] = draw(sampled_from([80, 443, 8443]))
    path = draw(sampled_from(["none", "path_redirect", "prefix_rewrite", "regex_rewrite"]))
    if path == "path_redirect":
        action[path] = draw(sampled_from(["/to", "/to?own=1", "/"]))
    elif path == "prefix_rewrite":
        action[path] = draw(paths())
    elif path == "regex_rewrite":
        action[path] = draw(regex_rewrites())
    if draw(st.integers(0, 2)) == 0:
        action["strip_query"] = True
    if draw(st.booleans()):
        action["response_code"] = draw(
            sampled_from(["MOVED_PERMANENTLY", "FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT", "PERMANENT_REDIRECT"])
        )
    return action


@composite
def direct_responses(draw: st.DrawFn) -> dict[str, Any]:
    action: dict[str, Any] = {"status": draw(sampled_from([200, 204, 301, 403, 404, 503, 599]))}
    if draw(st.booleans()):
        action["body"] = draw(
            st.sampled_from(
                [{"inline_string": "hello"}, {"inline_string": ""}, {"inline_bytes": "aGk="}, {"filename": BODY_FILE}]
            )
        )
        if draw(st.integers(0, 2)) == 0:
            action["body_format"] = {
                "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY% %RESPONSE_CODE% %REQ(x-a)%"}
            }
    return action


@composite
def routes(draw: st.DrawFn, index: int) -> dict[str, Any]:
    match = draw(matches())
    route: dict[str, Any] = {"match": match, **draw(mutations()), **draw(filter_configs())}
    if draw(st.booleans()):
        route["name"] = f"route-{index}"
    kind = draw(sampled_from(["route", "route", "route", "redirect", "direct_response", "non_forwarding_action"]))
    if kind == "route":
        policy = match.get("path_match_policy")
        route[kind] = draw(forwards(policy["typed_config"]["path_template"] if policy else None))
    elif kind == "redirect":
        route[kind] = draw(redirects())
    elif kind == "direct_response":
        route[kind] = draw(direct_responses())
    else:
        route[kind] = {}
    return route


@composite
def route_configurations(draw: st.DrawFn) -> dict[str, Any]:
    """A RouteConfiguration as JSON."""
    domains = draw(st.lists(sampled_from(DOMAINS), min_size=1, max_size=6, unique=True))
    hosts = draw(st.integers(1, min(3, len(domains))))
    virtual_hosts = []
    for index in range(hosts):
        virtual_host: dict[str, Any] = {
            "name": f"v{index}",
            "domains": domains[index::hosts],
            "routes": [draw(routes(number)) for number in range(draw(st.integers(0, 7)))],
            **draw(mutations()),
            **draw(filter_configs()),
        }
        for flag in (
            "include_request_attempt_count",
            "include_attempt_count_in_response",
            "include_is_timeout_retry_header",
        ):
            if draw(st.integers(0, 4)) == 0:
                virtual_host[flag] = True
        if draw(st.integers(0, 9)) == 0:
            virtual_host["require_tls"] = draw(sampled_from(["ALL", "EXTERNAL_ONLY", "NONE"]))
        if draw(st.integers(0, 9)) == 0:
            virtual_host["request_mirror_policies"] = [draw(mirrors())]
        if draw(st.integers(0, 6)) == 0:
            virtual_host["retry_policy"] = {"retry_on": "connect-failure"}
        virtual_hosts.append(virtual_host)
    configuration: dict[str, Any] = {"virtual_hosts": virtual_hosts, **draw(mutations()), **draw(filter_configs())}
    for flag in (
        "ignore_port_in_host_matching",
        "most_specific_header_mutations_wins",
        "ignore_path_parameters_in_path_matching",
    ):
        if draw(st.integers(0, 2)) == 0:
            configuration[flag] = True
    if draw(st.integers(0, 14)) == 0:
        configuration["vhost_header"] = "x-host"
    return configuration


def make_request(rng: Random) -> Request:
    """A request; each carries a number for splits."""
    target = "/" + "/".join(some(rng, SEGMENTS, 4))
    query = [(name, rng.choice(["", "a", "ab", "%61", "1", "a=b"])) for name in some(rng, PARAMETERS, 3)]
    if query:
        target += "?" + "&".join(f"{name}={value}" if value else name for name, value in query)
    elif rng.random() < 1 / 16:
        target += "?"
    headers = [(name, rng.choice(VALUES)) for name in some(rng, HEADERS, 4)]
    headers.append(("x-random", str(rng.randint(0, 200))))
    if rng.random() < 1 / 2:
        headers.append(("x-cluster", rng.choice([*CLUSTERS, "nowhere"])))
    headers += [(name, rng.choice(values)) for name, values in _SELDOM.items() if rng.random() < 1 / 10]
    method = rng.choice(["GET", "GET", "GET", "POST", "DELETE", "OPTIONS"])
    return Request(method, rng.choice(HOSTS), target, tuple(headers))


_SELDOM = {
    "content-type": ["application/grpc", "application/grpc+proto", "application/grpcx"],
    "x-host": ["a.com", "b.a.com"],
    "x-forwarded-host": ["first.host", "a.com"],
    "x-envoy-retry-on": ["5xx"],
    "grpc-timeout": ["1S", "250m", "9H", "nonsense"],
}


def some(rng: Random, pool: Sequence[str], most: int) -> list[str]:
    """A few of a pool, each as often as it comes."""
    return rng.choices(pool, k=rng.randint(0, most))
