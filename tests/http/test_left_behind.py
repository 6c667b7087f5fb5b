"""What requests leave behind them: no connection, no place under a limit, no half of a body."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h2.events
import httpx
import pytest
import trustme

import meshsdk
from tests.conftest import MakeMesh, service, virtual_service
from tests.loops import LOOPS
from tests.patience import PATIENCE
from tests.processes import free_ports
from tests.servers import EchoServer, ScriptedServer, read_head

from .callers import Caller
from .http2_peer import Http2Peer
from .routed import TYPE, routed

Echo = Callable[..., EchoServer]
MakeCaller = Callable[..., Caller]
RETRIES = "[{retries: {attempts: 3, retryOn: 'connect-failure,reset,5xx'}, route: [{destination: {host: a}}]}]"


@pytest.fixture(params=["sync", *LOOPS])
def make_caller(request: pytest.FixtureRequest, stack: ExitStack) -> MakeCaller:
    def make(mesh: meshsdk.Mesh, **options: Any) -> Caller:
        caller = Caller(mesh, request.param, **options)
        stack.callback(caller.close)
        return caller

    return make


@pytest.fixture
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a client, and of a server at 127.0.0.1."""
    authority = trustme.CA()
    trusted, own = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(trusted)
    authority.issue_cert("127.0.0.1").configure_cert(own)
    return trusted, own


def requests_under_way(mesh: meshsdk.Mesh) -> int:
    known = mesh._runtime.directory.clusters.get("c")
    return known.breaker.requests if known is not None else 0


ERRORS = [httpx.ReadError, httpx.WriteError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ConnectError]


@pytest.mark.parametrize("error", [*ERRORS, ConnectionResetError, TimeoutError])
def test_a_callers_stream_that_fails_is_the_callers_error_and_never_sent_as_a_whole_one(
    make_mesh: MakeMesh, echo: Echo, make_caller: MakeCaller, error: type[Exception]
) -> None:
    server = echo("a")
    call = make_caller(make_mesh(service("a", server.port) + virtual_service("a", RETRIES)))
    raised = error("of the caller's own")
    for _ in range(2):  # Over a new connection, and over one that has served before.
        with pytest.raises(error) as caught:
            call("POST", "http://a/", content=call.body(b"half", raised))
        assert caught.value is raised
        call.get("http://a/")
    assert [one["method"] for one in server.seen] == ["GET", "GET"]


def test_a_stream_that_is_good_is_still_sent_again(make_mesh: MakeMesh, echo: Echo, make_caller: MakeCaller) -> None:
    server = echo("a")
    server.statuses = [503]
    call = make_caller(make_mesh(service("a", server.port) + virtual_service("a", RETRIES)))
    assert call("POST", "http://a/", content=call.body(b"all", b" of it")).json()["body"] == "all of it"


def test_a_connection_that_was_idle_for_too_long_is_not_used_again(
    make_mesh: MakeMesh, echo: Echo, make_caller: MakeCaller
) -> None:
    server = echo("a")
    mesh = make_mesh(service("a", server.port))
    for expiry, pause, connections in ((0.05, 0.1, 2), (PATIENCE, 0.1, 1)):
        call = make_caller(mesh, limits=httpx.Limits(keepalive_expiry=expiry))
        call.get("http://a/")
        [first] = call.idle
        time.sleep(pause)
        call.get("http://a/")
        [second] = call.idle
        assert (first is second) is (connections == 1)


def test_a_body_whose_length_was_taken_away_is_delimited_all_the_same(
    tmp_path: Path, echo: Echo, make_caller: MakeCaller
) -> None:
    """A body without a length would be the next request."""
    server = echo("a")
    action: dict[str, Any] = {}
    with routed(tmp_path / "mesh", server.port, action) as mesh:
        call = make_caller(mesh)
        request = httpx.Request("POST", "http://subject.test/", content=b"body")
        del request.headers["content-length"]
        response = (
            call.run(lambda: call.async_client.send(request)) if call.is_async else call._sync.send(request)  # type: ignore[union-attr]
        )
        assert response.json()["body"] == "body"
        assert len(server.seen) == 1


def test_a_body_that_ends_with_its_tls_connection_can_be_allowed(
    stack: ExitStack, tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext], make_caller: MakeCaller
) -> None:
    trusted, own = tls_contexts
    # As contexts are made by older releases of Python: what is cut short would pass for whole.
    trusted.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)

    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    server = stack.enter_context(ScriptedServer(script, own))
    folder = stack.enter_context(_empty_folder())
    mesh = stack.enter_context(meshsdk.Mesh(config=folder))
    with pytest.raises(httpx.RemoteProtocolError, match="allow_missing_close_notify"):
        make_caller(mesh, verify=trusted).get(server.url)
    assert make_caller(mesh, verify=trusted, allow_missing_close_notify=True).get(server.url).text == "all of it"


