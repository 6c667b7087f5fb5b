"""Route matching, rewriting and redirecting, as function calls."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format

from meshsdk.resources import Listener, ResourceType, decode
from meshsdk.routing import CompiledRoute, RequestHead, RouteTable, explain_route

SPLIT = {"weighted_clusters": {"clusters": [{"name": "a", "weight": 80}, {"name": "b", "weight": 20}]}}


def table(*virtual_hosts: dict[str, Any], **configuration: Any) -> RouteTable:
    data = {"name": "r", "virtual_hosts": list(virtual_hosts), **configuration}
    packed = json_format.ParseDict(data, route_pb2.RouteConfiguration()).SerializeToString()
    return RouteTable(Listener("l"), decode(ResourceType.ROUTE_CONFIGURATION, packed))


def head(target: str = "/", authority: str = "h", method: str = "GET", **headers: str) -> RequestHead:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return RequestHead(method, "http", authority, target, raw)


def matches(match: dict[str, Any], request: RequestHead, chance: float = 0.5) -> bool:
    one = table({"name": "v", "domains": ["*"], "routes": [{"match": match, "route": {"cluster": "c"}}]})
    return one.find(request, lambda: chance) is not None


def only_route(route: dict[str, Any]) -> CompiledRoute:
    found = table({"name": "v", "domains": ["*"], "routes": [route]}).routes_for(head())
    assert found is not None
    return found.routes[0]


@pytest.mark.parametrize(
    ("match", "target", "expected"),
    [
        ({"prefix": "/a"}, "/abc", True),
        ({"prefix": "/a"}, "/b", False),
        ({"prefix": "/A", "case_sensitive": False}, "/abc", True),
        ({"path": "/a"}, "/a?x=1", True),
        ({"path": "/a"}, "/a/", False),
        ({"path": "/A", "case_sensitive": False}, "/a", True),
        ({"path_separated_prefix": "/a"}, "/a", True),
        ({"path_separated_prefix": "/a"}, "/a/b?x", True),
        ({"path_separated_prefix": "/a"}, "/ab", False),
        ({"safe_regex": {"regex": "/[0-9]+"}}, "/12?x=a", True),
        ({"safe_regex": {"regex": "/[0-9]+"}}, "/12a", False),
    ],
)
def test_paths_match_without_their_query(match: dict[str, Any], target: str, expected: bool) -> None:
    assert matches(match, head(target)) is expected


def header(**matcher: Any) -> dict[str, Any]:
    return {"prefix": "/", "headers": [{"name": "x-a", **matcher}]}


@pytest.mark.parametrize(
    ("matcher", "value", "expected"),
    [
        ({"string_match": {"exact": "v"}}, "v", True),
        ({"string_match": {"exact": "v"}}, None, False),
        ({"string_match": {"exact": "V", "ignore_case": True}}, "v", True),
        ({"string_match": {"prefix": "a"}}, "abc", True),
        ({"string_match": {"suffix": "c"}}, "abc", True),
        ({"string_match": {"contains": "b"}}, "abc", True),
        ({"string_match": {"safe_regex": {"regex": "a.c"}}}, "abcd", False),
        ({"string_match": {"exact": "v"}, "invert_match": True}, "w", True),
        ({"string_match": {"exact": "v"}, "invert_match": True}, None, False),
        ({"string_match": {"exact": "v"}, "invert_match": True, "treat_missing_header_as_empty": True}, None, True),
        ({"present_match": True}, "x", True),
        ({"present_match": True}, None, False),
        ({"present_match": False}, None, True),
        ({"present_match": True, "invert_match": True}, None, True),
        ({"range_match": {"start": "1", "end": "10"}}, "9", True),
        ({"range_match": {"start": "1", "end": "10"}}, "10", False),
        ({"range_match": {"start": "-5", "end": "0"}}, "-3", True),
        ({"range_match": {"start": "1", "end": "10"}}, "9x", False),
        ({}, "anything", True),
    ],
)
def test_header_matchers(matcher: dict[str, Any], value: str | None, expected: bool) -> None:
    request = head() if value is None else head(x_a=value)
    assert matches(header(**matcher), request) is expected


def test_each_value_of_a_repeated_header_is_matched_by_itself() -> None:
    request = RequestHead("GET", "http", "h", "/", [(b"X-A", b"1"), (b"x-a", b"2")])
    assert matches(header(string_match={"exact": "2"}), request)
    assert not matches(header(string_match={"exact": "2"}, invert_match=True), request)
    assert not matches(header(string_match={"exact": "1,2"}), request)


def test_pseudo_headers_match_method_and_authority() -> None:
    match = {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "PUT"}}]}
    assert matches(match, head(method="PUT"))
    assert not matches(match, head(method="GET"))


@pytest.mark.parametrize(
    ("matcher", "target", "expected"),
    [
        ({"string_match": {"exact": "1"}}, "/?q=1&q=2", True),
        ({"string_match": {"exact": "2"}}, "/?q=1&q=2", False),
        ({"present_match": True}, "/?q", True),
        ({"present_match": True}, "/?p=q", False),
        ({"string_match": {"exact": "a b"}}, "/?q=a%20b", False),
    ],
)
def test_query_parameters_match_by_their_first_raw_value(matcher: dict[str, Any], target: str, expected: bool) -> None:
    assert matches({"prefix": "/", "query_parameters": [{"name": "q", **matcher}]}, head(target)) is expected


def test_a_runtime_fraction_matches_its_share() -> None:
    match = {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 30, "denominator": "HUNDRED"}}}
    assert matches(match, head(), chance=0.29)
    assert not matches(match, head(), chance=0.30)


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("a.example.com", "exact"),
        ("A.EXAMPLE.com", "exact"),
        ("b.example.com", "suffix"),
        ("x.b.example.com", "longer suffix"),
        (".example.com", "default"),
        ("foo.org", "prefix"),
        ("else", "default"),
    ],
)
def test_the_most_specific_domain_wins(authority: str, expected: str) -> None:
    hosts = {
        "default": "*",
        "suffix": "*.example.com",
        "longer suffix": "*.b.example.com",
        "prefix": "foo.*",
        "exact": "a.example.com",
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}
    one = table(*({"name": n, "domains": [d], "routes": [route]} for n, d in hosts.items()))
    found = one.find(head(authority=authority), lambda: 0.5)
    assert found is not None
    assert found.virtual_host.name == expected


def test_ports_are_ignored_where_the_configuration_says_so() -> None:
    host = {"name": "v", "domains": ["a"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]}
    assert table(host).find(head(authority="a:80"), lambda: 0.5) is None
    assert table(host, ignore_port_in_host_matching=True).find(head(authority="a:80"), lambda: 0.5)


def test_the_first_of_many_routes_wins_indexed_or_not() -> None:
    routes = [{"match": {"path": f"/p{i}"}, "route": {"cluster": f"p{i}"}} for i in range(50)]
    routes.insert(10, {"match": {"prefix": "/p4"}, "route": {"cluster": "prefix"}})
    routes.append({"match": {"safe_regex": {"regex": "/p.*"}}, "route": {"cluster": "regex"}})
    one = table({"name": "v", "domains": ["*"], "routes": routes})
    index = one.routes_for(head())
    assert index is not None
    for target in ("/p4", "/p45", "/p3", "/pz", "/q", "/p4/x"):
        by_index = index._find_by_index(head(target), lambda: 0.5)
        assert by_index is index._find_in_order(head(target), lambda: 0.5)


def test_a_split_follows_the_random_number() -> None:
    forward = only_route({"match": {"prefix": "/"}, "route": SPLIT}).forward
    assert forward is not None
    assert forward.choose(head(), lambda: 0.7999).cluster == "a"
    assert forward.choose(head(), lambda: 0.8).cluster == "b"


@pytest.mark.parametrize(
    ("match", "action", "target", "expected"),
    [
        ({"prefix": "/old"}, {"prefix_rewrite": "/new"}, "/old/x?y=1", "/new/x?y=1"),
        ({"path": "/old"}, {"prefix_rewrite": "/new"}, "/old?y=1", "/new?y=1"),
        ({"safe_regex": {"regex": "/o.*"}}, {"prefix_rewrite": "/new"}, "/old?y", "/new?y"),
        (
            {"prefix": "/"},
            {"regex_rewrite": {"pattern": {"regex": "^/service/([^/]+)(/.*)$"}, "substitution": "\\2/instance/\\1"}},
            "/service/foo/v1/api?q",
            "/v1/api/instance/foo?q",
        ),
        (
            {"prefix": "/"},
            {"regex_rewrite": {"pattern": {"regex": "one"}, "substitution": "two"}},
            "/xxx/one/yyy/one/zzz",
            "/xxx/two/yyy/two/zzz",
        ),
    ],
)
def test_paths_are_rewritten(match: dict[str, Any], action: dict[str, Any], target: str, expected: str) -> None:
    forward = only_route({"match": match, "route": {"cluster": "c", **action}}).forward
    assert forward is not None
    assert forward.path_rewrite is not None
    assert forward.path_rewrite(head(target)) == expected


@pytest.mark.parametrize(
    ("redirect", "expected"),
    [
        ({"https_redirect": True}, "https://h/a/b?q=1"),
        ({"host_redirect": "x", "port_redirect": 81}, "http://x:81/a/b?q=1"),
        ({"path_redirect": "/new"}, "http://h/new?q=1"),
        ({"path_redirect": "/new?z"}, "http://h/new?z"),
        ({"prefix_rewrite": "/p"}, "http://h/p/b?q=1"),
        ({"strip_query": True}, "http://h/a/b"),
    ],
)
def test_redirect_locations(redirect: dict[str, Any], expected: str) -> None:
    route = only_route({"match": {"prefix": "/a"}, "redirect": redirect})
    assert route.location is not None
    assert route.location(head("/a/b?q=1")) == expected


def test_a_classic_regex_bomb_costs_linear_time() -> None:
    assert not matches({"safe_regex": {"regex": "/(a+)+$"}}, head("/" + "a" * 50_000 + "!"))


def test_explain_says_why_each_earlier_route_did_not_match() -> None:
    routes = [
        {"name": "admin", "match": {"prefix": "/admin"}, "route": {"cluster": "c"}},
        {"name": "jason", "match": header(string_match={"exact": "jason"}), "route": {"cluster": "c"}},
        {"name": "rest", "match": {"prefix": "/"}, "route": {"cluster": "c"}},
    ]
    explained = explain_route(table({"name": "v", "domains": ["*"], "routes": routes}), head("/x"), lambda: 0.5)
    assert explained.route is not None
    assert explained.route.name == "rest"
    assert dict(explained.skipped) == {
        "admin": ("path '/x' does not match prefix '/admin'",),
        "jason": ("header x-a must match exact 'jason': it is not there",),
    }


def test_virtual_hosts_without_names_are_told_apart_by_their_domains() -> None:
    routes = [{"match": {"path": "/x"}, "direct_response": {"status": 200}}]
    made = table({"domains": ["a"], "routes": routes}, {"domains": ["b"]})
    assert [explain_route(made, head("/x", host), lambda: 0.5).route is not None for host in ("a", "b")] == [
        True,
        False,
    ]
    assert [explain_route(made, head("/", host), lambda: 0.5).has_virtual_host for host in ("a", "b", "c")] == [
        True,
        True,
        False,
    ]
