"""What the generated comparison has taught, kept: each case was a difference once, shrunk to its core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format

from meshsdk.balancing import Cluster
from meshsdk.errors import ResourceError

from .compare import compare
from .generate import CLUSTERS, FILTERS, OPTIONS
from .judge import EnvoyJudge, Request, running_judge
from .ours import OurRoutes, make_clusters, make_listener
from .test_generated_routes import static_cluster
from .upstream import EchoUpstreams

Sides = tuple[EnvoyJudge, dict[str, Cluster]]

TEMPLATE = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
TO_C0: dict[str, Any] = {"route": {"cluster": "c0"}}


def adds(side: str, name: str, value: str, **option: Any) -> dict[str, Any]:
    return {f"{side}_headers_to_add": [{"header": {"key": name, "value": value}, **option}]}


def template(path: str) -> dict[str, Any]:
    return {"path_match_policy": {"name": "t", "typed_config": {"@type": TEMPLATE, "path_template": path}}}


# Name: the route, what stands beside it in the configuration, the connection manager's settings, the request.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, Request]] = {
    "a missing value adds no header": (
        {"match": {"prefix": "/"}, **TO_C0, **adds("request", "x-new", "%REQ(x-none)%")},
        {},
        "plain",
        Request("GET", "a", "/"),
    ),
    "a header that is there but empty has no substitute": (
        {"match": {"prefix": "/"}, **TO_C0, **adds("request", "x-new", "%REQ(x-b?x-a)%")},
        {},
        "plain",
        Request("GET", "a", "/", (("x-a", "1"), ("x-b", ""))),
    ),
    "each value of a header is matched by itself": (
        {"match": {"prefix": "/", "headers": [{"name": "x-a", "string_match": {"suffix": "1.5"}}]}, **TO_C0},
        {},
        "plain",
        Request("GET", "a", "/", (("x-a", "1.5"), ("x-a", "2"))),
    ),
    "headers that Envoy knows by name are one value": (
        {"match": {"prefix": "/", "headers": [{"name": "user-agent", "safe_regex_match": {"regex": "b"}}]}, **TO_C0},
        {},
        "plain",
        Request("GET", "a", "/", (("user-agent", "a"), ("user-agent", "b"))),
    ),
    "a missing header that counts as empty is present": (
        {"match": {"prefix": "/", "headers": [{"name": "x-a", "treat_missing_header_as_empty": True}]}, **TO_C0},
        {},
        "plain",
        Request("GET", "a", "/"),
    ),
    "an answer to gRPC is gRPC": (
        {"match": {"prefix": "/nothing"}, **TO_C0},
        {},
        "plain",
        Request("POST", "a", "/", (("content-type", "application/grpc"),)),
    ),
    "a direct response of a redirect's status has a location": (
        {"match": {"prefix": "/"}, "direct_response": {"status": 301}},
        {},
        "normalized",
        Request("GET", "a", "/%61?q=1"),
    ),
    "a direct response has no response code yet": (
        {"match": {"prefix": "/"}, "direct_response": {"status": 403}, **adds("response", "x-c", "%RESPONSE_CODE%")},
        {},
        "plain",
        Request("GET", "a", "/"),
    ),
    "a route for servers leads a client nowhere": (
        {"match": {"prefix": "/"}, "non_forwarding_action": {}},
        {},
        "plain",
        Request("GET", "a", "/"),
    ),
    "a rewrite to nothing is none": (
        {"match": {"prefix": "/"}, "route": {"cluster": "c0", "regex_rewrite": {"pattern": {"regex": "/.*"}}}},
        {},
        "plain",
        Request("GET", "a", "/x?q=1"),
    ),
    "a redirect's path begins with a slash": (
        {
            "match": {"prefix": "/"},
            "redirect": {"regex_rewrite": {"pattern": {"regex": "/(.*)"}, "substitution": "\\1"}},
        },
        {},
        "plain",
        Request("GET", "a", "/x"),
    ),
    "the query of a path redirect is not stripped": (
        {"match": {"prefix": "/"}, "redirect": {"path_redirect": "/to?own=1", "strip_query": True}},
        {},
        "plain",
        Request("GET", "a", "/x?q=1"),
    ),
    "a host format without a value is a dash": (
        {"match": {"prefix": "/"}, "route": {"cluster": "c0", "host_rewrite": "%REQ(x-none)%"}},
        {},
        "plain",
        Request("GET", "a", "/x?q=1"),
    ),
    "a redirect's response headers see the new path and the old one": (
        {
            "match": {"prefix": "/a"},
            "redirect": {"prefix_rewrite": "/b"},
            "response_headers_to_add": [
                {"header": {"key": "x-path", "value": "%REQ(:path)%"}},
                {"header": {"key": "x-original", "value": "%REQ(x-envoy-original-path)%|%PATH(NQ)%"}},
            ],
        },
        {},
        "plain",
        Request("GET", "a", "/a/x?q"),
    ),
    "a cluster that is not there has no name": (
        {
            "match": {"prefix": "/"},
            "route": {"cluster": "missing"},
            "response_headers_to_add": [{"header": {"key": "x-c", "value": "%UPSTREAM_CLUSTER%"}}],
        },
        {},
        "plain",
        Request("GET", "a", "/"),
    ),
    "a fault sees what filters before it made of the request": (
        {"match": {"prefix": "/"}, **TO_C0},
        {
            "typed_per_filter_config": {
                "fault": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                    "abort": {"http_status": 418, "percentage": {"numerator": 100}},
                    "headers": [{"name": "x-filter", "string_match": {"exact": "listener"}}],
                }
            }
        },
        "plain",
        Request("GET", "a", "/"),
    ),
    "an empty header is not missing in a body": (
        {
            "match": {"prefix": "/"},
            "direct_response": {
                "status": 503,
                "body_format": {"text_format_source": {"inline_string": "[%REQ(x-a)%][%REQ(x-b)%]"}},
            },
        },
        {},
        "plain",
        Request("GET", "a", "/", (("x-a", ""),)),
    ),
    "slashes alone are merged to two": (
        {"match": {"prefix": "/"}, **TO_C0},
        {},
        "both",
        Request("GET", "a", "/.///?q"),
    ),
    "path parameters are ignored in each segment": (
        {"match": {"safe_regex": {"regex": "/a/b"}}, **TO_C0},
        {"ignore_path_parameters_in_path_matching": True},
        "plain",
        Request("GET", "a", "/a;p=1/b;q"),
    ),
    "path templates look at path parameters": (
        {"match": template("/a"), **TO_C0},
        {"ignore_path_parameters_in_path_matching": True},
        "plain",
        Request("GET", "a", "/a;p=1"),
    ),
    "path templates match equals signs": (
        {"match": template("/{x}/{y=**}"), **TO_C0},
        {},
        "plain",
        Request("GET", "a", "/a;p=1/b"),
    ),
    "without the header that names it there is no virtual host": (
        {"match": {"prefix": "/"}, **TO_C0},
        {"vhost_header": "x-host"},
        "plain",
        Request("GET", "a", "/"),
    ),
    "a longest duration takes the place of the timeout in grpc-timeout": (
        {"match": {"prefix": "/"}, "route": {"cluster": "c0", "max_stream_duration": {"max_stream_duration": "5s"}}},
        {},
        "plain",
        Request("POST", "a", "/", (("content-type", "application/grpc"),)),
    ),
    "grpc-timeout is bounded, then made shorter": (
        {
            "match": {"prefix": "/"},
            "route": {
                "cluster": "c0",
                "max_stream_duration": {"grpc_timeout_header_max": "3s", "grpc_timeout_header_offset": "0.5s"},
            },
        },
        {},
        "plain",
        Request("POST", "a", "/", (("content-type", "application/grpc"), ("grpc-timeout", "9S"))),
    ),
    "an upstream's host name is remembered as the original's": (
        {
            "match": {"prefix": "/"},
            "route": {"cluster": "c0", "auto_host_rewrite": True, "append_x_forwarded_host": True},
            **adds("response", "x-new", "%REQ(:authority)%"),
        },
        {},
        "plain",
        Request("GET", "a", "/"),
    ),
    "a query parameter's value is decoded in headers": (
        {"match": {"prefix": "/"}, **TO_C0, **adds("request", "x-new", "%QUERY_PARAM(q)%")},
        {},
        "plain",
        Request("GET", "a", "/?q=%61+b"),
    ),
    "the path in response headers is the one that came": (
        {
            "match": {"prefix": "/a"},
            "route": {"cluster": "c0", "prefix_rewrite": "/b"},
            **adds("response", "x-new", "%PATH(NQ)%"),
        },
        {},
        "plain",
        Request("GET", "a", "/a/x?q"),
    ),
    "a cluster that is not there is answered with the route's headers": (
        {"match": {"prefix": "/"}, "route": {"cluster": "missing"}, **adds("response", "x-new", "yes")},
        {},
        "plain",
        Request("GET", "a", "/"),
    ),
    "a gRPC request is refused rather than redirected to its normal path": (
        {"match": {"prefix": "/"}, **TO_C0},
        {},
        "redirect",
        Request("POST", "a", "/a%2Fb", (("content-type", "application/grpc"),)),
    ),
}

REFUSED: dict[str, dict[str, Any]] = {
    "a weight must be set": {
        "match": {"prefix": "/"},
        "route": {"weighted_clusters": {"clusters": [{"name": "c0"}]}},
    },
    "a prefix rewrite needs a prefix": {
        "match": template("/a"),
        "route": {"cluster": "c0", "prefix_rewrite": "/b"},
    },
    "an unknown operator": {"match": {"prefix": "/"}, **TO_C0, **adds("request", "x", "%NOPE%")},
    "a lone percent sign": {"match": {"prefix": "/"}, **TO_C0, **adds("request", "x", "50%")},
    "two globs after the long one": {"match": template("/**/*"), **TO_C0},
}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    folder = tmp_path_factory.mktemp("judge")
    with EchoUpstreams(folder, CLUSTERS) as upstreams:
        configs = [static_cluster(name, path) for name, path in upstreams.paths.items()]
        with running_judge(folder, OPTIONS, configs, FILTERS) as judge:
            yield judge, make_clusters(configs)


def configuration(route: dict[str, Any], beside: dict[str, Any]) -> route_pb2.RouteConfiguration:
    virtual_host = {"name": "v", "domains": ["*"], "routes": [route]}
    return json_format.ParseDict({"virtual_hosts": [virtual_host], **beside}, route_pb2.RouteConfiguration())


@pytest.mark.parametrize("name", CASES)
def test_the_same_decision(name: str, sides: Sides) -> None:
    judge, clusters = sides
    route, beside, settings, request = CASES[name]
    message = configuration(route, beside)
    option = next(one for one in OPTIONS if one.name == settings)
    ours = OurRoutes(make_listener(option, FILTERS), message, clusters)
    assert judge.configure(settings, message)
    [theirs] = judge.ask(settings, [request])
    assert not compare(theirs, ours.decide(request))


@pytest.mark.parametrize("name", REFUSED)
def test_both_refuse(name: str, sides: Sides) -> None:
    judge, clusters = sides
    message = configuration(REFUSED[name], {})
    with pytest.raises(ResourceError):
        OurRoutes(make_listener(OPTIONS[0], FILTERS), message, clusters)
    assert not judge.configure("plain", message)
