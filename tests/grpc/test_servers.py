"""gRPC servers of the process: deadlines that go on, load that is reported, services that stay as they are."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from fastapi import FastAPI, Request
from flask import Flask
from flask import request as flask_request
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from xds.data.orca.v3 import orca_load_report_pb2
from xds.service.orca.v3 import orca_pb2

import meshsdk
from meshsdk import LoadReports, current_load_report, deadline
from tests.conftest import MakeMesh, service
from tests.grpc.conftest import MakeClient
from tests.grpc.xds import RATINGS, cluster, documents, endpoints, listener
from tests.grpc_client import counts
from tests.grpc_server import EchoService, GrpcServer
from tests.servers import EchoServer

from ..patience import PATIENCE

Serve = Callable[..., GrpcServer]


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> meshsdk.Mesh:
    return make_mesh("# no services\n")


@contextmanager
def aio_server(mesh: meshsdk.Mesh, handler: Any, **options: Any) -> Iterator[tuple[asyncio.AbstractEventLoop, int]]:
    """A grpc.aio server, and the loop that it and its clients run on."""
    loop = asyncio.new_event_loop()

    async def start() -> tuple[Any, int]:
        server = grpc.aio.server(
            migration_thread_pool=ThreadPoolExecutor(4), interceptors=[mesh.aio_server_interceptor(**options)]
        )
        server.add_generic_rpc_handlers((handler,))
        for reports in options.values():
            reports.add_to_server(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = loop.run_until_complete(start())
    try:
        yield loop, port
    finally:
        loop.run_until_complete(server.stop(0))
        loop.close()


def test_the_callers_deadline_bounds_what_a_handler_sends_over_grpc_and_http(
    make_mesh: MakeMesh, serve: Serve, stack: ExitStack, tmp_path: Any
) -> None:
    """A front end with 40 seconds left calls two back ends, and asks for 80 seconds from each."""
    web, back = stack.enter_context(EchoServer("web")), serve("back")
    mesh = make_mesh(service("web", web.port, port=80) + "---\n" + service("back", back.port, port=9080))
    channel, client = stack.enter_context(mesh.channel("back:9080")), stack.enter_context(mesh.client(timeout=80))

    left: list[float] = []

    class Front(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            def handle(request: bytes, context: Any) -> bytes:
                left.append(context.time_remaining())
                channel.unary_unary("/test.Echo/Say")(b"", timeout=80)
                # A thread of the handler's own has the deadline where it runs in a copy of the context.
                with ThreadPoolExecutor(1) as pool:
                    copied = contextvars.copy_context()
                    pool.submit(copied.run, channel.unary_unary("/test.Echo/Say"), b"", 80).result()
                client.get("http://web/")
                return b"done"

            return grpc.unary_unary_rpc_method_handler(handle)

    server = grpc.server(ThreadPoolExecutor(4), interceptors=[mesh.server_interceptor()])
    server.add_generic_rpc_handlers((Front(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as caller:
        caller.unary_unary("/front/Do")(b"", timeout=40)
        assert [10 < one["seconds"] <= 40.1 for one in back.calls] == [True, True]
        # On its way gRPC rounds a deadline up, by a few hundredths of a second.
        assert 10_000 < int(web.seen[-1]["headers"]["x-envoy-expected-rq-timeout-ms"]) <= left[0] * 1000 <= 40_100
        caller.unary_unary("/front/Do")(b"", timeout=None)
    assert back.calls[-1]["seconds"] > 50
    assert "x-envoy-expected-rq-timeout-ms" not in web.seen[-1]["headers"]


def test_a_deadline_that_is_over_ends_outbound_requests(make_mesh: MakeMesh, serve: Serve) -> None:
    server = serve("one")
    mesh = make_mesh(service("ratings", server.port, port=9080))
    with mesh.channel("ratings:9080") as channel, mesh.client() as client:
        channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
        with deadline.limit(0.0):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
            response = client.get("http://ratings:9080/")
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert response.status_code == 504


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"grpc-timeout": "20S"}, 20.0),
        ({"grpc-timeout": "15000m"}, 15.0),
        ({"x-envoy-expected-rq-timeout-ms": "25000"}, 25.0),
        ({"grpc-timeout": "10S", "x-envoy-expected-rq-timeout-ms": "25000"}, 10.0),
        ({"x-envoy-expected-rq-timeout-ms": "0"}, None),
        ({"x-envoy-expected-rq-timeout-ms": "-1"}, None),
        ({"x-envoy-expected-rq-timeout-ms": "9" * 40}, None),
        ({"grpc-timeout": "123456789S"}, None),
        ({"grpc-timeout": "1 S"}, None),
        ({}, None),
    ],
)
def test_inbound_http_headers_set_the_deadline(headers: dict[str, str], seconds: float | None) -> None:
    with deadline.limit_from_headers(headers):
        left = deadline.remaining()
    assert (left is None) == (seconds is None)
    if left is not None and seconds is not None:
        assert seconds - 5 < left <= seconds
    assert deadline.remaining() is None


def test_an_inner_limit_cannot_lengthen_an_outer_one() -> None:
    for inner in (1000.0, None):
        with deadline.limit(100.0), deadline.limit(inner):
            assert 1 < (deadline.remaining() or 0) <= 100.0


def test_deadlines_of_concurrent_asyncio_handlers_do_not_mix(mesh: meshsdk.Mesh) -> None:
    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            async def left(request: bytes, context: Any) -> bytes:
                await asyncio.sleep(float(request))
                return str(deadline.remaining()).encode()

            async def stream(request: bytes, context: Any) -> Any:
                for _ in range(3):
                    await asyncio.sleep(0.01)
                    yield str(deadline.remaining()).encode()

            def in_a_thread(request: bytes, context: Any) -> bytes:
                return str(deadline.remaining()).encode()

            kinds = {
                "Stream": grpc.unary_stream_rpc_method_handler(stream),
                "Thread": grpc.unary_unary_rpc_method_handler(in_a_thread),
            }
            return kinds.get(details.method.rpartition("/")[2], grpc.unary_unary_rpc_method_handler(left))

    with aio_server(mesh, Handler()) as (loop, port):

        async def ask() -> None:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                calls = [
                    channel.unary_unary("/t/Left")(str(0.05 * (number % 3)).encode(), timeout=50.0 + 20 * number)
                    for number in range(10)
                ]
                for number, left in enumerate([float(await call) for call in calls]):
                    assert 30.2 + 20 * number < left <= 50.2 + 20 * number
                async for one in channel.unary_stream("/t/Stream")(b"", timeout=70):
                    assert 50 < float(one) <= 70.2
                assert 50 < float(await channel.unary_unary("/t/Thread")(b"", timeout=70)) <= 70.2
                assert await channel.unary_unary("/t/Left")(b"0") == b"None"

        loop.run_until_complete(ask())


def test_health_checking_and_reflection_stay_as_they_are(mesh: meshsdk.Mesh, stack: ExitStack) -> None:
    reports = LoadReports()
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[mesh.server_interceptor(load_reports=reports)])
    checker = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    reports.add_to_server(server)
    reflection.enable_server_reflection(["grpc.health.v1.Health", reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0))
    with mesh.channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status == 1
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        checker.set("x", health_pb2.HealthCheckResponse.SERVING)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "grpc.health.v1.Health" in database.get_services()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/no.Such/Method")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("asynchronous", [False, True])
def test_load_is_reported_out_of_band(mesh: meshsdk.Mesh, stack: ExitStack, asynchronous: bool) -> None:
    reports = LoadReports(minimum_interval_seconds=0.02)
    reports.server.cpu_utilization, reports.server.utilization["disk"] = 0.25, 0.5
    method = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"
    request = orca_pb2.OrcaLoadReportRequest().SerializeToString()
    parse = orca_load_report_pb2.OrcaLoadReport.FromString
    received: list[Any] = []
    if asynchronous:
        with aio_server(mesh, EchoService("x", asynchronous=True), load_reports=reports) as (loop, port):

            async def ask() -> None:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    call = channel.unary_stream(method)(request, timeout=PATIENCE)
                    received.append(parse(await call.read()))
                    reports.server.cpu_utilization = 0.75
                    while received[-1].cpu_utilization != 0.75:  # Others may have been on their way.
                        received.append(parse(await call.read()))
                    call.cancel()

            loop.run_until_complete(ask())
    else:
        server = GrpcServer("x", interceptors=[mesh.server_interceptor(load_reports=reports)])
        stack.callback(server.stop)
        other = grpc.server(ThreadPoolExecutor(2), interceptors=[mesh.server_interceptor(load_reports=reports)])
        reports.add_to_server(other)
        port = other.add_insecure_port("127.0.0.1:0")
        other.start()
        stack.callback(lambda: other.stop(0))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = channel.unary_stream(method)(request, timeout=PATIENCE)
            received.append(parse(next(stream)))
            reports.server.cpu_utilization = 0.75
            while received[-1].cpu_utilization != 0.75:
                received.append(parse(next(stream)))
            stream.cancel()
    assert (received[0].cpu_utilization, received[0].utilization["disk"]) == (0.25, 0.5)
    assert {one.cpu_utilization for one in received} == {0.25, 0.75}


def test_clients_weigh_servers_by_what_each_call_reports(
    make_mesh: MakeMesh, connect: MakeClient, stack: ExitStack
) -> None:
    """One server says that it is idle, one that it is busy; grpc-core's weighted round robin believes them."""
    mesh = make_mesh("# no services\n")
    servers = {}
    for name, utilization in (("idle", 0.1), ("busy", 0.9)):
        reports = LoadReports()
        reports.server.qps = 100.0
        server = stack.enter_context(GrpcServer(name, interceptors=[mesh.server_interceptor(load_reports=reports)]))

        def report(utilization: float = utilization) -> None:
            current_load_report().application_utilization = utilization

        server.service.on_say = report
        servers[name] = server.port
    types = "type.googleapis.com/envoy.extensions.load_balancing_policies"
    policy = {
        "@type": f"{types}.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
        "blackout_period": "0s",
        "weight_update_period": "0.1s",
    }
    weighted = {"policies": [{"typed_extension_config": {"name": "weighted", "typed_config": policy}}]}
    clients = make_mesh(
        documents(
            listener(RATINGS, [{"match": {"prefix": ""}, "route": {"cluster": "a", "timeout": "0s"}}]),
            cluster("a", load_balancing_policy=weighted),
            endpoints("a", [list(servers.values())]),
        )
    )
    client = connect(clients)
    until = time.monotonic() + PATIENCE
    while True:
        seen = counts(client.try_many(200))
        if seen["idle"] >= 160:  # Nine of ten, once the weights have been taken over.
            return
        assert time.monotonic() < until, seen


