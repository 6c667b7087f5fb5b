"""What strangers send to be counted: it is bounded, takes no room from others, and changes nothing for applications."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import flask
import grpc
import grpc.aio
import httpx
import pytest
from meshsdk_flask import MeshWsgi

import meshsdk
from meshsdk.grpc.message_tally import MessageTally
from meshsdk.http.measured import Record
from meshsdk.telemetry import istio_metrics, peer_metadata
from meshsdk.telemetry.cells import Cells, PrivateMemory
from meshsdk.telemetry.istio_metrics import IstioMetrics, Outcome
from meshsdk.telemetry.peer_metadata import OVER_GRPC_HEADER, Peers, own_headers
from meshsdk.telemetry.prometheus import exposition
from meshsdk.telemetry.service import Service
from meshsdk.telemetry.workload import NOBODY, Workload

from ..conftest import service
from ..patience import PATIENCE
from ..server.running import serving
from ..servers import EchoServer, ScriptedServer, read_head
from .applications import application, send
from .scraping import Scraped, World

PROVEN = "spiffe://cluster.local/ns/default/sa/productpage"


def metadata_of(name: str, **more: Any) -> bytes:
    """What a workload of that name says of itself."""
    return base64.b64encode(peer_metadata._struct({"WORKLOAD_NAME": name, "NAMESPACE": "default", **more}))


def metrics_of(series: int) -> IstioMetrics:
    return IstioMetrics(NOBODY, Service(), Record, make_memory=lambda: PrivateMemory(series + 1))


def test_a_sum_that_is_full_goes_round_and_requests_go_on() -> None:
    cells = Cells(PrivateMemory(2))
    row = cells.row("http", ("a",))
    for _ in range(3):
        cells.count_request(row, 1, (1 << 64) - 1, (1 << 64) - 1)
    (numbers,) = cells.rows()[0].values()
    assert sum(numbers[1:21]) == 3
    assert numbers[21] == ((1 << 64) - 1) * 3 % (1 << 64)


def test_a_length_that_a_stranger_only_says_is_not_counted(world: World) -> None:
    world.configure(service("reviews", world.port))
    with serving(application(), world.server_mesh(), world.port):
        with socket.create_connection(("127.0.0.1", world.port), PATIENCE) as stranger:
            stranger.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999999999\r\n\r\nx")
        assert httpx.get(f"http://127.0.0.1:{world.port}/").status_code == 200
        page = world.of_server(2)
    assert page.value("istio_request_bytes_sum") < 1000


def flask_reads(environ: Any) -> int:
    return len(flask.Request(environ).get_data())


READERS: dict[str, Callable[[Any], int]] = {
    "read": lambda environ: len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))),
    "readline": lambda environ: len(environ["wsgi.input"].readline()),
    "iteration": lambda environ: len(next(iter(environ["wsgi.input"]))),
    "flask": flask_reads,
    "nothing": lambda environ: 0,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_wsgi_requests_body_is_counted_as_it_is_read_where_its_length_is_not_believed(
    world: World, reader: str
) -> None:
    world.configure(service("reviews"))
    mesh = world.server_mesh()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        read = READERS[reader](environ)
        start_response("200 OK", [("content-length", "6")])
        return [b"%6d" % read]

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            """Not in the tests' output."""

    server = make_server("127.0.0.1", 0, MeshWsgi(app, mesh=mesh, port=world.port), handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/"
    try:
        size = 300_000
        body = b"x" * (size - 1) + b"\n"
        read = int(httpx.post(url, content=body).text)
        assert read == (0 if reader == "nothing" else size)
        if reader == "nothing":
            with socket.create_connection(("127.0.0.1", server.server_port), PATIENCE) as stranger:
                stranger.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999999999\r\n\r\nx")
                stranger.recv(1)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert read <= world.of_server(2 if reader == "nothing" else 1).value("istio_request_bytes_sum") < read + 1000


def test_strangers_have_rows_of_a_number_and_are_nobody_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(istio_metrics, "_MAX_ROWS_OF_STRANGERS", 4)
    metrics = metrics_of(100)
    for status in range(200, 210):
        row = metrics.received(Workload("stranger"), "", "", Outcome("http", status))
        metrics.cells.count_request(row, 1, 2, 3)
        row = metrics.received(Workload("a"), PROVEN, "", Outcome("http", status))
        metrics.cells.count_request(row, 1, 2, 3)
    page = Scraped(exposition(metrics).decode())
    assert page.value(source_workload="stranger") == 4
    assert page.value(source_workload="unknown") == 6
    assert page.value(source_workload="a") == 10, "whoever proves who it is has what it needs"


def test_what_a_peer_proves_is_not_forgotten_for_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_metadata, "MAX_IDS", 8)
    peers = Peers()
    assert peers.find(PROVEN, b"pod", metadata_of("a")) is not None
    for number in range(50):
        peers.find("", b"%d" % number, metadata_of("stranger"))
    assert peers.find(PROVEN, b"pod", b"") == peers.find(PROVEN, b"pod", metadata_of("a"))
    assert peers.find(PROVEN, b"pod", b"") is not None
    assert len(peers._known_strangers) <= 8


