"""What server filters do over time and with others' help: the real Envoy in front of an application, and meshsdk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from envoy.service.ratelimit.v3 import rls_pb2

from .generate_inbound import condition
from .inbound_subjects import SERVER_SUBJECTS, ServerSubject, running_server
from .subjects import Answer, cluster
from .tokens import ISSUERS, signed

Start = Callable[..., ServerSubject]

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_NETWORK = "type.googleapis.com/envoy.extensions.filters.network"
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


@pytest.mark.parametrize(
    ("content", "is_streamed", "status"), [(b"abcd", False, 200), (b"a", False, 403), (b"abcd", True, 403)]
)
def test_cel_sees_the_size_that_a_request_declares(
    start: Start, content: bytes, is_streamed: bool, status: int
) -> None:
    policy = {
        "permissions": [{"any": True}],
        "principals": [{"any": True}],
        "condition": condition("request.size > 3"),
    }
    config = {"@type": f"{_HTTP}.rbac.v3.RBAC", "rules": {"policies": {"one": policy}}}
    subject = start({"name": "rbac", "typed_config": config})
    answer = subject.send(method="POST", content=iter([content]) if is_streamed else content)
    assert answer.status_code == status


SAID_BY_ROUTES = {"filter_metadata": {"team": {"name": "gold", "levels": {"now": 3}, "open": True}}}


@pytest.mark.parametrize(
    ("path", "value", "status"),
    [
        (["name"], {"string_match": {"exact": "gold"}}, 200),
        (["name"], {"string_match": {"prefix": "silver"}}, 403),
        (["levels", "now"], {"double_match": {"exact": 3}}, 200),
        (["levels", "now"], {"double_match": {"range": {"start": 0, "end": 3}}}, 403),
        (["open"], {"bool_match": True}, 200),
        (["missing"], {"present_match": True}, 403),
    ],
    ids=str,
)
def test_what_a_route_says_of_itself_decides(start: Start, path: list[str], value: dict[str, Any], status: int) -> None:
    matcher = {"filter": "team", "path": [{"key": key} for key in path], "value": value}
    by_route = {"sourced_metadata": {"metadata_matcher": matcher, "metadata_source": "ROUTE"}}
    policy = {"permissions": [by_route], "principals": [{"any": True}]}
    config = {"@type": f"{_HTTP}.rbac.v3.RBAC", "rules": {"policies": {"one": policy}}}
    told = {"match": {"prefix": "/"}, "route": {"cluster": "app"}, "metadata": SAID_BY_ROUTES}
    silent = {"match": {"prefix": "/silent"}, "route": {"cluster": "app"}}
    subject = start({"name": "rbac", "typed_config": config}, routes=[silent, told])
    assert subject.send().status_code == status
    assert subject.send(path="/silent").status_code == 403


@pytest.mark.parametrize(
    ("said", "entries"),
    [
        ({"path": [{"key": "name"}]}, [("team", "gold")]),
        ({"path": [{"key": "missing"}]}, None),
        ({"path": [{"key": "levels"}, {"key": "now"}]}, None),
    ],
    ids=str,
)
def test_requests_are_counted_by_what_their_route_says(
    start: Start, limiter: tuple[RateLimiter, int], said: dict[str, Any], entries: list[tuple[str, str]] | None
) -> None:
    handler, port = limiter
    entry = {"descriptor_key": "team", "source": "ROUTE_ENTRY", "metadata_key": {"key": "team", **said}}
    route = {**limited_route({"actions": [{"metadata": entry}]}), "metadata": SAID_BY_ROUTES}
    subject = start(rate_limit(), clusters=[cluster("limiter", port, **_HTTP2)], routes=[route])
    subject.send()
    asked = [[(one.key, one.value) for one in each.descriptors[0].entries] for each in handler.asked]
    assert asked == ([entries] if entries is not None else [])


def admission(**fields: Any) -> dict[str, Any]:
    config = {"success_criteria": {}, "max_rejection_probability": {"default_value": {"value": 100}}, **fields}
    return {"name": "admission", "typed_config": {"@type": f"{_HTTP}.admission_control.v3.AdmissionControl", **config}}


ONLY_2XX = {"http_criteria": {"http_success_status": [{"start": 200, "end": 300}]}}


def share_of_refusals(subject: ServerSubject, count: int, **options: Any) -> float:
    """Of requests after ten that failed; a refusal counts for nothing, and what passes fails again."""
    for _ in range(10):
        subject.send(**options)
    before = len(subject.received)
    for _ in range(count):
        subject.send(**options)
    return 1 - (len(subject.received) - before) / count


@pytest.mark.parametrize(
    ("fields", "status", "at_least", "at_most"),
    [
        ({}, 500, 0.75, 1.0),
        ({}, 404, 0.0, 0.0),
        (
            {"success_criteria": {"http_criteria": {"http_success_status": [{"start": 200, "end": 300}]}}},
            404,
            0.75,
            1.0,
        ),
        ({"max_rejection_probability": {"default_value": {"value": 30}}}, 500, 0.1, 0.5),
        ({"rps_threshold": {"default_value": 100000, "runtime_key": "r"}}, 500, 0.0, 0.0),
        ({"enabled": {"default_value": False, "runtime_key": "e"}}, 500, 0.0, 0.0),
    ],
)
def test_a_server_that_fails_is_spared(
    start: Start, fields: dict[str, Any], status: int, at_least: float, at_most: float
) -> None:
    subject = start(admission(**fields), handler=lambda request, number: Answer(status))
    assert at_least <= share_of_refusals(subject, 100) <= at_most
    refused = [one for one in (subject.send() for _ in range(60)) if one.status_code == 503]
    assert {one.text for one in refused} <= {""}


def concurrency(**fields: Any) -> dict[str, Any]:
    gradient = {
        "concurrency_limit_params": {"concurrency_update_interval": "0.1s"},
        "min_rtt_calc_params": {"interval": "60s", "request_count": 50, "min_concurrency": 2},
    }
    config = {"gradient_controller_config": gradient, **fields}
    return {
        "name": "concurrency",
        "typed_config": {"@type": f"{_HTTP}.adaptive_concurrency.v3.AdaptiveConcurrency", **config},
    }


@pytest.mark.parametrize(
    ("fields", "statuses"),
    [
        ({}, [200, 200, 503, 503, 503, 503]),
        ({"concurrency_limit_exceeded_status": {"code": 429}}, [200, 200, 429, 429, 429, 429]),
        ({"enabled": {"default_value": False, "runtime_key": "e"}}, [200] * 6),
    ],
)
def test_no_more_requests_at_once_than_leave_the_server_fast(
    start: Start, fields: dict[str, Any], statuses: list[int]
) -> None:
    answers: list[httpx.Response] = []
    refused = 6 - statuses.count(200)
    # What is let in is not done before everything else was refused.
    subject = start(concurrency(**fields), handler=lambda request, number: Answer(when=lambda: len(answers) >= refused))
    subject.send_many(6, responses=answers)
    assert sorted(one.status_code for one in answers) == statuses
    assert {one.text for one in answers if one.status_code >= 400} <= {"reached concurrency limit"}
    assert subject.send().status_code == 200


def token_checks(**fields: Any) -> dict[str, Any]:
    provider = {"issuer": "one", "local_jwks": {"inline_string": json.dumps(ISSUERS["one"])}, **fields}
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "one"}}
    config = {"providers": {"one": provider}, "rules": [rule]}
    return {"name": "jwt", "typed_config": {"@type": f"{_HTTP}.jwt_authn.v3.JwtAuthentication", **config}}


CHUNKS = [b"01234", b"56789", b"a"]


@pytest.mark.parametrize(
    ("fields", "claims"),
    [
        ({"subjects": {"exact": "s1"}}, {"sub": "s1"}),
        ({"subjects": {"exact": "s1"}}, {"sub": "s2"}),
        ({"subjects": {"prefix": "s"}}, {}),
        ({"subjects": {"suffix": ".example"}}, {"sub": "a.example"}),
        ({}, {"exp": None}),
        ({"require_expiration": True}, {"exp": None}),
        ({"require_expiration": True}, {}),
        ({"max_lifetime": "900s"}, {"iat": 0}),
        ({"max_lifetime": "300s"}, {"iat": 0}),
        ({"max_lifetime": "300s"}, {"iat": 0, "nbf": 400, "clock": 1}),
        ({"max_lifetime": "300s"}, {"nbf": 0}),
        ({"max_lifetime": "300s"}, {}),
        ({"max_lifetime": "300s"}, {"exp": None}),
        ({"subjects": {"exact": "s1"}}, {"sub": "s2", "exp": -600}),
        ({"subjects": {"exact": "s1"}, "audiences": ["a"]}, {"sub": "s2", "aud": "b"}),
        ({"max_lifetime": "300s", "audiences": ["a"]}, {"iat": 0, "aud": "b"}),
        ({"max_lifetime": "300s"}, {"iat": -9000, "exp": -600}),
        ({"max_lifetime": "300s"}, {"iat": -9000, "exp": 200}),
        ({"max_lifetime": "300s"}, {"iat": 100, "exp": 500}),
        ({"max_lifetime": "300s", "require_expiration": True}, {"exp": None, "iat": 0}),
    ],
)
def test_whose_tokens_and_how_long_they_may_live(
    tmp_path: Path, fields: dict[str, Any], claims: dict[str, Any]
) -> None:
    # Times are given in seconds from now: a test may run long after it was collected.
    now = int(time.time())
    given = {
        name: value + now if isinstance(value, int) else value
        for name, value in {"iss": "one", "exp": 600, **claims}.items()
        if value is not None
    }
    answers = []
    for name in SERVER_SUBJECTS:
        (tmp_path / name).mkdir()
        with running_server(name, tmp_path / name, [token_checks(**fields)]) as subject:
            answer = subject.send(headers={"authorization": f"Bearer {signed(given)}"})
        answers.append((answer.status_code, answer.text))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"content": b"0123456789"}, 200),
        ({"content": b"0123456789a"}, 413),
        ({"content": CHUNKS[:2]}, 200),
        ({"content": CHUNKS}, 413),
        ({"content": b"0123456789a", "path": "/large"}, 200),
        ({"content": b"0123456789a", "path": "/any"}, 200),
    ],
)
def test_a_body_longer_than_the_buffer_is_refused(start: Start, sent: dict[str, Any], status: int) -> None:
    kind = f"{_HTTP}.buffer.v3"
    large = {"buffer": {"@type": f"{kind}.BufferPerRoute", "buffer": {"max_request_bytes": 20}}}
    free = {"buffer": {"@type": f"{kind}.BufferPerRoute", "disabled": True}}
    app = {"route": {"cluster": "app"}}
    subject = start(
        {"name": "buffer", "typed_config": {"@type": f"{kind}.Buffer", "max_request_bytes": 10}},
        routes=[
            {"match": {"prefix": "/large"}, **app, "typed_per_filter_config": large},
            {"match": {"prefix": "/any"}, **app, "typed_per_filter_config": free},
            {"match": {"prefix": "/"}, **app},
        ],
    )
    content = sent["content"]
    answer = subject.send(method="POST", **{**sent, "content": iter(content) if isinstance(content, list) else content})
    assert (answer.status_code, answer.text) == (status, "ok" if status == 200 else "Payload Too Large")


def from_address(kind: str) -> dict[str, Any]:
    """RBAC that lets in whoever comes from 10.0.0.0/8."""
    principal = {kind: {"address_prefix": "10.0.0.0", "prefix_len": 8}}
    policy = {"permissions": [{"any": True}], "principals": [principal]}
    return {
        "name": "rbac",
        "typed_config": {"@type": f"{_HTTP}.rbac.v3.RBAC", "rules": {"policies": {"one": policy}}},
    }


@pytest.mark.parametrize("kind", ["remote_ip", "direct_remote_ip"])
@pytest.mark.parametrize("manager", [{}, {"use_remote_address": True}])
@pytest.mark.parametrize("hops", [0, 1, 2])
def test_whom_a_proxy_saw_is_believed_as_far_as_configured(
    tmp_path: Path, kind: str, manager: dict[str, Any], hops: int
) -> None:
    headers = ["10.0.0.1", "10.0.0.1, 192.168.0.1", "192.168.0.1, 10.0.0.1", "192.168.0.1, 10.0.0.1, 192.168.0.2", ""]
    seen = []
    for name in SERVER_SUBJECTS:
        (tmp_path / name).mkdir()
        options = {**manager, "xff_num_trusted_hops": hops}
        with running_server(name, tmp_path / name, [from_address(kind)], manager=options) as subject:
            seen.append([subject.send(headers={"x-forwarded-for": one}).status_code for one in headers])
    assert seen[0] == seen[1]


def addresses(*networks: str) -> list[dict[str, Any]]:
    return [{"address_prefix": one.partition("/")[0], "prefix_len": int(one.partition("/")[2])} for one in networks]


FORGED = (
    "x-envoy-internal x-envoy-external-address x-envoy-decorator-operation x-envoy-downstream-service-cluster"
    " x-envoy-downstream-service-node x-envoy-original-path x-envoy-original-host x-envoy-retriable-status-codes"
    " x-envoy-retriable-header-names x-envoy-retry-on x-envoy-retry-grpc-on x-envoy-max-retries"
    " x-envoy-upstream-alt-stat-name x-envoy-upstream-rq-timeout-ms x-envoy-upstream-rq-per-try-timeout-ms"
    " x-envoy-upstream-rq-timeout-alt-response x-envoy-force-trace x-envoy-ip-tags x-envoy-hedge-on-per-try-timeout"
    " x-envoy-attempt-count x-envoy-peer-metadata x-internal x-other"
).split()
INTERNAL = {"internal_address_config": {"cidr_ranges": addresses("10.0.0.0/8", "127.0.0.0/8")}}


@pytest.mark.parametrize(
    "more", [{}, INTERNAL, {"skip_xff_append": True}, {"xff_num_trusted_hops": 1, **INTERNAL}], ids=str
)
@pytest.mark.parametrize("is_edge", [False, True], ids=["", "edge"])
def test_what_only_proxies_may_say_is_taken_from_strangers(tmp_path: Path, is_edge: bool, more: dict[str, Any]) -> None:
    def with_internal_headers(listener: dict[str, Any]) -> dict[str, Any]:
        [manager] = [one["typed_config"] for one in listener["filter_chains"][0]["filters"]]
        manager["route_config"]["internal_only_headers"] = ["X-Internal"]
        return listener

    forged = {name: "20000" if "timeout-ms" in name else "1" for name in FORGED}
    asked = [{**forged, **more} for more in ({}, *({"x-forwarded-for": one} for one in FORWARDED))]
    seen = []
    for name in SERVER_SUBJECTS:
        (tmp_path / name).mkdir()
        options = {"use_remote_address": is_edge, **more}
        with running_server(name, tmp_path / name, [], manager=options, listener=with_internal_headers) as subject:
            for headers in asked:
                subject.send(headers={**headers, "x-forwarded-proto": "https"})
            seen.append(
                [told_by_proxies(one.headers, is_edge and "skip_xff_append" not in more) for one in subject.received]
            )
    assert seen[0] == seen[1]


FORWARDED = ["10.0.0.1", "192.168.0.1", "10.0.0.1, 192.168.0.1", "192.168.0.1, 10.0.0.1", "junk", ""]


@pytest.mark.parametrize("requires", ["ALL", "EXTERNAL_ONLY"])
@pytest.mark.parametrize("is_edge", [False, True], ids=["", "edge"])
def test_insecure_requests_are_redirected_where_envoy_redirects_them(
    tmp_path: Path, requires: str, is_edge: bool
) -> None:
    asked = [
        {"x-forwarded-for": address, **({} if proto is None else {"x-forwarded-proto": proto})}
        for address in ("10.0.0.1", "192.168.0.1", "junk")
        for proto in (None, "http", "https", "junk")
    ]
    asked += [{}, {"x-forwarded-proto": "https"}, {"x-envoy-internal": "true"}]
    seen = []
    for name in SERVER_SUBJECTS:
        (tmp_path / name).mkdir()
        options = {"use_remote_address": is_edge, **INTERNAL}
        host = {"require_tls": requires}
        with running_server(name, tmp_path / name, [], manager=options, virtual_host=host) as subject:
            seen.append([subject.send(headers=headers).status_code for headers in asked])
    assert seen[0] == seen[1]
    assert 301 in seen[0]


def deny(name: str, value: str) -> dict[str, Any]:
    header = {"header": {"name": name, "string_match": {"exact": value}}}
    policy = {"permissions": [header], "principals": [{"any": True}]}
    return {"action": "DENY", "policies": {"p": policy}}


REDIRECTED_LEVELS: dict[str, dict[str, Any]] = {
    "the listener's": {},
    "the virtual host's": {"virtual_host": True},
    "the routes'": {"routes": True},
}


@pytest.mark.parametrize("level", REDIRECTED_LEVELS)
def test_filters_see_a_request_before_it_is_sent_to_https(tmp_path: Path, level: str) -> None:
    types = f"{_HTTP}.rbac.v3"
    checked = {"name": "rbac", "typed_config": {"@type": f"{types}.RBAC", "rules": deny("x-role", "evil")}}
    other = {"rbac": {"@type": f"{types}.RBACPerRoute", "rbac": {"rules": deny("x-role", "bad")}}}
    where = REDIRECTED_LEVELS[level]
    added = {"header": {"key": "x-seen", "value": "filters"}}
    mutations = {"response_mutations": [{"append": added}]}
    seen_by = {
        "name": "mutations",
        "typed_config": {"@type": f"{_HTTP}.header_mutation.v3.HeaderMutation", "mutations": mutations},
    }
    cors = {"name": "cors", "typed_config": {"@type": f"{_HTTP}.cors.v3.Cors"}}
    origins = {"@type": f"{_HTTP}.cors.v3.CorsPolicy", "allow_origin_string_match": [{"prefix": "http"}]}
    host: dict[str, Any] = {
        "require_tls": "ALL",
        "typed_per_filter_config": {"cors": origins, **(other if "virtual_host" in where else {})},
        "response_headers_to_add": [{"header": {"key": "x-host", "value": "v"}}],
    }
    manager: dict[str, Any] = {}
    if "routes" in where:
        manager["route_config"] = {
            "name": "routes",
            "typed_per_filter_config": other,
            "virtual_hosts": [
                {
                    "name": "v",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}],
                    **host,
                }
            ],
        }
    asked: list[dict[str, Any]] = [
        {"headers": {"x-role": role, **more}, "path": path, "method": method}
        for role in ("good", "evil", "bad")
        for more in ({}, {"x-forwarded-proto": "https"}, {"origin": "http://a", "access-control-request-method": "GET"})
        for path in ("/", "/a?b=c", "/unknown")
        for method in ("GET", "OPTIONS", "POST")
    ]
    seen = []
    for name in SERVER_SUBJECTS:
        (tmp_path / name).mkdir()
        with running_server(
            name, tmp_path / name, [cors, checked, seen_by], virtual_host=host, manager=manager
        ) as subject:
            answers = [subject.send(**one) for one in asked]
            kept = ("location", "x-seen", "x-host", "access-control-allow-origin")
            seen.append(
                [
                    (
                        answer.status_code,
                        answer.text,
                        {
                            key: answer.headers[key].replace(str(subject.port), "P")
                            for key in kept
                            if key in answer.headers
                        },
                    )
                    for answer in answers
                ]
            )
    different = [one for one in zip(asked, *seen, strict=True) if one[1] != one[2]]
    assert not different
    assert {301, 403} <= {answer[0] for answer in seen[0]}


def told_by_proxies(headers: Any, has_peer: bool) -> dict[str, str]:
    """What a request says of those before it. Envoy writes its own address for a peer on loopback."""
    told = {
        name: value
        for name, value in headers.items()
        if name.startswith(("x-envoy", "x-internal", "x-other", "x-forwarded")) and "expected-rq" not in name
    }
    if has_peer:
        told["x-forwarded-for"] = told["x-forwarded-for"].rpartition(",")[0]
    return told


def named_chain(name: str, match: dict[str, Any]) -> dict[str, Any]:
    """A filter chain that answers with its name."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": name}}}
    manager = {
        "@type": f"{_NETWORK}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"name": name, "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_HTTP}.router.v3.Router"},
            }
        ],
    }
    return {"name": name, "filter_chain_match": match, "filters": [{"name": "manager", "typed_config": manager}]}


