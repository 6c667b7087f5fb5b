"""Which calls grpc-core carries out whole, and which meshsdk decides on; and what neither does, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshsdk.cli.commands import app
from meshsdk.discovery import ClusterView, ListenerView, Snapshot
from meshsdk.exchange import Directory
from meshsdk.exchange.directory import compile_target
from meshsdk.grpc.channels.call_plan import CallPlan, make_plan
from meshsdk.grpc.engine import limits
from meshsdk.resources import Endpoints, ResourceType, decode
from tests.conftest import destination_rule, service, virtual_service
from tests.grpc.xds import cluster, listener

SAY = "/test.Echo/Say"
TYPES = "type.googleapis.com/envoy.extensions.filters.http"


def parsed(kind: ResourceType, document: dict[str, Any]) -> Any:
    from meshsdk.controlplane.documents import Document
    from meshsdk.controlplane.raw import parse_raw

    return decode(kind, parse_raw(Document("test", dict(document)), [])[2])


def plan(
    routes: list[Any],
    method: str = SAY,
    filters: list[Any] | None = None,
    manager: dict[str, Any] | None = None,
    configuration: dict[str, Any] | None = None,
    **virtual_host: Any,
) -> CallPlan:
    """The plan of a method under some routes to the cluster `a`.

    Args:
        manager: More of the connection manager.
        configuration: More of the route configuration.
    """
    document = listener("ratings:9080", routes, filters or [], **virtual_host)
    document["api_listener"]["api_listener"].update(manager or {})
    document["api_listener"]["api_listener"]["route_config"].update(configuration or {})
    one = parsed(ResourceType.LISTENER, document)
    config = parsed(ResourceType.CLUSTER, cluster("a"))
    snapshot = Snapshot(
        1,
        {"ratings:9080": ListenerView(one, one.route_configuration)},
        {"a": ClusterView(config, Endpoints("a"))},
    )
    return make_plan(Directory().advance(snapshot, 0.0), ("ratings:9080",), "ratings:9080", method, "allow")


TO_A = {"cluster": "a", "timeout": "0s"}
ALL = {"match": {"prefix": ""}, "route": TO_A}


def split(*clusters: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A route whose calls are shared out alike."""
    weighted = {"clusters": [{"weight": 1, **one} for one in clusters], **more}
    return {"match": {"prefix": ""}, "route": {"weighted_clusters": weighted, "timeout": "0s"}}