def test_a_report_outside_of_a_call_is_told_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="server_interceptor"):
        current_load_report()


def test_trailing_metadata_of_the_handler_stay_beside_the_report(mesh: meshsdk.Mesh, stack: ExitStack) -> None:
    reports = LoadReports()
    reports.server.cpu_utilization = 0.5
    server = stack.enter_context(GrpcServer("one", interceptors=[mesh.server_interceptor(load_reports=reports)]))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        _, call = channel.unary_unary("/test.Echo/Say").with_call(b"", timeout=20)
        assert ("x-trailer", "end") in [tuple(one) for one in call.trailing_metadata()]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_statuses_of_handlers_are_not_touched(mesh: meshsdk.Mesh, stack: ExitStack, asynchronous: bool) -> None:
    class Raises(EchoService):
        def say(self, request: bytes, context: Any) -> bytes:
            raise ValueError("oops")

        async def asay(self, request: bytes, context: Any) -> bytes:
            raise ValueError("oops")

    if asynchronous:
        with aio_server(mesh, Raises("x", asynchronous=True)) as (loop, port):

            async def ask(method: str, request: bytes) -> str:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    try:
                        await channel.unary_unary(method)(request, timeout=20)
                    except grpc.aio.AioRpcError as error:
                        return str(error.code().name)
                    return "OK"

            assert loop.run_until_complete(ask("/test.Echo/Say", b"")) == "UNKNOWN"
            assert loop.run_until_complete(ask("/test.Echo/Fail", b"NOT_FOUND")) == "NOT_FOUND"
        return
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[mesh.server_interceptor()])
    server.add_generic_rpc_handlers((Raises("x"),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method, request, code in (("Say", b"", "UNKNOWN"), ("Fail", b"NOT_FOUND", "NOT_FOUND")):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/test.Echo/{method}")(request, timeout=20)
            assert caught.value.code().name == code


def test_foreign_channels_get_the_routes_of_a_target_that_they_name(make_mesh: MakeMesh, serve: Serve) -> None:
    """Interceptors without balancing: the channel goes where its owner says, the call is changed as routes say."""
    server = serve("one")
    route = {
        "match": {"prefix": ""},
        "route": {"cluster": "a", "timeout": "4s"},
        "request_headers_to_add": [{"header": {"key": "x-mesh", "value": "yes"}}],
    }
    refused = {"match": {"path": "/test.Echo/Fail"}, "direct_response": {"status": 403}}
    mesh = make_mesh(documents(listener(RATINGS, [refused, route]), cluster("a"), endpoints("a", [[1]])))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as plain:
        channel = grpc.intercept_channel(plain, *mesh.client_interceptors("ratings:9080"))
        channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
        assert server.calls[-1]["metadata"]["x-mesh"] == "yes"
        assert server.calls[-1]["seconds"] <= 4.1
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Echo/Fail")(b"ABORTED", timeout=20)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert list(channel.unary_stream("/test.Echo/Down")(b"2", timeout=20)) == [b"0", b"1"]
        bare = grpc.intercept_channel(plain, *mesh.client_interceptors())
        with deadline.limit(2.0):
            bare.unary_unary("/test.Echo/Say")(b"", timeout=20)
        assert server.calls[-1]["seconds"] <= 2.1
        assert "x-mesh" not in server.calls[-1]["metadata"]


def test_foreign_asyncio_channels_get_the_same(make_mesh: MakeMesh, serve: Serve) -> None:
    server = serve("one")
    route = {
        "match": {"prefix": ""},
        "route": {"cluster": "a", "timeout": "4s"},
        "request_headers_to_add": [{"header": {"key": "x-mesh", "value": "yes"}}],
    }
    refused = {"match": {"path": "/test.Echo/Fail"}, "direct_response": {"status": 403}}
    mesh = make_mesh(documents(listener(RATINGS, [refused, route]), cluster("a"), endpoints("a", [[1]])))

    async def ask() -> None:
        interceptors = mesh.aio_client_interceptors("ratings:9080")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", interceptors=interceptors) as channel:
            await channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
            assert server.calls[-1]["metadata"]["x-mesh"] == "yes"
            assert server.calls[-1]["seconds"] <= 4.1
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Echo/Fail")(b"ABORTED", timeout=20)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            call = channel.unary_stream("/test.Echo/Down")(b"2", timeout=20)
            assert [one async for one in call] == [b"0", b"1"]

    asyncio.run(ask())


def test_web_frameworks_hand_the_deadline_on(make_mesh: MakeMesh, serve: Serve) -> None:
    """FastAPI (async, in-process) and Flask: one `with` in the handler, until the middlewares do it."""
    server = serve("one")
    mesh = make_mesh(service("ratings", server.port, port=9080))
    app = FastAPI()

    @app.get("/")
    async def handle(request: Request) -> dict[str, float]:
        with deadline.limit_from_headers(request.headers):
            async with mesh.aio_channel("ratings:9080") as channel:
                await channel.unary_unary("/test.Echo/Say")(b"", timeout=60)
        return {}

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            await client.get("/", headers={"grpc-timeout": "3S"})

    asyncio.run(ask())
    assert server.calls[-1]["seconds"] <= 3.1
    flask_app = Flask("app")

    @flask_app.get("/")
    def handle_in_flask() -> str:
        with deadline.limit_from_headers(flask_request.headers), mesh.channel("ratings:9080") as channel:
            channel.unary_unary("/test.Echo/Say")(b"", timeout=60)
        return ""

    flask_app.test_client().get("/", headers={"X-Envoy-Expected-Rq-Timeout-Ms": "2000"})
    assert server.calls[-1]["seconds"] <= 2.1
