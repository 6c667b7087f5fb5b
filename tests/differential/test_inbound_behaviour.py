"""What server filters do over time and with others' help: the real Envoy in front of an application, and meshsdk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.ratelimit.v3 import rls_pb2

from .inbound_subjects import SERVER_SUBJECTS, ServerSubject, running_server
from .subjects import cluster

Start = Callable[..., ServerSubject]

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_HTTP2: dict[str, Any] = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}


@pytest.fixture(params=SERVER_SUBJECTS)
def start(request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack) -> Start:
    """Starts one side with filters, and what else there is."""
    return lambda *filters, **options: stack.enter_context(
        running_server(request.param, tmp_path, list(filters), **options)
    )


class RateLimiter(grpc.GenericRpcHandler):  # type: ignore[misc]
    """envoy.service.ratelimit.v3.RateLimitService: says what the first descriptor's last value asks for."""

    def __init__(self) -> None:
        self.asked: list[rls_pb2.RateLimitRequest] = []

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            self.decide,
            request_deserializer=rls_pb2.RateLimitRequest.FromString,
            response_serializer=rls_pb2.RateLimitResponse.SerializeToString,
        )

    def decide(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        wanted = request.descriptors[0].entries[-1].value
        if wanted == "broken":
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        answer = rls_pb2.RateLimitResponse(overall_code=2 if wanted.startswith("over") else 1)
        for number, unit in ((100, 3), (5, 2)):
            status = answer.statuses.add(code=1, limit_remaining=number // 2)
            status.current_limit.requests_per_unit, status.current_limit.unit = number, unit
            status.duration_until_reset.seconds = number
        answer.statuses[1].current_limit.name = "few"
        answer.response_headers_to_add.add(key="x-limiter", value="asked")
        answer.request_headers_to_add.add(key="x-counted", value=wanted)
        if wanted == "over-with-body":
            answer.raw_body = b"come back later"
        answer.dynamic_metadata["tier"] = "gold"
        return answer


@pytest.fixture
def limiter() -> Iterator[tuple[RateLimiter, int]]:
    handler, server = RateLimiter(), grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, port
    server.stop(0).wait()


def rate_limit(**fields: Any) -> dict[str, Any]:
    service = {"grpc_service": {"envoy_grpc": {"cluster_name": "limiter"}}, "transport_api_version": "V3"}
    config = {"domain": "shop", "timeout": "5s", "rate_limit_service": service, **fields}
    return {"name": "ratelimit", "typed_config": {"@type": f"{_HTTP}.ratelimit.v3.RateLimit", **config}}


def by_header(name: str, **fields: Any) -> dict[str, Any]:
    return {"actions": [{"request_headers": {"header_name": name, "descriptor_key": name}}], **fields}


def limited_route(*rules: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"match": {"prefix": "/"}, "route": {"cluster": "app", "rate_limits": list(rules), **fields}}


def headers_of(response: Any) -> dict[str, str]:
    names = ("x-envoy-ratelimited", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-limiter")
    return {name: response.headers[name] for name in (*names, "x-own") if name in response.headers}


def test_a_rate_limit_server_decides_and_its_headers_reach_both_sides(
    start: Start, limiter: tuple[RateLimiter, int]
) -> None:
    handler, port = limiter
    own = {"header": {"key": "x-own", "value": "%REQ(x-user)%"}}
    subject = start(
        rate_limit(enable_x_ratelimit_headers="DRAFT_VERSION_03", response_headers_to_add=[own]),
        clusters=[cluster("limiter", port, **_HTTP2)],
        routes=[limited_route(by_header("x-user"), by_header("x-role"))],
    )
    passed = subject.send(headers={"x-user": "fine", "x-role": "cook"})
    refused = subject.send(headers={"x-user": "over"})
    with_body = subject.send(headers={"x-user": "over-with-body"})
    not_counted = subject.send()
    assert [one.status_code for one in (passed, refused, with_body, not_counted)] == [200, 429, 429, 200]
    limits = {
        "x-ratelimit-limit": '5, 100;w=3600, 5;w=60;name="few"',
        "x-ratelimit-remaining": "2",
        "x-ratelimit-reset": "5",
        "x-limiter": "asked",
    }
    assert headers_of(passed) == limits
    assert headers_of(refused) == {**limits, "x-envoy-ratelimited": "true", "x-own": "over"}
    assert (refused.text, with_body.text) == ("", "come back later")
    assert headers_of(not_counted) == {}
    assert [request.headers.get("x-counted") for request in subject.received] == ["fine", None]
    first = handler.asked[0]
    assert first.domain == "shop"
    assert [[(one.key, one.value) for one in each.entries] for each in first.descriptors] == [
        [("x-user", "fine")],
        [("x-role", "cook")],
    ]
    assert len(handler.asked) == 3


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"failure_mode_deny": True}, 500),
        ({"failure_mode_deny": True, "status_on_error": {"code": 503}}, 503),
    ],
)
def test_a_rate_limit_server_that_fails_lets_pass_unless_configuration_says_otherwise(
    start: Start, limiter: tuple[RateLimiter, int], fields: dict[str, Any], status: int
) -> None:
    clusters = [cluster("limiter", limiter[1], **_HTTP2)]
    subject = start(rate_limit(**fields), clusters=clusters, routes=[limited_route(by_header("x-user"))])
    assert subject.send(headers={"x-user": "broken"}).status_code == status


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"rate_limited_status": {"code": 503}}, 503, {"x-envoy-ratelimited": "true"}),
        ({"rate_limited_status": {"code": 200}}, 429, {"x-envoy-ratelimited": "true"}),
        ({"disable_x_envoy_ratelimited_header": True}, 429, {}),
        ({"filter_enforced": {"default_value": {"numerator": 0}}}, 200, {"x-envoy-ratelimited": "true"}),
        ({"filter_enabled": {"default_value": {"numerator": 0}}}, 200, {}),
        ({"stage": 1}, 200, {}),
        ({"request_type": "internal"}, 200, {}),
        ({"request_type": "external"}, 429, {"x-envoy-ratelimited": "true"}),
        ({"rate_limits": [by_header("x-other")]}, 200, {}),
        ({"rate_limits": [by_header("x-user")]}, 429, {"x-envoy-ratelimited": "true"}),
    ],
)
def test_who_is_refused_and_how_is_as_configured(
    start: Start, limiter: tuple[RateLimiter, int], fields: dict[str, Any], status: int, told: dict[str, str]
) -> None:
    clusters = [cluster("limiter", limiter[1], **_HTTP2)]
    subject = start(rate_limit(**fields), clusters=clusters, routes=[limited_route(by_header("x-user"))])
    refused = subject.send(headers={"x-user": "over"})
    assert refused.status_code == status
    assert {name: value for name, value in headers_of(refused).items() if name != "x-limiter"} == told