def configured(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    """A filter of a listener."""
    return {"name": name, "typed_config": {"@type": f"{TYPES}.{kind}", **fields}}


def sessions(cookie: str) -> dict[str, Any]:
    """The settings of sessions by a cookie."""
    state = {
        "@type": "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
        "cookie": {"name": cookie},
    }
    return {"session_state": {"name": "cookie", "typed_config": state}}


SESSION = "stateful_session.v3.StatefulSession"

NATIVE: dict[str, list[Any]] = {
    "one route": [ALL],
    "a prefix": [{"match": {"prefix": "/test."}, "route": TO_A}],
    "a header and a rest": [
        {"match": {"prefix": "", "headers": [{"name": "x", "present_match": True}]}, "route": TO_A},
        ALL,
    ],
    "a fraction and a rest": [
        {"match": {"prefix": "", "runtime_fraction": {"default_value": {"numerator": 5}}}, "route": TO_A},
        ALL,
    ],
    "a split": [{"match": {"prefix": ""}, "route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 1}]}}}],
    "retries": [{"match": {"prefix": ""}, "route": {**TO_A, "retry_policy": {"retry_on": "unavailable"}}}],
    "another method's direct response": [{"match": {"path": "/other"}, "direct_response": {"status": 200}}, ALL],
    "a method of HTTP that gRPC never has": [
        {
            "match": {"prefix": "", "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
            "direct_response": {"status": 200},
        },
        ALL,
    ],
    "a query that gRPC never has": [
        {
            "match": {"prefix": "", "query_parameters": [{"name": "q", "present_match": True}]},
            "direct_response": {"status": 200},
        },
        ALL,
    ],
    "an authority that is the channel's": [
        {
            "match": {"prefix": "", "headers": [{"name": ":authority", "string_match": {"prefix": "ratings"}}]},
            "route": TO_A,
        }
    ],
    "what comes after the last that can match": [ALL, {"match": {"prefix": ""}, "direct_response": {"status": 200}}],
    "auto_host_rewrite": [{"match": {"prefix": ""}, "route": {**TO_A, "auto_host_rewrite": True}}],
}


@pytest.mark.parametrize("name", NATIVE)
def test_grpc_core_carries_out(name: str) -> None:
    made = plan(NATIVE[name])
    assert made.is_native, made.why


DECIDED: dict[str, tuple[list[Any], str]] = {
    "header changes": ([{**ALL, "request_headers_to_remove": ["x"]}], "header changes"),
    "a direct response": ([{"match": {"prefix": ""}, "direct_response": {"status": 200}}], "a direct response"),
    "a redirect": ([{"match": {"prefix": ""}, "redirect": {"path_redirect": "/"}}], "a redirect"),
    "a rewrite": ([{"match": {"prefix": "/"}, "route": {**TO_A, "prefix_rewrite": "/x/"}}], "a rewrite"),
    "a mirror": (
        [{"match": {"prefix": ""}, "route": {**TO_A, "request_mirror_policies": [{"cluster": "a"}]}}],
        "a mirror",
    ),
    "cluster_header": ([{"match": {"prefix": ""}, "route": {"cluster_header": "x"}}], "the call chooses its cluster"),
    "a missing cluster": ([{"match": {"prefix": ""}, "route": {"cluster": "gone"}}], "cluster gone does not exist"),
    "a missing cluster of a split": ([split({"name": "a"}, {"name": "gone"})], "cluster gone does not exist"),
    "perhaps no route": (
        [{"match": {"path": SAY, "headers": [{"name": "x", "present_match": True}]}, "route": TO_A}],
        "perhaps no route matches",
    ),
    "binary metadata": (
        [{"match": {"prefix": "", "headers": [{"name": "x-bin", "present_match": True}]}, "route": TO_A}, ALL],
        "a condition on x-bin, which grpc-core does not see",
    ),
    "different timeouts": (
        [
            {
                "match": {"prefix": "", "headers": [{"name": "x", "present_match": True}]},
                "route": {**TO_A, "timeout": "1s"},
            },
            ALL,
        ],
        "the routes that may match have different timeouts",
    ),
    "a limit on the caller's deadline": (
        [
            {
                "match": {"prefix": ""},
                "route": {"cluster": "a", "max_stream_duration": {"grpc_timeout_header_max": "1s"}},
            }
        ],
        "a limit on the caller's own deadline",
    ),
    "a deadline that is shortened": (
        [{"match": {"prefix": ""}, "route": {**TO_A, "max_grpc_timeout": "1s", "grpc_timeout_offset": "0.1s"}}],
        "a deadline that is shortened",
    ),
    "a route for servers": ([{"match": {"prefix": ""}, "non_forwarding_action": {}}], "a route for servers only"),
    "a split by a header's number": (
        [split({"name": "a"}, {"name": "a"}, header_name="x-pick")],
        "the call chooses its cluster",
    ),
    "a split by hash": ([split({"name": "a"}, {"name": "a"}, use_hash_policy=True)], "the call chooses its cluster"),
    "a cluster of a split that a header names": (
        [split({"name": "a"}, {"cluster_header": "x"})],
        "the call chooses its cluster or host",
    ),
    "a host for all": ([{"match": {"prefix": ""}, "route": {**TO_A, "host_rewrite_literal": "b"}}], "a rewrite"),
    "a host for a cluster of a split": (
        [split({"name": "a"}, {"name": "a", "host_rewrite_literal": "b"})],
        "the call chooses its cluster or host",
    ),
    "header changes of responses": ([{**ALL, "response_headers_to_remove": ["x"]}], "header changes"),
    "header changes of a cluster of a split": (
        [split({"name": "a"}, {"name": "a", "request_headers_to_remove": ["x"]})],
        "header changes",
    ),
    "a method that only some other has": ([{"match": {"path": "/other"}, "route": TO_A}], "perhaps no route matches"),
}


@pytest.mark.parametrize("name", DECIDED)
def test_meshsdk_decides(name: str) -> None:
    routes, why = DECIDED[name]
    made = plan(routes)
    assert not made.is_native
    assert made.why == why


BUCKET = {"max_tokens": 1, "fill_interval": "1s"}
SPLIT_SESSION = {"s": {"@type": f"{TYPES}.{SESSION}PerRoute", "stateful_session": sessions("d")}}

AROUND: dict[str, tuple[dict[str, Any], str]] = {
    "a virtual host for https": ({"require_tls": "ALL"}, "the virtual host wants https"),
    "no virtual host": ({"domains": ["other"]}, "no virtual host, or one that depends on a header"),
    "a virtual host that a header chooses": (
        {"configuration": {"vhost_header": "x"}},
        "no virtual host, or one that depends on a header",
    ),
    "a path that is made another": (
        {"manager": {"normalize_path": True}, "method": "/test.Echo/./Say"},
        "path normalization changes or refuses the method's path",
    ),
    "attempts counted in responses": (
        {"include_attempt_count_in_response": True},
        "x-envoy-attempt-count in responses",
    ),
    "a mirror of the virtual host": ({"request_mirror_policies": [{"cluster": "a"}]}, "a mirror"),
    "a fault": (
        {
            "filters": [
                configured("f", "fault.v3.HTTPFault", abort={"http_status": 503, "percentage": {"numerator": 1}})
            ]
        },
        "a fault or a rate limit",
    ),
    "a rate limit": (
        {
            "filters": [
                configured("l", "local_ratelimit.v3.LocalRateLimit", stat_prefix="l", token_bucket=BUCKET),
            ]
        },
        "a fault or a rate limit",
    ),
    "a longest request": (
        {"filters": [configured("b", "buffer.v3.Buffer", max_request_bytes=10)]},
        "the buffer filter",
    ),
    "header changes of a filter": (
        {
            "filters": [
                configured(
                    "h", "header_mutation.v3.HeaderMutation", mutations={"response_mutations": [{"remove": "x"}]}
                )
            ]
        },
        "header changes",
    ),
    "sessions of one cluster of a split": (
        {
            "filters": [configured("s", SESSION, **sessions("c"))],
            "routes": [split({"name": "a"}, {"name": "a", "typed_per_filter_config": SPLIT_SESSION})],
        },
        "sessions that differ within a split",
    ),
}


@pytest.mark.parametrize("name", AROUND)
def test_meshsdk_decides_where_what_is_around_a_route_asks_for_more(name: str) -> None:
    more, why = AROUND[name]
    made = plan(**{"routes": [ALL], **more})
    assert not made.is_native
    assert made.why == why


def test_sessions_that_a_whole_route_has_are_grpc_cores() -> None:
    assert plan([ALL], filters=[configured("s", SESSION, **sessions("c"))]).is_native


def test_paths_that_are_uniform_already_go_straight() -> None:
    assert plan([ALL], manager={"normalize_path": True}).is_native


def test_a_fault_of_one_method_leaves_the_others_to_grpc_core() -> None:
    fault = {"@type": f"{TYPES}.fault.v3.HTTPFault", "abort": {"http_status": 503, "percentage": {"numerator": 100}}}
    filters = [{"name": "fault", "typed_config": {"@type": f"{TYPES}.fault.v3.HTTPFault"}}]
    routes = [{"match": {"path": SAY}, "route": TO_A, "typed_per_filter_config": {"fault": fault}}, ALL]
    assert not plan(routes, SAY, filters).is_native
    assert plan(routes, "/test.Echo/Down", filters).is_native


@pytest.mark.parametrize(("longest", "seconds"), [("0s", None), ("3s", 3.0)])
def test_max_grpc_timeout_takes_the_place_of_the_timeout(longest: str, seconds: float | None) -> None:
    """0 is no limit but the caller's deadline, which grpc-core keeps; istiod sends both alike."""
    route = {"match": {"prefix": ""}, "route": {**TO_A, "timeout": "1s", "max_grpc_timeout": longest}}
    made = plan([route])
    assert made.is_native, made.why
    assert made.timeout_seconds == seconds


def test_timeouts_of_native_calls_are_worked_out_in_advance() -> None:
    limited = {"match": {"prefix": ""}, "route": {"cluster": "a", "timeout": "3s"}}
    assert (plan([limited]).timeout_seconds, plan([limited]).stream_seconds) == (3.0, None)
    lasting = {"match": {"prefix": ""}, "route": {"cluster": "a", "max_stream_duration": {"max_stream_duration": "9s"}}}
    assert (plan([lasting]).timeout_seconds, plan([lasting]).stream_seconds) == (9.0, 9.0)
    default = {"match": {"prefix": ""}, "route": {"cluster": "a"}}
    assert plan([default]).timeout_seconds == 15.0  # Envoy's.


PREVIOUS_HOSTS = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
LIMITS: dict[str, tuple[dict[str, Any], str]] = {
    "least_request": (
        {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"choice_count": 3}},
        "round_robin takes its place",
    ),
    "random": ({"lb_policy": "RANDOM"}, "round_robin takes its place"),
    "maglev": ({"lb_policy": "MAGLEV"}, "ring_hash takes its place"),
    "ring size": ({"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 5000}}, "4096"),
    "subsets": ({"lb_subset_config": {"subset_selectors": [{"keys": ["v"]}]}}, "lb_subset_config"),
    "slow start": ({"round_robin_lb_config": {"slow_start_config": {"slow_start_window": "10s"}}}, "slow_start"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_what_of_a_cluster_is_not_carried_out_is_said(name: str) -> None:
    fields, words = LIMITS[name]
    notes = list(limits.of_cluster(parsed(ResourceType.CLUSTER, cluster("a", **fields))))
    assert any(words in note and note.startswith("cluster a: ") for note in notes), notes


def test_nothing_is_said_of_what_nobody_has_asked_for() -> None:
    """Istio's defaults: least_request, and a retry policy with status codes that are none, or UNAVAILABLE."""
    assert not list(limits.of_cluster(parsed(ResourceType.CLUSTER, cluster("a", lb_policy="LEAST_REQUEST"))))
    for codes in ([], [503]):
        retries = {
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
            "retriable_status_codes": codes,
            "retry_host_predicate": [{"name": "previous_hosts", "typed_config": {"@type": PREVIOUS_HOSTS}}],
        }
        route = {"match": {"prefix": ""}, "route": {**TO_A, "retry_policy": retries}}
        one = parsed(ResourceType.LISTENER, listener("x", [route]))
        target = compile_target(ListenerView(one, one.route_configuration), None)
        assert target.table is not None
        assert not list(limits.of_routes(target.table, "x"))


def test_nothing_is_said_of_what_is_carried_out() -> None:
    assert not list(limits.of_cluster(parsed(ResourceType.CLUSTER, cluster("a", lb_policy="RING_HASH"))))
    one = parsed(ResourceType.LISTENER, listener("x", [ALL]))
    target = compile_target(ListenerView(one, one.route_configuration), None)
    assert target.table is not None
    assert not list(limits.of_routes(target.table, "x"))


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ({"retry_policy": {"retry_on": "retriable-4xx,unavailable"}}, "retry_on retriable_4xx"),
        ({"retry_policy": {"retry_on": "unavailable", "per_try_timeout": "1s"}}, "per_try_timeout"),
        (
            {"retry_policy": {"retry_on": "retriable-status-codes", "retriable_status_codes": [429]}},
            "retry_on retriable_status_codes",
        ),
        ({"hash_policy": [{"cookie": {"name": "c"}}]}, "CookieHash"),
        ({"metadata_match": {"filter_metadata": {"envoy.lb": {"v": "1"}}}}, "metadata_match"),
        ({"priority": "HIGH"}, "priority HIGH"),
    ],
)
def test_what_of_a_route_is_not_carried_out_is_said(action: dict[str, Any], words: str) -> None:
    one = parsed(ResourceType.LISTENER, listener("x", [{"match": {"prefix": ""}, "route": {**TO_A, **action}}]))
    target = compile_target(ListenerView(one, one.route_configuration), None)
    assert target.table is not None
    notes = list(limits.of_routes(target.table, "x"))
    assert any(words in note for note in notes), notes


def test_the_check_command_says_it_of_services_that_speak_http2(tmp_path: Path) -> None:
    text = service("web", 1, port=80) + "---\n"
    text += service("rpc", 2, port=81).replace("name: http", "name: grpc").replace("{http:", "{grpc:")
    text += destination_rule("rpc", "trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c}}}}")
    text += virtual_service("rpc", "[{retries: {attempts: 2, perTryTimeout: 1s}, route: [{destination: {host: rpc}}]}]")
    (tmp_path / "mesh.yaml").write_text(text)
    result = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.endswith("[over-grpc]"))
    said = lines[begin : lines.index("  → nothing, unless gRPC clients need it")]
    assert any("per_try_timeout" in line for line in said), result.output
    assert any("CookieHash" in line for line in said)
    assert not any("web" in line for line in said)
