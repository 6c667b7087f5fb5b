"""Channels of a Mesh are grpc's channels: everything that they can do works, wherever the mesh sends the calls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import meshsdk
from tests.conftest import MakeMesh, service, virtual_service
from tests.grpc.conftest import MakeClient
from tests.grpc_client import AioClient, Status, SyncClient
from tests.grpc_server import GrpcServer

from ..patience import PATIENCE
from ..processes import free_ports

Serve = Callable[..., GrpcServer]

# Routes that grpc-core carries out, and routes that meshsdk decides on: calls behave alike.
NATIVE = ""
DECIDED = virtual_service(
    "ratings", "[{headers: {request: {set: {x-mesh: seen}}}, route: [{destination: {host: ratings}}]}]"
)


@pytest.fixture(params=[NATIVE, DECIDED], ids=["native", "decided"])
def mesh(request: pytest.FixtureRequest, make_mesh: MakeMesh, server: GrpcServer) -> meshsdk.Mesh:
    return make_mesh(service("ratings", server.port, port=9080) + request.param)


@pytest.fixture
def server(serve: Serve) -> GrpcServer:
    return serve("one")


def test_all_four_kinds_of_calls(mesh: meshsdk.Mesh, connect: MakeClient) -> None:
    client = connect(mesh)
    assert client.call(request=b"hello")["request"] == "hello"
    assert client.down(3) == [b"0", b"1", b"2"]
    assert client.up([b"a", b"b"]) == b"a+b"
    assert client.both([b"a", b"b"]) == [b"one:a", b"one:b"]


def test_metadata_go_both_ways(mesh: meshsdk.Mesh, connect: MakeClient, server: GrpcServer) -> None:
    client = connect(mesh)
    sent = (("x-text", "a, b"), ("x-raw-bin", b"\0\xff\n"), ("x-twice", "1"), ("x-twice", "2"))
    initial, trailing = client.metadata(metadata=sent)
    assert ("x-served-by", "one") in initial
    assert ("x-trailer", "end") in trailing
    seen = server.calls[-1]["metadata"]
    assert (seen["x-text"], seen["x-raw-bin"], seen["x-twice"]) == ("a, b", "\0\xff\n", "2")
    assert not any(name == "set-cookie" for name, _ in initial + trailing)


def test_a_deadline_reaches_the_server_and_ends_the_call(
    mesh: meshsdk.Mesh, connect: MakeClient, server: GrpcServer
) -> None:
    client = connect(mesh)
    assert 30 < client.call(timeout=60)["seconds"] <= 60.1
    started = time.monotonic()
    with pytest.raises(Status) as caught:
        client.call("/test.Echo/Sleep", b"5", timeout=0.2)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 5


def test_statuses_of_the_server_come_through(mesh: meshsdk.Mesh, connect: MakeClient) -> None:
    client = connect(mesh)
    for name in ("NOT_FOUND", "FAILED_PRECONDITION", "UNAUTHENTICATED"):
        with pytest.raises(Status, match="as asked") as caught:
            client.call("/test.Echo/Fail", name.encode())
        assert caught.value.code.name == name


def test_a_call_can_be_cancelled(mesh: meshsdk.Mesh, server: GrpcServer) -> None:
    with mesh.channel("ratings:9080") as channel:
        future = channel.unary_unary("/test.Echo/Sleep").future(b"5", timeout=20)
        time.sleep(0.1)
        assert future.cancel()
        assert future.code() is grpc.StatusCode.CANCELLED
        over = threading.Event()

        def requests() -> Iterator[bytes]:
            yield b"a"
            over.wait(PATIENCE)

        responses = channel.stream_stream("/test.Echo/Both")(requests(), timeout=20)
        assert next(responses) == b"one:a"
        responses.cancel()
        assert responses.code() is grpc.StatusCode.CANCELLED
        over.set()


def test_an_asyncio_call_can_be_cancelled(mesh: meshsdk.Mesh, server: GrpcServer) -> None:
    async def cancel() -> None:
        async with mesh.aio_channel("ratings:9080") as channel:
            call = channel.unary_unary("/test.Echo/Sleep")(b"5", timeout=20)
            await asyncio.sleep(0.2)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            task = asyncio.ensure_future(_wait_for(channel.unary_unary("/test.Echo/Sleep")(b"5", timeout=20)))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())


async def _wait_for(call: Any) -> Any:
    return await call


def test_a_call_may_wait_for_a_server_that_comes_later(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    [port] = free_ports(1)
    client = connect(make_mesh(service("ratings", port, port=9080)))
    with pytest.raises(Status) as caught:
        client.call(timeout=PATIENCE)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    threading.Timer(0.5, lambda: serve("late", port=port)).start()
    assert client.call(timeout=PATIENCE, wait_for_ready=True)["name"] == "late"


def test_compression_credentials_and_options_are_passed_on(mesh: meshsdk.Mesh, connect: MakeClient) -> None:
    client = connect(mesh, options=[("grpc.max_receive_message_length", 200)], compression=grpc.Compression.Gzip)
    with pytest.raises(Status) as caught:
        client.call(request=b"x" * 1000)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_service_config_of_the_callers_is_said_to_have_no_effect(
    mesh: meshsdk.Mesh, connect: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Retries have one owner, which is named."""
    client = connect(mesh, options=[("grpc.service_config", '{"methodConfig": []}')])
    assert client.call()["name"] == "one"
    assert "retries are those of the mesh's routes, carried out by grpc-core" in caplog.text