@pytest.mark.parametrize("grpc_status", ["14", "8"])
def test_a_grpc_caller_over_the_limit_gets_grpcs_status(
    start: Start, limiter: tuple[RateLimiter, int], grpc_status: str
) -> None:
    clusters = [cluster("limiter", limiter[1], **_HTTP2)]
    filters = rate_limit(rate_limited_as_resource_exhausted=grpc_status == "8")
    subject = start(filters, clusters=clusters, routes=[limited_route(by_header("x-user"))])
    headers = {"x-user": "over", "content-type": "application/grpc"}
    refused = subject.send("/a.B/C", method="POST", headers=headers)
    assert (refused.status_code, refused.headers["grpc-status"]) == (200, grpc_status)


@pytest.mark.parametrize(
    ("per_route", "route", "asked"),
    [
        ({}, [], ["x-host"]),
        ({}, [by_header("x-route")], ["x-route"]),
        ({"vh_rate_limits": "INCLUDE"}, [by_header("x-route")], ["x-route", "x-host"]),
        ({"vh_rate_limits": "IGNORE"}, [], []),
        ({"rate_limits": [by_header("x-own")]}, [by_header("x-route")], ["x-own"]),
        ({"domain": "other"}, [by_header("x-route")], ["x-route"]),
    ],
)
def test_routes_say_what_their_requests_are_counted_by(
    start: Start,
    limiter: tuple[RateLimiter, int],
    per_route: dict[str, Any],
    route: list[dict[str, Any]],
    asked: list[str],
) -> None:
    handler, port = limiter
    said = {"ratelimit": {"@type": f"{_HTTP}.ratelimit.v3.RateLimitPerRoute", **per_route}}
    subject = start(
        rate_limit(),
        clusters=[cluster("limiter", port, **_HTTP2)],
        routes=[{**limited_route(*route), "typed_per_filter_config": said}],
        virtual_host={"rate_limits": [by_header("x-host")]},
    )
    names = ("x-host", "x-route", "x-own")
    assert subject.send(headers=dict.fromkeys(names, "1")).status_code == 200
    keys = [each.entries[0].key for request in handler.asked for each in request.descriptors]
    assert keys == asked
    if "domain" in per_route:
        assert handler.asked[0].domain == "other"


def test_what_an_earlier_filter_found_is_counted_by(start: Start, limiter: tuple[RateLimiter, int]) -> None:
    handler, port = limiter
    told = {"metadata_key": {"key": "envoy.filters.http.ratelimit", "path": [{"key": "tier"}]}}
    rules = [by_header("x-user"), {"actions": [{"metadata": {"descriptor_key": "tier", **told}}], "stage": 1}]
    later = {**rate_limit(stage=1), "name": "later"}
    subject = start(rate_limit(), later, clusters=[cluster("limiter", port, **_HTTP2)], routes=[limited_route(*rules)])
    subject.send(headers={"x-user": "fine"})
    assert [(one.key, one.value) for one in handler.asked[1].descriptors[0].entries] == [("tier", "gold")]