def test_callers_and_servers_do_not_speak_for_each_other(world: World) -> None:
    """A server called in plaintext may say that it is any id; callers of that id are not renamed by it."""
    peer_id, told = "sidecar~1.2.3.4~a.default~default.svc.cluster.local", metadata_of("liar").decode()

    def lie(connection: socket.socket, number: int) -> None:
        read_head(connection)
        lines = f"x-envoy-peer-metadata-id: {peer_id}\r\nx-envoy-peer-metadata: {told}"
        connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{lines}\r\n\r\n".encode())

    with ScriptedServer(lie) as server:
        world.configure(service("reviews", server.port) + "\n---\n" + service("own", world.port))
        mesh = world.client_mesh()
        send(mesh, "sync", "GET", "http://reviews/")
        with serving(application(), mesh, world.port):
            headers = {"x-envoy-peer-metadata-id": peer_id}
            httpx.get(f"http://127.0.0.1:{world.port}/", headers=headers)
        page = world.of_client(2)
    assert page.one(reporter="source")["destination_workload"] == "liar"
    assert page.one(reporter="destination")["source_workload"] == "unknown"


def test_a_header_of_thousands_of_fields_is_not_read() -> None:
    many = metadata_of("a", **{f"k{number}": "" for number in range(900)})
    assert len(many) < peer_metadata.MAX_HEADER_BYTES * 2
    assert Peers().find("", b"a", many[: peer_metadata.MAX_HEADER_BYTES]) is None
    with pytest.raises(ValueError, match="fields"):
        peer_metadata._Reader().read(base64.b64decode(many))
    nested: dict[str, Any] = {}
    for number in range(300):
        nested[f"k{number}"] = {"a": ""}
    with pytest.raises(ValueError, match="fields"):
        peer_metadata._Reader().read(peer_metadata._struct(nested))


def test_a_sidecar_without_an_id_is_known_by_all_that_it_says() -> None:
    """Its metadata are longer than an id may be."""
    told = metadata_of("a", LABELS={f"label-{number}": "x" * 40 for number in range(20)})
    assert len(told) > peer_metadata.MAX_ID_BYTES
    peers = Peers()
    for _ in range(2):
        found = peers.find("", b"", told)
        assert found is not None
        assert found.name == "a"


@pytest.mark.parametrize("name", ["Ä", "a\u202eb", 'a"b', "a\\b", "a\x7f"])
def test_names_have_letters_that_names_have(name: str) -> None:
    found = Peers().find("", b"a", metadata_of(name))
    assert found is not None
    assert found.name == "unknown"


def test_metadata_go_to_hosts_of_the_meshs_own_domain_alone(world: World) -> None:
    entry = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: partner, namespace: default}}
spec:
  hosts: [{host}]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]