@pytest.mark.parametrize(
    "chains",
    [
        [{"source_prefix_ranges": addresses("127.0.0.2/32")}, {"source_prefix_ranges": addresses("127.0.0.0/30")}, {}],
        [{"direct_source_prefix_ranges": addresses("127.0.0.2/31")}, {"source_type": "EXTERNAL"}],
        [{"source_type": "SAME_IP_OR_LOOPBACK"}, {"source_type": "EXTERNAL"}],
        [{"prefix_ranges": addresses("127.0.0.1/32")}, {"source_prefix_ranges": addresses("127.0.0.2/32")}],
        [{"prefix_ranges": addresses("127.0.0.0/8")}, {"prefix_ranges": addresses("10.0.0.0/8")}],
        [
            {"prefix_ranges": addresses("127.0.0.0/8"), "source_prefix_ranges": addresses("127.0.0.3/32")},
            {"prefix_ranges": addresses("127.0.0.1/32"), "source_prefix_ranges": addresses("127.0.0.2/32")},
        ],
        [{"transport_protocol": "raw_buffer"}, {}],
        [{"transport_protocol": "tls"}, {"source_prefix_ranges": addresses("127.0.0.3/32")}],
        [{"server_names": ["a.com"]}, {"source_prefix_ranges": addresses("127.0.0.3/32")}],
        [{"application_protocols": ["h2"]}, {"direct_source_prefix_ranges": addresses("127.0.0.3/32")}],
        [{"destination_port": 1}, {"source_ports": [1, 2]}],
    ],
)
@pytest.mark.parametrize("has_default", [True, False])
def test_each_connection_has_the_filter_chain_that_envoy_gives_it(
    tmp_path: Path, chains: list[dict[str, Any]], has_default: bool
) -> None:
    def listener(made: dict[str, Any]) -> dict[str, Any]:
        made["filter_chains"] = [named_chain(str(number), one) for number, one in enumerate(chains)]
        if has_default:
            made["default_filter_chain"] = named_chain("default", {})
        return made

    def ask(port: int, source: str) -> str:
        with httpx.Client(transport=httpx.HTTPTransport(local_address=source)) as client:
            try:
                answer = client.get(f"http://127.0.0.1:{port}/")
            except httpx.TransportError:
                return "refused"
        return answer.text if answer.status_code == 200 else "refused"

    seen = []
    for name in SERVER_SUBJECTS:
        (tmp_path / name).mkdir()
        with running_server(name, tmp_path / name, [], listener=listener) as subject:
            seen.append([ask(subject.port, source) for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3")])
    assert seen[0] == seen[1]