@contextlib.contextmanager
def _empty_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "m.yaml").write_text(service("none"))
        yield Path(name)


@pytest.fixture(params=LOOPS)
def async_caller(request: pytest.FixtureRequest, stack: ExitStack) -> MakeCaller:
    def make(mesh: meshsdk.Mesh, **options: Any) -> Caller:
        caller = Caller(mesh, request.param, **options)
        stack.callback(caller.close)
        return caller

    return make


def test_of_two_hedged_answers_that_come_at_once_one_is_let_go(
    tmp_path: Path, stack: ExitStack, async_caller: MakeCaller
) -> None:
    asked: list[int] = []
    both, answered = threading.Barrier(3), threading.Barrier(3)

    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        asked.append(number)
        both.wait(PATIENCE)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        answered.wait(PATIENCE)
        read_head(connection)

    server = stack.enter_context(ScriptedServer(script))
    action = {
        "retry_policy": {"retry_on": "5xx", "per_try_timeout": "0.1s"},
        "hedge_policy": {"hedge_on_per_try_timeout": True},
    }
    mesh = stack.enter_context(routed(tmp_path / "mesh", server.port, action))
    call = async_caller(mesh)

    async def run() -> None:
        async def block() -> None:
            while len(asked) < 2:
                await asyncio.sleep(0.01)
            # The loop stands still from here on, and finds both answers in one turn.
            both.wait(PATIENCE)
            answered.wait(PATIENCE)

        blocking = asyncio.create_task(block())
        async with call.async_client.stream("GET", "http://subject.test/") as response:
            assert response.status_code == 200
            await blocking
            await asyncio.sleep(0)
            assert requests_under_way(mesh) == 1
            assert call.pool_size == 1

    call.run(run)
    assert requests_under_way(mesh) == 0
    assert call.pool_size == 0


def test_a_request_that_is_given_up_between_two_tries_leaves_nothing(
    tmp_path: Path, stack: ExitStack, async_caller: MakeCaller
) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\nhalf")
        read_head(connection)

    server = stack.enter_context(ScriptedServer(script))
    action = {
        "retry_policy": {
            "retry_on": "5xx",
            "num_retries": 5,
            "retry_back_off": {"base_interval": "60s", "max_interval": "60s"},
        }
    }
    mesh = stack.enter_context(routed(tmp_path / "mesh", server.port, action))
    call = async_caller(mesh)

    async def run() -> None:
        for number in range(20):
            request = asyncio.create_task(call.async_client.get("http://subject.test/"))
            while server.accepted <= number or requests_under_way(mesh):
                await asyncio.sleep(0.005)
            request.cancel()
            await asyncio.wait([request])
            assert request.cancelled()
            assert requests_under_way(mesh) == 0

    call.run(run)
    assert call.pool_size == 0


def http2_service(name: str, port: int) -> str:
    return service(name, port).replace("name: http", "name: http2").replace("{http:", "{http2:")


def test_a_stream_that_gets_nothing_times_out_however_busy_the_others_are(
    make_mesh: MakeMesh, stack: ExitStack, async_caller: MakeCaller
) -> None:
    def script(connection: socket.socket, number: int) -> None:
        peer = Http2Peer(connection, max_concurrent_streams=10)
        peer.request()
        second = peer.request()
        peer.h2.send_headers(second, [(":status", "200")])
        while True:
            peer.h2.send_data(second, b"x")
            peer.flush()
            time.sleep(0.05)

    server = stack.enter_context(ScriptedServer(script))
    call = async_caller(make_mesh(http2_service("a", server.port)))

    async def run() -> None:
        silent = asyncio.create_task(call.async_client.get("http://a/", timeout=httpx.Timeout(PATIENCE, read=0.5)))
        await asyncio.sleep(0.1)

        async def read() -> None:
            async with call.async_client.stream("GET", "http://a/") as response:
                async for _ in response.aiter_raw():
                    pass

        busy = asyncio.create_task(read())
        with pytest.raises(httpx.ReadTimeout):
            await asyncio.wait_for(silent, PATIENCE)
        assert not busy.done()
        busy.cancel()
        await asyncio.wait([busy])

    call.run(run)