"""
    host = "x.y.svc.partner.example"
    with EchoServer("partner") as server:
        world.configure(entry.format(host=host, port=server.port))
        headers = send(world.client_mesh(), "sync", "GET", f"http://{host}/").json()["headers"]
    assert not [name for name in headers if "peer-metadata" in name]


class Unseekable:
    """A file that can be read once: httpx sends it chunked."""

    def __init__(self) -> None:
        self._file = io.BytesIO(b"hello" * 10)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_form_with_a_file_is_sent_and_counted_by_clients_of_either_kind(world: World, kind: str) -> None:
    with EchoServer("reviews") as server:
        world.configure(service("reviews", server.port))
        answer = send(world.client_mesh(), kind, "POST", "http://reviews/", files={"f": ("name", Unseekable())})
    assert "hello" * 10 in answer.json()["body"]
    size = world.of_client().value("istio_request_bytes_sum")
    assert size > len(answer.json()["body"])


def test_a_file_that_the_server_sends_by_its_path_is_a_whole_answer(world: World) -> None:
    world.configure(service("reviews", world.port))

    async def app(scope: Any, receive: Any, send_message: Any) -> None:
        await send_message({"type": "http.response.start", "status": 200, "headers": []})
        await send_message({"type": "http.response.pathsend", "path": __file__})

    async def run() -> list[Any]:
        from meshsdk_fastapi import MeshMiddleware

        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def collect(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [(b"host", b"reviews")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", world.port),
            "extensions": {"http.response.pathsend": {}},
        }
        await MeshMiddleware(app, mesh=mesh, port=world.port)(scope, receive, collect)
        return sent

    mesh = world.server_mesh()
    assert asyncio.run(run())[-1]["type"] == "http.response.pathsend"
    assert world.of_server().one()["response_flags"] == "-"


OF_MESH = (("x-envoy-peer-metadata-id", "a"),)


def in_grpc(mesh: meshsdk.Mesh, kind: str, handler: Any, call: Callable[[grpc.Channel], Any]) -> Any:
    """What a call gets from a handler behind the mesh."""
    generic = grpc.method_handlers_generic_handler("test.Echo", {"Say": handler})
    if kind == "sync":
        server = grpc.server(ThreadPoolExecutor(4), interceptors=[mesh.server_interceptor()])
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                return call(channel)
        finally:
            server.stop(0).wait(PATIENCE)

    async def run() -> Any:
        server = grpc.aio.server(interceptors=[mesh.aio_server_interceptor()])
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:

            def in_thread() -> Any:
                with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                    return call(channel)

            return await asyncio.to_thread(in_thread)
        finally:
            await server.stop(0)

    return asyncio.run(run())


@pytest.mark.parametrize("told", [(), OF_MESH], ids=["plain", "peer"])
def test_coroutines_that_read_and_write_streams_at_their_context_are_served_and_counted(
    world: World, told: Any
) -> None:
    world.configure(service("a"))
    mesh = world.server_mesh()

    async def both(_: Any, context: Any) -> None:
        assert isinstance(context, grpc.aio.ServicerContext)
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)
            await context.write(message)

    async def up(_: Any, context: Any) -> bytes:
        count = 0
        while await context.read() is not grpc.aio.EOF:
            count += 1
        return b"%d" % count

    def call(channel: grpc.Channel) -> Any:
        return list(channel.stream_stream("/test.Echo/Say")(iter([b"a", b"b"]), metadata=told, timeout=PATIENCE))

    assert in_grpc(mesh, "aio", grpc.stream_stream_rpc_method_handler(both), call) == [b"a", b"a", b"b", b"b"]
    page = world.of_server()
    assert (page.value("istio_request_messages_total"), page.value("istio_response_messages_total")) == (2, 4)

    def call_up(channel: grpc.Channel) -> Any:
        return channel.stream_unary("/test.Echo/Say")(iter([b"a", b"b", b"c"]), metadata=told, timeout=PATIENCE)

    assert in_grpc(mesh, "aio", grpc.stream_unary_rpc_method_handler(up), call_up) == b"3"
    assert world.of_server(2).value("istio_request_messages_total") == 5


def test_threads_may_share_a_stream_of_requests() -> None:
    """As grpc's own iterator lets them, where a generator would raise."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    tally = MessageTally()

    class Slow:
        def __init__(self) -> None:
            self._left, self._lock = iter(range(200)), threading.Lock()

        def __iter__(self) -> Slow:
            return self

        def __next__(self) -> bytes:
            with self._lock:
                number = next(self._left)
            time.sleep(0.0005)
            return b"%d" % number

    messages = tally.requests_of(Slow(), is_stream=True)

    try:
        with ThreadPoolExecutor(4) as pool:
            taken = [message for part in pool.map(lambda _: list(messages), range(4)) for message in part]
    finally:
        sys.setswitchinterval(interval)
    assert len(taken) == len(set(taken)) == 200


@pytest.mark.parametrize("kind", ["sync", "aio"])
@pytest.mark.parametrize("values", [["evil"], ["evil", ""], ["", "evil"], [""]])
def test_handlers_never_see_what_meshes_tell_each_other(world: World, kind: str, values: list[str]) -> None:
    world.configure(service("a"))
    mesh = world.server_mesh()
    names = [own_headers("", {}, NOBODY)[0][0].decode(), OVER_GRPC_HEADER.decode()]

    def say(_: bytes, context: Any) -> bytes:
        assert isinstance(context, grpc.ServicerContext | grpc.aio.ServicerContext)
        return repr([name for name, _ in context.invocation_metadata() if name in names]).encode()

    async def say_async(request: bytes, context: Any) -> bytes:
        return say(request, context)

    def call(channel: grpc.Channel) -> Any:
        metadata = [(name, value) for name in names for value in values]
        return channel.unary_unary("/test.Echo/Say")(b"", metadata=metadata, timeout=PATIENCE)

    handler = grpc.unary_unary_rpc_method_handler(say if kind == "sync" else say_async)
    assert in_grpc(mesh, kind, handler, call) == b"[]"
