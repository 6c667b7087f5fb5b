"""Active health checks: thresholds and intervals as function calls, probes against real servers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from google.protobuf import json_format

from meshsdk.balancing import Cluster
from meshsdk.health.check_state import CheckResult, CheckState
from meshsdk.health.probes import Prober
from meshsdk.http.tls import TlsChooser
from meshsdk.resources import HealthCheck, HealthCheckKind, ResourceType, StaticDiscovery, decode
from tests.differential.subjects import LATE, Answer, Upstream
from tests.differential.subjects import cluster as static_cluster

HEALTHY, UNHEALTHY, NETWORK = CheckResult.HEALTHY, CheckResult.UNHEALTHY, CheckResult.NETWORK_FAILURE
BASE: dict[str, Any] = {"timeout": "20s", "interval": "1s", "unhealthy_threshold": 2, "healthy_threshold": 2}


def make(port: int, check: dict[str, Any], **fields: Any) -> Cluster:
    config = static_cluster("c", port, health_checks=[{**BASE, **check}], **fields)
    message = json_format.ParseDict(config, cluster_pb2.Cluster())
    parsed = decode(ResourceType.CLUSTER, message.SerializeToString())
    assert isinstance(parsed.discovery, StaticDiscovery)
    made = Cluster(parsed)
    made.update(parsed, parsed.discovery.endpoints)
    return made


def probe(made: Cluster) -> CheckResult:
    [(_, endpoint)] = list(made)
    prober = Prober(made, made.config.health_checks[0], TlsChooser(httpx.create_ssl_context, http2=False))
    with contextlib.closing(prober):
        return prober.probe(endpoint)


def state(**check: Any) -> CheckState:
    made = make(1, {"tcp_health_check": {}})
    [(_, endpoint)] = list(made)
    settings = {"timeout": 1.0, "interval": 5.0, "unhealthy_threshold": 2, "healthy_threshold": 3, **check}
    return CheckState(endpoint, HealthCheck(HealthCheckKind.HTTP, **settings))


def test_the_first_success_is_enough_and_the_first_failure_too() -> None:
    well, sick = state(), state()
    assert not well.endpoint.is_healthy
    assert well.take(HEALTHY, 0.0)
    assert well.endpoint.is_healthy
    assert sick.take(NETWORK, 0.0)
    assert not sick.endpoint.is_healthy


def test_thresholds_count_in_a_row() -> None:
    one = state()
    results = [HEALTHY, NETWORK, HEALTHY, NETWORK, NETWORK, HEALTHY, HEALTHY, NETWORK, HEALTHY, HEALTHY, HEALTHY]
    health = []
    for result in results:
        one.take(result, 0.0)
        health.append(one.endpoint.is_healthy)
    assert health == [True, True, True, True, False, False, False, False, False, False, True]


def test_a_wrong_answer_counts_at_once() -> None:
    one = state(unhealthy_threshold=5)
    one.take(HEALTHY, 0.0)
    one.take(UNHEALTHY, 0.0)
    assert not one.endpoint.is_healthy


def test_a_degraded_endpoint_says_so_itself() -> None:
    one = state()
    one.take(CheckResult.DEGRADED, 0.0)
    assert one.endpoint.is_degraded
    assert not one.endpoint.is_healthy


def test_intervals_depend_on_health_change_and_traffic() -> None:
    one = state(
        unhealthy_interval=2.0,
        unhealthy_edge_interval=0.5,
        healthy_edge_interval=0.25,
        no_traffic_interval=60.0,
        interval_jitter=1.0,
        interval_jitter_percent=100,
        unhealthy_threshold=1,
        healthy_threshold=1,
    )
    none: Callable[[], float] = lambda: 0.0  # noqa: E731
    delays = []
    for result in (HEALTHY, HEALTHY, NETWORK, NETWORK, HEALTHY):
        one.take(result, 0.0)
        delays.append(one.next_delay(True, none))
    assert delays == [5.0, 5.0, 0.5, 2.0, 0.25]
    assert one.next_delay(False, none) == 60.0
    one.take(HEALTHY, 0.0)
    assert one.next_delay(True, lambda: 0.5) == 5.0 + 0.5 + 2.5


@pytest.mark.parametrize(
    ("status", "check", "expected"),
    [
        (200, {}, HEALTHY),
        (204, {}, UNHEALTHY),
        (204, {"expected_statuses": [{"start": "200", "end": "300"}]}, HEALTHY),
        (503, {"retriable_statuses": [{"start": "500", "end": "600"}]}, NETWORK),
    ],
)
def test_http_statuses(status: int, check: dict[str, Any], expected: CheckResult, stack: ExitStack) -> None:
    server = stack.enter_context(Upstream(lambda request, number: Answer(status, body=b"")))
    assert probe(make(server.port, {"http_health_check": {"path": "/h", **check}})) is expected


def test_the_http_request_is_made_as_configured(stack: ExitStack) -> None:
    server = stack.enter_context(Upstream(lambda request, number: Answer(headers={"x-envoy-degraded": "1"})))
    check = {
        "path": "/h",
        "method": "POST",
        "request_headers_to_add": [{"header": {"key": "x-check", "value": "yes"}}],
        "request_headers_to_remove": ["user-agent"],
    }
    assert probe(make(server.port, {"http_health_check": check})) is CheckResult.DEGRADED
    [request] = server.received
    assert (request.method, request.target, request.headers["host"], request.headers["x-check"]) == (
        "POST",
        "/h",
        "c",
        "yes",
    )
    assert "user-agent" not in request.headers


def test_another_port_may_be_checked(stack: ExitStack) -> None:
    server = stack.enter_context(Upstream())
    assert probe(make(1, {"http_health_check": {"path": "/"}, "alt_port": server.port})) is HEALTHY


def test_nobody_there_and_no_answer_are_failures_of_the_network(stack: ExitStack) -> None:
    slow = stack.enter_context(Upstream(lambda request, number: Answer(delay=LATE)))
    assert probe(make(1, {"http_health_check": {"path": "/"}})) is NETWORK
    assert probe(make(slow.port, {"http_health_check": {"path": "/"}, "timeout": "0.2s"})) is NETWORK


@contextlib.contextmanager
def greeting(text: bytes) -> Iterator[int]:
    """A TCP server that answers whatever it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(text)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(("answer", "expected"), [(b"..PO..NG", HEALTHY), (b"NGPO", NETWORK), (b"", NETWORK)])
def test_a_tcp_answer_must_hold_the_parts_in_order(answer: bytes, expected: CheckResult) -> None:
    receive = [{"text": b"PO".hex()}, {"text": b"NG".hex()}]
    with greeting(answer) as port:
        check = {"tcp_health_check": {"send": {"text": b"PING".hex()}, "receive": receive}}
        assert probe(make(port, check)) is expected


def test_connecting_is_enough_where_nothing_is_sent() -> None:
    with greeting(b"") as port:
        assert probe(make(port, {"tcp_health_check": {}})) is HEALTHY


@pytest.fixture
def grpc_server() -> Iterator[int]:
    """A real gRPC server whose health service knows two services."""
    answers = {b"": b"\x08\x01", b"\x0a\x04sick": b"\x08\x02", b"\x0a\x04well": b"\x08\x01"}

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request not in answers:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return answers[request]

    handler = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("service", "expected"), [("", HEALTHY), ("well", HEALTHY), ("sick", UNHEALTHY), ("unknown", UNHEALTHY)]
)
def test_grpc_services_are_asked_by_the_health_protocol(service: str, expected: CheckResult, grpc_server: int) -> None:
    assert probe(make(grpc_server, {"grpc_health_check": {"service_name": service}})) is expected