def test_the_routes_timeout_ends_an_upload_that_the_peer_does_not_read(
    make_mesh: MakeMesh, stack: ExitStack, make_caller: MakeCaller
) -> None:
    over = threading.Event()
    stack.callback(over.set)

    def script(connection: socket.socket, number: int) -> None:
        peer = Http2Peer(connection, initial_window_size=128 << 20)
        peer.h2.increment_flow_control_window(128 << 20)
        peer.flush()
        peer.request()
        over.wait(PATIENCE)

    server = stack.enter_context(ScriptedServer(script))
    route = "[{timeout: 0.5s, route: [{destination: {host: a}}]}]"
    call = make_caller(make_mesh(http2_service("a", server.port) + virtual_service("a", route)))
    response = call("POST", "http://a/", content=b"x" * (64 << 20), timeout=PATIENCE)
    assert (response.status_code, response.extensions["mesh"].flag) == (504, "UT")


def test_an_upload_that_was_answered_early_is_reset_so_that_the_peer_can_forget_it(
    make_mesh: MakeMesh, stack: ExitStack, make_caller: MakeCaller
) -> None:
    resets: list[int] = []

    def script(connection: socket.socket, number: int) -> None:
        peer = Http2Peer(connection)
        stream = peer.request()
        peer.answer(stream, b"enough")
        resets.append(peer.wait_for(h2.events.StreamReset).stream_id or 0)
        peer.serve()

    server = stack.enter_context(ScriptedServer(script))
    call = make_caller(make_mesh(http2_service("a", server.port)))
    assert call("POST", "http://a/", content=call.body(b"x", 0.1, b"x" * 200_000)).text == "enough"
    assert call.get("http://a/").text == "own"
    assert (resets, server.accepted) == ([1], 1)


def test_requests_that_join_a_connection_that_fails_hear_why(
    make_mesh: MakeMesh, stack: ExitStack, async_caller: MakeCaller
) -> None:
    [port] = free_ports(1)
    call = async_caller(make_mesh(http2_service("a", port)))
    outcomes = call.many(50, "GET", "http://a/")
    assert {type(one) for one in outcomes} == {httpx.ConnectError}
    assert all(str(port) in str(one) for one in outcomes)
    assert call.pool_size == 0


def test_a_request_that_waits_for_another_ones_connection_survives_its_cancelling(
    make_mesh: MakeMesh, stack: ExitStack, async_caller: MakeCaller
) -> None:
    server = stack.enter_context(ScriptedServer(lambda connection, number: Http2Peer(connection).serve()))
    call = async_caller(make_mesh(http2_service("a", server.port)))

    async def run() -> None:
        for turns in range(12):
            async with call.async_client.stream("GET", "http://a/"):
                pass
            [pool] = call._pools()
            pool.close()
            pool._closed = False
            first, second = (asyncio.create_task(call.async_client.get("http://a/")) for _ in range(2))
            for _ in range(turns):
                await asyncio.sleep(0)
            first.cancel()
            assert (await second).text == "own"
            await asyncio.wait([first])

    call.run(run)


