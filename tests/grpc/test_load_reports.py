"""Calls over gRPC channels are in the load reports, as requests over httpx are: grpc-core counts them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import pytest
from xds.data.orca.v3 import orca_load_report_pb2

import meshsdk

from ..ads import AdsServer
from ..differential.subjects import Answer, Upstream
from ..lrs import LoadReports
from ..patience import PATIENCE, eventually
from .xds import cluster, endpoints, listener

SELF: dict[str, Any] = {"lrs_server": {"self": {}}, "lrs_report_endpoint_metrics": ["named_metrics.foo"]}
TO_A = [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]


def grpc_server(stack: ExitStack) -> int:
    """`/x/ok` succeeds, and says what it took; `/x/fail` fails."""

    def answer(request: bytes, context: Any) -> bytes:
        report = orca_load_report_pb2.OrcaLoadReport(named_metrics={"foo": 2.0, "bar": 1.0})
        context.set_trailing_metadata((("endpoint-load-metrics-bin", report.SerializeToString()),))
        return b"ok"

    def fail(request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.INTERNAL, "on purpose")
        raise AssertionError

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer if details.method == "/x/ok" else fail)

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0))
    return int(port)


def call(channel: grpc.Channel, method: str) -> None:
    try:
        channel.unary_unary(method)(b"", timeout=PATIENCE)
    except grpc.RpcError:
        pass


@pytest.fixture
def lrs() -> LoadReports:
    return LoadReports(send_all_clusters=True, report_endpoint_granularity=True)


def begun(stack: ExitStack, lrs: LoadReports, *resources: dict[str, Any]) -> meshsdk.Mesh:
    ads = stack.enter_context(AdsServer(*resources, services=[lrs.add_to]))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=ads.bootstrap))
    mesh.wait_ready("a", PATIENCE)
    eventually(lambda: any(one["interval_seconds"] for one in mesh.status()["load_reports"]))
    return mesh


def test_calls_are_told_by_locality_with_what_servers_report(stack: ExitStack, lrs: LoadReports) -> None:
    resources = [listener("a", TO_A), cluster("a", **SELF), endpoints("a", [[grpc_server(stack)]])]
    mesh = begun(stack, lrs, *resources)
    channel = stack.enter_context(mesh.channel("a"))
    for method in ("/x/ok", "/x/ok", "/x/fail"):
        call(channel, method)

    async def again() -> None:
        async with mesh.aio_channel("a") as other:
            await other.unary_unary("/x/ok")(b"", timeout=PATIENCE)

    asyncio.run(again())
    totals = lrs.wait_for("a", succeeded=3, failed=1, issued=4)
    assert totals.places == {("zone-0", 0): (3, 1, 4)}
    assert totals.metrics == {"named_metrics.foo": (3, 6.0)}
    localities = [place for one in totals.all for place in one.upstream_locality_stats]
    assert not any(place.upstream_endpoint_stats for place in localities), "grpc-core tells of no endpoint"


def test_calls_and_requests_of_one_cluster_are_told_together(stack: ExitStack, lrs: LoadReports) -> None:
    upstream = stack.enter_context(Upstream(lambda request, number: Answer()))
    ports = [{"ports": [grpc_server(stack)], "priority": 0}, {"ports": [upstream.port], "priority": 1}]
    resources = [listener("a", TO_A), cluster("a", **SELF), endpoints("a", ports)]
    mesh = begun(stack, lrs, *resources)
    channel, client = stack.enter_context(mesh.channel("a")), stack.enter_context(mesh.client())
    call(channel, "/x/ok")
    call(channel, "/x/ok")
    with pytest.raises(httpx.TransportError):
        client.get("http://a/")  # A gRPC server that is spoken to in HTTP/1.1.
    totals = lrs.wait_for("a", succeeded=2, failed=1, issued=3)
    assert totals.places == {("zone-0", 0): (2, 1, 3)}


def test_drops_of_grpc_core_are_told_by_category(stack: ExitStack, lrs: LoadReports) -> None:
    drops = [
        {"category": "few", "drop_percentage": {"numerator": 0}},
        {"category": "all", "drop_percentage": {"numerator": 100}},
    ]
    policy = {"policy": {"drop_overloads": drops}}
    resources = [listener("a", TO_A), cluster("a", **SELF), endpoints("a", [[grpc_server(stack)]], **policy)]
    mesh = begun(stack, lrs, *resources)
    channel = stack.enter_context(mesh.channel("a"))
    for _ in range(3):
        call(channel, "/x/ok")
    assert lrs.wait_for("a", dropped=3, issued=0).categories == {"all": 3}


def test_what_a_circuit_breaker_refuses_is_told(stack: ExitStack, lrs: LoadReports) -> None:
    limits = {"circuit_breakers": {"thresholds": [{"max_requests": 0}]}}
    resources = [listener("a", TO_A), cluster("a", **SELF, **limits), endpoints("a", [[grpc_server(stack)]])]
    mesh = begun(stack, lrs, *resources)
    channel = stack.enter_context(mesh.channel("a"))
    call(channel, "/x/ok")
    call(channel, "/x/ok")
    assert lrs.wait_for("a", dropped=2).categories == {}