def test_an_authority_of_the_callers_own_is_kept(make_mesh: MakeMesh, connect: MakeClient, server: GrpcServer) -> None:
    mesh = make_mesh(service("ratings", server.port, port=9080))
    client = connect(mesh, options=[("grpc.default_authority", "ratings.default:9080")])
    assert client.call()["name"] == "one"


@pytest.mark.parametrize(
    "target", ["ratings:9080", "xds:///ratings:9080", "RATINGS.default:9080", "ratings.default.svc.cluster.local:9080"]
)
def test_targets_are_authorities_or_xds_uris(
    make_mesh: MakeMesh, connect: MakeClient, server: GrpcServer, target: str
) -> None:
    mesh = make_mesh(service("ratings", server.port, port=9080))
    assert connect(mesh, target).call()["name"] == "one"


@pytest.mark.parametrize(
    "target", ["", "dns:///ratings:9080", "unix:/tmp/x", "ratings:port", "a/b:1", "user@ratings:1"]
)
def test_other_targets_are_refused_at_once(make_mesh: MakeMesh, target: str) -> None:
    mesh = make_mesh("")
    with pytest.raises(ValueError, match="target"):
        mesh.channel(target)
    with pytest.raises(ValueError, match="target"):
        mesh.aio_channel(target)


def test_unknown_hosts_are_called_directly_unless_they_are_denied(
    make_mesh: MakeMesh, connect: MakeClient, server: GrpcServer, tmp_path: Any, stack: Any
) -> None:
    mesh = make_mesh("")
    assert connect(mesh, f"localhost:{server.port}").call()["name"] == "one"
    assert connect(mesh, f"127.0.0.1:{server.port}").call()["name"] == "one"
    strict = stack.enter_context(meshsdk.Mesh(config=tmp_path / "mesh", unknown_hosts="deny"))
    with pytest.raises(Status, match="does not know 'nobody:1'.*ServiceEntry") as caught:
        connect(strict, "nobody:1").call()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_interceptors_of_the_caller_stand_before_the_mesh(mesh: meshsdk.Mesh, server: GrpcServer) -> None:
    order: list[str] = []

    class Adds(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.name = name

        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            order.append(self.name)
            metadata = [*(details.metadata or ()), ("x-order", ",".join(order))]
            return continuation(details._replace(metadata=metadata), request)

    with mesh.channel("ratings:9080", interceptors=[Adds("outer"), Adds("inner")]) as channel:
        channel.unary_unary("/test.Echo/Say")(b"", timeout=20)
    assert order == ["outer", "inner"]
    assert server.calls[-1]["metadata"]["x-order"] == "outer,inner"


def test_asyncio_interceptors_of_the_caller_stand_before_the_mesh(mesh: meshsdk.Mesh, server: GrpcServer) -> None:
    class Adds(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            metadata = grpc.aio.Metadata(*(details.metadata or ()), ("x-order", "user"))
            return await continuation(details._replace(metadata=metadata), request)

    async def call() -> None:
        async with mesh.aio_channel("ratings:9080", interceptors=[Adds()]) as channel:
            for _ in range(2):
                await channel.unary_unary("/test.Echo/Say")(b"", timeout=20)

    asyncio.run(call())
    assert [one["metadata"]["x-order"] for one in server.calls] == ["user", "user"]


def test_connectivity_can_be_watched(mesh: meshsdk.Mesh) -> None:
    states: list[Any] = []
    ready = threading.Event()

    def watch(state: Any) -> None:
        states.append(state)
        if state is grpc.ChannelConnectivity.READY:
            ready.set()

    with mesh.channel("ratings:9080") as channel:
        channel.subscribe(watch, try_to_connect=True)
        assert ready.wait(PATIENCE), states
        channel.unsubscribe(watch)
        grpc.channel_ready_future(channel).result(timeout=20)
        wait_for_grpc_to_stop_polling()


def wait_for_grpc_to_stop_polling() -> None:
    """grpc's own thread that watches a channel's state fails where the channel is closed under it."""
    until = time.monotonic() + PATIENCE
    while any(thread.name.endswith("(_run)") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_asyncio_connectivity_can_be_watched(mesh: meshsdk.Mesh) -> None:
    async def watch() -> None:
        async with mesh.aio_channel("ratings:9080") as channel:
            state = channel.get_state(try_to_connect=True)
            await asyncio.wait_for(channel.channel_ready(), 20)
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            assert state is not grpc.ChannelConnectivity.SHUTDOWN

    asyncio.run(watch())


def test_futures_have_callbacks_and_results(mesh: meshsdk.Mesh) -> None:
    with mesh.channel("ratings:9080") as channel:
        done = threading.Event()
        future = channel.unary_unary("/test.Echo/Say").future(b"", timeout=20)
        future.add_done_callback(lambda one: done.set())
        assert future.result(timeout=20)
        assert done.wait(PATIENCE)
        assert future.done()
        assert future.exception() is None
        failing = channel.unary_unary("/test.Echo/Fail").future(b"ABORTED", timeout=20)
        assert failing.exception(timeout=20).code() is grpc.StatusCode.ABORTED
        with pytest.raises(grpc.RpcError, match="ABORTED"):
            failing.result()


def test_asyncio_streams_can_be_read_and_written_by_hand(mesh: meshsdk.Mesh) -> None:
    async def talk() -> None:
        async with mesh.aio_channel("ratings:9080") as channel:
            call = channel.stream_stream("/test.Echo/Both")(timeout=20)
            await call.write(b"a")
            assert await call.read() == b"one:a"
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(talk())


def test_a_channel_connects_with_its_first_call_and_not_before(make_mesh: MakeMesh, server: GrpcServer) -> None:
    before = {thread.name for thread in threading.enumerate()}
    mesh = make_mesh(service("ratings", server.port, port=9080))
    channel = mesh.channel("ratings:9080")
    say = channel.unary_unary("/test.Echo/Say")
    assert not {thread.name for thread in threading.enumerate()} - before
    assert say(b"", timeout=20)
    channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        say(b"", timeout=20)


def test_meshes_live_side_by_side_and_can_be_reopened(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, tmp_path: Any, stack: Any
) -> None:
    one, two = serve("one"), serve("two")
    for round_number in range(3):
        first = make_mesh(service("ratings", one.port, port=9080))
        folder = tmp_path / f"other-{round_number}"
        folder.mkdir()
        (folder / "mesh.yaml").write_text(service("ratings", two.port, port=9080))
        second = stack.enter_context(meshsdk.Mesh(config=folder))
        assert connect(first).call()["name"] == "one"
        assert connect(second).call()["name"] == "two"
        first.close()
        assert connect(second).call()["name"] == "two"
        second.close()


def test_a_closed_mesh_keeps_open_channels_and_refuses_new_targets(
    make_mesh: MakeMesh, connect: MakeClient, server: GrpcServer
) -> None:
    mesh = make_mesh(service("ratings", server.port, port=9080))
    client = connect(mesh)
    assert client.call()["name"] == "one"
    mesh.close()
    assert client.call()["name"] == "one"
    with pytest.raises(Status, match="closed"):
        connect(mesh, "other:1").call(timeout=5)


def test_an_edit_of_the_folder_moves_calls(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, tmp_path: Any
) -> None:
    one, two = serve("one"), serve("two")
    client = connect(make_mesh(service("ratings", one.port, port=9080)))
    assert client.call()["name"] == "one"
    (tmp_path / "mesh" / "mesh.yaml").write_text(service("ratings", two.port, port=9080))
    deadline = time.monotonic() + PATIENCE
    while client.call()["name"] != "two":
        assert time.monotonic() < deadline


def test_names_with_odd_characters_reach_grpc_core_and_come_back(
    make_mesh: MakeMesh, connect: MakeClient, server: GrpcServer
) -> None:
    import json

    from tests.grpc.xds import cluster, endpoints, listener

    name = "a/b~c|d%2F(e) [f] é?#"
    documents = [
        listener("ratings.default.svc.cluster.local:9080", [{"match": {"prefix": ""}, "route": {"cluster": name}}]),
        cluster(name),
        endpoints(name, [[server.port]]),
    ]
    mesh = make_mesh("\n---\n".join(map(json.dumps, documents)))
    assert connect(mesh).call()["name"] == "one"


def test_threads_and_loops_share_one_mesh(make_mesh: MakeMesh, server: GrpcServer) -> None:
    mesh = make_mesh(service("ratings", server.port, port=9080))
    sync, errors = SyncClient(mesh, "ratings:9080"), []

    def work() -> None:
        try:
            for _ in range(50):
                sync.call()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    client = AioClient(mesh, "ratings:9080")
    answers = client.try_many(100, at_once=10)
    for thread in threads:
        thread.join()
    client.close()
    sync.close()
    assert not errors
    assert not [one for one in answers if isinstance(one, Status)]