def test_when_all_streams_are_taken_a_request_waits_for_one_as_long_as_for_a_connection(
    tmp_path: Path, stack: ExitStack, async_caller: MakeCaller
) -> None:
    go_on = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        peer = Http2Peer(connection, max_concurrent_streams=2)
        first, second = peer.request(), peer.request()
        go_on.wait(PATIENCE)
        peer.answer(first)
        peer.answer(peer.request(), b"own")
        peer.answer(second)
        peer.serve()

    server = stack.enter_context(ScriptedServer(script))
    options = {
        "@type": f"{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    fields = {
        "circuit_breakers": {"thresholds": [{"max_connections": 1}]},
        "typed_extension_protocol_options": {
            f"{TYPE.rpartition('/')[2]}.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
    }
    mesh = stack.enter_context(routed(tmp_path / "mesh", server.port, {}, **fields))
    call = async_caller(mesh)

    async def run() -> None:
        get = call.async_client.get
        busy = [asyncio.create_task(get("http://subject.test/")) for _ in range(2)]
        while requests_under_way(mesh) < 2 or not call.pool_size:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        third = asyncio.create_task(get("http://subject.test/"))
        await asyncio.sleep(0.05)
        go_on.set()
        # One stream ends, and the connection is busy with the other still: the third goes on it.
        assert (await third).text == "own"
        await asyncio.gather(*busy)
        assert server.accepted == 1

    call.run(run)


@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
def test_a_client_that_another_thread_closes_reads_nothing_that_is_still_encrypted(
    stack: ExitStack, tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext], http2: bool
) -> None:
    """What ssl does not decrypt any longer must not be taken for a body."""
    trusted, own = tls_contexts
    own.set_alpn_protocols(["h2" if http2 else "http/1.1"])

    def script(connection: socket.socket, number: int) -> None:
        if http2:
            peer = Http2Peer(connection)
            stream = peer.request()
            peer.h2.send_headers(stream, [(":status", "200")])
            while True:
                while (room := peer.h2.local_flow_control_window(stream)) < 16_384:
                    peer.read()
                peer.h2.send_data(stream, b"A" * min(room, 16_384))
                peer.flush()
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n")
        while True:
            connection.sendall(b"A" * 65_536)

    server = stack.enter_context(ScriptedServer(script, own))
    mesh = stack.enter_context(meshsdk.Mesh(config=stack.enter_context(_empty_folder())))
    for _ in range(100):
        wrong, errors, begun = bytearray(), list[BaseException](), threading.Event()
        client = mesh.client(verify=trusted, http2=http2, timeout=PATIENCE)

        def read(client: httpx.Client, wrong: bytearray, errors: list[BaseException], begun: threading.Event) -> None:
            try:
                with client.stream("GET", server.url) as response:
                    for chunk in response.iter_raw():
                        begun.set()
                        wrong += chunk.strip(b"A")
            except BaseException as raised:  # noqa: BLE001
                errors.append(raised)

        reader = threading.Thread(target=read, args=(client, wrong, errors, begun))
        reader.start()
        assert begun.wait(PATIENCE)
        client.close()
        reader.join(PATIENCE)
        assert (bytes(wrong), [isinstance(error, httpx.TransportError) for error in errors]) == (b"", [True]), errors


def test_a_connection_whose_end_comes_with_its_handshakes_end_takes_no_place(
    stack: ExitStack, tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext], async_caller: MakeCaller
) -> None:
    trusted, _ = tls_contexts
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.maximum_version = ssl.TLSVersion.TLSv1_2  # The server speaks last.
    own.set_ciphers("ALL:@SECLEVEL=0")
    authority = trustme.CA()
    authority.configure_trust(trusted)
    authority.issue_cert("127.0.0.1").configure_cert(own)

    def script(connection: socket.socket, number: int) -> None:
        received, ready = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = own.wrap_bio(received, ready, server_side=True)
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(ready.read())
                received.write(connection.recv(65_536))
        with contextlib.suppress(ssl.SSLError):
            session.unwrap()
        connection.sendall(ready.read())

    server = stack.enter_context(ScriptedServer(script))
    mesh = stack.enter_context(meshsdk.Mesh(config=stack.enter_context(_empty_folder())))
    call = async_caller(mesh, verify=trusted)
    url = server.url.replace("http:", "https:")
    for _ in range(5):
        with pytest.raises(httpx.TransportError):
            call.get(url)
    assert call.pool_size == 0
    assert [list(pool._counts.values()) for pool in call._pools()] in ([[]], [[0]])


@pytest.mark.parametrize("protocol", ["http", "http2"])
def test_of_endpoints_that_are_gone_nothing_is_kept(
    tmp_path: Path, make_mesh: MakeMesh, stack: ExitStack, make_caller: MakeCaller, protocol: str
) -> None:
    def endpoints_kept() -> set[Any]:
        return {
            key[0]
            for pool in call._pools()
            for table in (getattr(pool, name, ()) for name in ("_idle", "_shared", "_unshared", "_counts", "_openings"))
            for key in table
        }

    def script(connection: socket.socket, number: int) -> None:
        """Answers once, and closes: no connection is left that could remember its endpoint."""
        if protocol == "http2":
            peer = Http2Peer(connection)
            peer.answer(peer.request())
        else:
            read_head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nown")

    def ask() -> None:
        with contextlib.suppress(httpx.TransportError):  # It met the peer's closing.
            call.get("http://a/")

    make = http2_service if protocol == "http2" else service
    servers = [stack.enter_context(ScriptedServer(script)) for _ in range(3)]
    call = make_caller(make_mesh(make("a", servers[0].port)))
    for server in servers:
        (tmp_path / "mesh" / "mesh.yaml").write_text(make("a", server.port))
        deadline = time.monotonic() + PATIENCE
        while not server.accepted and time.monotonic() < deadline:
            ask()
        assert server.accepted
    deadline = time.monotonic() + PATIENCE
    while len(endpoints_kept()) > 1 and time.monotonic() < deadline:
        ask()
    assert len(endpoints_kept()) <= 1
