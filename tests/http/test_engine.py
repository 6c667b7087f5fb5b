"""The engine over real sockets, sync and async alike: each test runs as both, and on each event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import trio

import meshsdk
from tests.chance import spread
from tests.conftest import MakeMesh, destination_rule, service, virtual_service
from tests.loops import LOOPS
from tests.servers import EchoServer, ScriptedServer, read_head

from ..patience import PATIENCE
from ..processes import free_ports
from .callers import Caller

EMPTY = "apiVersion: v1\nkind: Service\nmetadata: {name: none}\nspec: {ports: [{port: 80}]}\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(params=["sync", *LOOPS])
def make_caller(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    callers: list[Caller] = []

    def make(mesh: meshsdk.Mesh, **options: Any) -> Caller:
        callers.append(Caller(mesh, request.param, **options))
        return callers[-1]

    yield make
    for caller in callers:
        caller.close()


@pytest.fixture
def call(make_mesh: MakeMesh, make_caller: Callable[..., Caller]) -> Caller:
    """A caller for hosts outside the mesh: the engine alone."""
    return make_caller(make_mesh(EMPTY))


MakeCaller = Callable[..., Caller]
Echo = Callable[..., EchoServer]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_every_method_goes_through(call: Caller, echo: Echo, method: str) -> None:
    server = echo("a")
    response = call(method, f"http://127.0.0.1:{server.port}/p?q=1", headers={"x-a": "b"})
    assert response.status_code == 200
    assert server.seen[0]["method"] == method
    assert server.seen[0]["path"] == "/p?q=1"
    assert server.seen[0]["headers"]["x-a"] == "b"
    assert bool(response.content) is (method != "HEAD")


def test_requests_reuse_one_connection(call: Caller, echo: Echo) -> None:
    server = echo()
    for method in ("GET", "HEAD", "POST", "GET"):
        call(method, f"http://127.0.0.1:{server.port}/")
    assert server.connections == 1
    assert call.pool_size == 1


def test_bodies_in_memory_and_streamed_arrive_whole(call: Caller, echo: Echo) -> None:
    url = f"http://127.0.0.1:{echo().port}/"
    assert call("POST", url, content=b"x" * 300_000).json()["body"] == "x" * 300_000
    assert call("POST", url, content=call.body(b"a" * 70_000, b"", b"b")).json()["body"] == "a" * 70_000 + "b"
    length = {"content-length": "3"}
    assert call("POST", url, content=call.body(b"ab", b"c"), headers=length).json()["body"] == "abc"


@pytest.mark.parametrize("length", ["2", "4"])
def test_a_streamed_body_that_is_not_as_long_as_announced_is_the_callers_error(
    call: Caller, echo: Echo, length: str
) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        call(
            "POST",
            f"http://127.0.0.1:{echo().port}/",
            content=call.body(b"ab", b"c"),
            headers={"content-length": length},
        )
    assert call.pool_size == 0


def test_expect_100_waits_for_the_go_ahead(call: Caller) -> None:
    said: list[bytes] = []

    def script(connection: socket.socket, number: int) -> None:
        said.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        said.append(connection.recv(100))
        connection.sendall(OK)

    with ScriptedServer(script) as server:
        assert call("POST", server.url, content=b"body", headers={"expect": "100-continue"}).text == "ok"
    assert said[0].endswith(b"\r\n\r\n")
    assert said[1] == b"body"


def test_an_answer_before_the_body_was_sent_is_the_answer(call: Caller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    with ScriptedServer(script) as server:
        assert call("POST", server.url, content=b"", headers={"expect": "100-continue"}).status_code == 413


def test_chunked_responses_with_trailers(call: Caller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n")
        read_head(connection)

    with ScriptedServer(script) as server:
        response = call.get(server.url)
    assert response.text == "abc"
    assert response.extensions["trailing_headers"] == [(b"x-sum", b"1")]


def test_a_body_that_ends_with_the_connection(call: Caller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nall ")
        time.sleep(0.05)
        connection.sendall(b"of it")

    with ScriptedServer(script) as server:
        assert call.get(server.url).text == "all of it"
    assert call.pool_size == 0


def test_connection_close_is_obeyed(call: Caller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    with ScriptedServer(script) as server:
        call.get(server.url)
        call.get(server.url)
        assert server.accepted == 2


def test_a_stale_connection_is_replaced_once_without_the_caller_noticing(call: Caller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(OK)
        if number == 0:
            read_head(connection)  # Takes the second request, and goes away without a word.
        else:
            read_head(connection)

    with ScriptedServer(script) as server:
        assert call.get(server.url).text == "ok"
        assert call.get(server.url).text == "ok"
        assert server.accepted == 2


def test_a_connection_that_replaces_a_stale_one_is_not_replaced_again(call: Caller) -> None:
    seen: list[int] = []

    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        seen.append(number)
        if number == 0:
            connection.sendall(OK)
            read_head(connection)
            seen.append(number)

    with ScriptedServer(script) as server:
        assert call.get(server.url).text == "ok"
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            call.get(server.url)
        assert seen == [0, 0, 1]


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_a_request_that_something_came_for_is_not_sent_again(call: Caller, said: bytes) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(OK)
        read_head(connection)
        connection.sendall(said)

    with ScriptedServer(script) as server:
        assert call.get(server.url).text == "ok"
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            call.get(server.url)
        assert server.accepted == 1


def test_what_is_sent_again_counts_as_an_attempt_and_leaves_no_count_behind(
    make_mesh: MakeMesh, make_caller: MakeCaller
) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(OK)
        read_head(connection)

    with ScriptedServer(script) as server:
        mesh = make_mesh(service("a", server.port))
        call = make_caller(mesh)
        call.get("http://a/")
        response = call.get("http://a/")
        assert response.text == "ok"
        assert response.extensions["mesh"].attempts == 2
        [cluster] = mesh._runtime.directory.clusters.values()
        [(_, endpoint)] = cluster
        assert (cluster.breaker.retries, cluster.breaker.requests, endpoint.active_requests) == (0, 0, 0)


def test_a_post_is_never_sent_twice_on_its_own(call: Caller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(OK)
        read_head(connection)

    with ScriptedServer(script) as server:
        call("POST", server.url)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            call("POST", server.url)
        assert server.accepted == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"garbage\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", httpx.RemoteProtocolError),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 400_000, httpx.RemoteProtocolError),
    ],
)
def test_malformed_responses_are_protocol_errors(call: Caller, reply: bytes, error: type[Exception]) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(reply)

    with ScriptedServer(script) as server:
        with pytest.raises(error):
            call.get(server.url)
        assert call.pool_size == 0


def test_a_reset_connection_is_a_read_error(call: Caller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    with ScriptedServer(script) as server, pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        call.get(server.url)


def test_read_timeouts_count_from_the_last_byte(call: Caller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        for _ in range(8):
            time.sleep(0.1)
            sent.append(time.monotonic())
            connection.sendall(b"x")
        connection.recv(1)

    sent: list[float] = []
    read: list[bytes] = []
    with ScriptedServer(script) as server:
        with pytest.raises(httpx.ReadTimeout):
            call.stream_into(read, server.url, timeout=httpx.Timeout(PATIENCE, read=0.5))
        # A server on a busy machine may itself be too late for one of the bytes.
        assert time.monotonic() - sent[len(b"".join(read)) - 1] > 0.49
        assert len(read) > 1
        assert call.pool_size == 0


def test_a_refused_connection_names_the_endpoint(call: Caller) -> None:
    [port] = free_ports(1)
    with pytest.raises(httpx.ConnectError, match=str(port)):
        call.get(f"http://127.0.0.1:{port}/")


def test_a_host_that_does_not_resolve_is_a_connect_error(call: Caller) -> None:
    with pytest.raises(httpx.ConnectError, match="looking up no-such-host"):
        call.get("http://no-such-host.invalid/")


def test_a_response_that_is_left_half_read_costs_its_connection_and_nothing_else(call: Caller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n" + b"x" * 1000)
        connection.recv(1)

    with ScriptedServer(script) as server:
        assert call.stream_partly(server.url)
        assert call.pool_size == 0


def test_a_slow_reader_holds_a_fast_peer_back(call: Caller) -> None:
    sent = 0
    done = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        nonlocal sent
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 400000000\r\n\r\n")
        connection.settimeout(0.5)
        try:
            while sent < 400_000_000:
                sent += connection.send(b"x" * 65536)
        except TimeoutError:
            done.set()

    with ScriptedServer(script) as server:
        if call.is_async:

            async def run() -> None:
                assert call._async is not None
                async with call._async.stream("GET", server.url) as response:
                    chunks = response.aiter_raw()
                    await anext(chunks)
                    await asyncio.get_running_loop().run_in_executor(None, done.wait, PATIENCE)

            assert call._runner is not None
            call._runner.run(run())
        else:
            assert call._sync is not None
            with call._sync.stream("GET", server.url) as response:
                chunks = response.iter_raw()
                next(chunks)
                done.wait(PATIENCE)
        assert done.is_set()
        assert sent < 50_000_000


def test_the_pool_timeout_is_for_a_connection_to_become_free(make_mesh: MakeMesh, make_caller: MakeCaller) -> None:
    call = make_caller(make_mesh(EMPTY), limits=httpx.Limits(max_connections=1))

    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        one_gave_up.wait(PATIENCE)
        connection.sendall(OK)

    one_gave_up = threading.Event()
    results: list[Exception | httpx.Response] = []

    def take(result: Exception | httpx.Response) -> None:
        results.append(result)
        one_gave_up.set()

    with ScriptedServer(script) as server:
        options = {"timeout": httpx.Timeout(PATIENCE, pool=0.2)}
        if call.is_async:

            async def send_async() -> None:
                try:
                    take(await call.async_client.get(server.url, **options))
                except httpx.HTTPError as error:
                    take(error)

            async def run() -> None:
                await asyncio.gather(send_async(), send_async())

            call.run(run)
        else:

            def send() -> None:
                try:
                    take(call.get(server.url, **options))
                except httpx.HTTPError as error:
                    take(error)

            threads = [threading.Thread(target=send) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(type(result).__name__ for result in results) == ["PoolTimeout", "Response"]
        assert server.accepted == 1


def test_cancelling_a_request_leaves_the_pool_sound(make_mesh: MakeMesh, echo: Echo) -> None:
    mesh = make_mesh(EMPTY)
    server = echo()

    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        connection.recv(1)

    async def run(slow: str) -> None:
        async with mesh.async_client() as client:
            pool_size = lambda: sum(len(p._slots) for p in client._transport._pools.values())  # noqa: E731
            # Cancelled at every await there is: before connecting, while connecting, while reading.
            for turns in range(8):
                task = asyncio.create_task(client.get(slow))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            task = asyncio.create_task(client.get(slow))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pool_size() == 0
            assert (await client.get(f"http://127.0.0.1:{server.port}/")).status_code == 200
            assert pool_size() == 1

    with ScriptedServer(script) as slow:
        asyncio.run(run(slow.url))


def test_one_client_serves_several_event_loops_one_after_the_other(make_mesh: MakeMesh, echo: Echo) -> None:
    client = make_mesh(EMPTY).async_client()
    url = f"http://127.0.0.1:{echo().port}/"
    for _ in range(3):
        assert asyncio.run(client.get(url)).status_code == 200


def test_threads_share_a_client(make_mesh: MakeMesh, echo: Echo) -> None:
    ports = [echo().port, echo().port]
    mesh = make_mesh(service("a", *ports))
    failures: list[Exception] = []
    with mesh.client() as client:

        def work() -> None:
            try:
                for _ in range(50):
                    client.get("http://a/").raise_for_status()
            except Exception as error:  # noqa: BLE001
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert all(entry["active_requests"] == 0 for entries in mesh.status()["clusters"].values() for entry in entries)


def test_trio_users_are_told_what_to_do(make_mesh: MakeMesh) -> None:
    client = make_mesh(EMPTY).async_client()
    with pytest.raises(RuntimeError, match=r"mesh\.client"):
        trio.run(client.get, "http://127.0.0.1:1/")


def test_closing_the_client_ends_every_request_in_a_result_or_an_httpx_error(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(EMPTY)

    def script(connection: socket.socket, number: int) -> None:
        while read_head(connection):
            time.sleep(0.3)
            connection.sendall(OK)

    with ScriptedServer(script) as server:
        client = mesh.client()
        results: list[str] = []

        def work() -> None:
            try:
                results.append(str(client.get(server.url).status_code))
            except httpx.HTTPError as error:
                results.append(type(error).__name__)

        threads = [threading.Thread(target=work) for _ in range(10)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        client.close()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(results) == 10


# What the mesh decides, carried out.


def test_a_wrong_method_on_every_route_is_404_with_the_flag(make_mesh: MakeMesh, make_caller: MakeCaller) -> None:
    mesh = make_mesh(
        service("a", 1) + virtual_service("a", "[{match: [{method: {exact: PUT}}], route: [{destination: {host: a}}]}]")
    )
    response = make_caller(mesh).get("http://a/")
    assert response.status_code == 404
    assert response.extensions["mesh"].flag == "NR"


def test_no_endpoint_is_503_with_envoys_body(make_mesh: MakeMesh, make_caller: MakeCaller) -> None:
    response = make_caller(make_mesh(service("a"))).get("http://a/")
    assert (response.status_code, response.text) == (503, "no healthy upstream")
    assert response.extensions["mesh"].flag == "UH"


def test_local_replies_are_raised_where_asked_for(make_mesh: MakeMesh, make_caller: MakeCaller) -> None:
    call = make_caller(make_mesh(service("a"), local_replies="raise"))
    with pytest.raises(meshsdk.NoHealthyEndpointError) as caught:
        call.get("http://a/")
    assert isinstance(caught.value, httpx.ConnectError)


def test_unknown_hosts_are_denied_where_asked_for(make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo) -> None:
    call = make_caller(make_mesh(EMPTY, unknown_hosts="deny"))
    with pytest.raises(meshsdk.NoRouteError) as caught:
        call.get(f"http://127.0.0.1:{echo().port}/")
    assert isinstance(caught.value, httpx.TransportError)


@pytest.mark.parametrize("host", ["a", "a.default", "a.default.svc", "a.default.svc.cluster.local", "A"])
def test_every_form_of_a_service_name_is_known(
    make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo, host: str
) -> None:
    server = echo("me")
    assert make_caller(make_mesh(service("a", server.port))).get(f"http://{host}/").json()["name"] == "me"


def test_rewrites_and_headers_reach_the_server(make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo) -> None:
    server = echo()
    route = (
        "[{match: [{uri: {prefix: /old}}], rewrite: {uri: /new, authority: other.example},"
        " headers: {request: {set: {x-set: '1', x-from: '%REQ(x-in)%'}, remove: [x-gone]},"
        " response: {add: {x-back: '2'}}},"
        " route: [{destination: {host: a}}]}]"
    )
    call = make_caller(make_mesh(service("a", server.port) + virtual_service("a", route)))
    response = call.get("http://a/old/x?y=1", headers={"x-in": "in", "x-gone": "g", "x-set": "0"})
    seen = response.json()
    assert seen["path"] == "/new/x?y=1"
    assert seen["headers"]["host"] == "other.example"
    assert seen["headers"]["x-set"] == "1"
    assert seen["headers"]["x-from"] == "in"
    assert "x-gone" not in seen["headers"]
    assert seen["headers"]["x-envoy-original-path"] == "/old/x?y=1"
    assert response.headers["x-back"] == "2"


def test_a_header_value_from_a_request_cannot_begin_a_new_line(
    make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo
) -> None:
    call = make_caller(make_mesh(service("a", echo().port)))
    with pytest.raises(httpx.LocalProtocolError):
        call.get("http://a/", headers={"x-a": "b\r\nx-evil: 1"})


def test_redirects_and_direct_responses_need_no_server(make_mesh: MakeMesh, make_caller: MakeCaller) -> None:
    routes = (
        "[{match: [{uri: {exact: /r}}], redirect: {uri: /to, redirectCode: 307}},"
        " {directResponse: {status: 418, body: {string: teapot}}}]"
    )
    call = make_caller(make_mesh(service("a") + virtual_service("a", routes)))
    redirected = call.get("http://a/r")
    assert (redirected.status_code, redirected.headers["location"]) == (307, "http://a/to")
    assert (call.get("http://a/").status_code, call.get("http://a/").text) == (418, "teapot")


def test_faults_delay_and_abort(make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo) -> None:
    routes = (
        "[{fault: {delay: {fixedDelay: 200ms, percentage: {value: 100}},"
        " abort: {httpStatus: 555, percentage: {value: 100}}}, route: [{destination: {host: a}}]}]"
    )
    call = make_caller(make_mesh(service("a", echo().port) + virtual_service("a", routes)))
    started = time.monotonic()
    response = call.get("http://a/")
    assert time.monotonic() - started >= 0.2
    assert (response.status_code, response.text) == (555, "fault filter abort")
    assert response.extensions["mesh"].flag == "FI"


def retrying(retries: str, timeout: str = "60s") -> str:
    return virtual_service(
        "a", f"[{{timeout: {timeout}, retries: {{{retries}}}, route: [{{destination: {{host: a}}}}]}}]"
    )


def test_a_retriable_status_is_tried_again_on_another_endpoint(
    make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo
) -> None:
    """Of three turns two are the bad one's, so that turns alone would lead to it twice."""
    bad, good = echo("bad"), echo("good")
    bad.status = 503
    weighed = service("a", bad.port, good.port).replace(f"{{http: {bad.port}}}", f"{{http: {bad.port}}}, weight: 2")
    turns = destination_rule("a", "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}")
    call = make_caller(make_mesh(weighed + turns + retrying("attempts: 3, retryOn: '503'")))
    for _ in range(20):
        assert call.get("http://a/").status_code == 200
    assert {one["headers"]["x-envoy-attempt-count"] for one in bad.seen} == {"1"}
    assert {one["headers"]["x-envoy-attempt-count"] for one in good.seen} <= {"1", "2"}


def test_when_retries_are_used_up_the_last_response_stands(
    make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo
) -> None:
    server = echo()
    server.status = 503
    call = make_caller(make_mesh(service("a", server.port) + retrying("attempts: 2, retryOn: 5xx")))
    response = call.get("http://a/")
    assert response.status_code == 503
    assert response.extensions["mesh"].attempts == 3
    assert [seen["headers"]["x-envoy-attempt-count"] for seen in server.seen] == ["1", "2", "3"]


def test_a_streamed_body_is_sent_again_as_far_as_it_was_recorded(
    make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo
) -> None:
    server = echo()
    server.statuses = [503, 200]
    call = make_caller(make_mesh(service("a", server.port) + retrying("attempts: 2, retryOn: 5xx")))
    assert call("POST", "http://a/", content=call.body(b"one", b"two")).json()["body"] == "onetwo"
    server.statuses = [503, 200]
    assert call("POST", "http://a/", content=call.body(b"x" * 600_000, b"y" * 600_000)).status_code == 503


def test_the_per_try_timeout_moves_on_and_the_route_timeout_ends(
    make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo
) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        if number == 0:
            connection.recv(1)
        connection.sendall(OK)

    with ScriptedServer(script) as server:
        # On a busy machine other tries than the first may take too long as well.
        rule = retrying("attempts: 20, perTryTimeout: 200ms, retryOn: 5xx")
        assert make_caller(make_mesh(service("a", server.port) + rule)).get("http://a/").text == "ok"


def test_the_route_timeout_is_504_with_envoys_body(make_mesh: MakeMesh, make_caller: MakeCaller) -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.recv(1)

    with ScriptedServer(script) as server:
        rule = retrying("attempts: 1, retryOn: 5xx", timeout="200ms")
        response = make_caller(make_mesh(service("a", server.port) + rule)).get("http://a/")
        assert (response.status_code, response.text) == (504, "upstream request timeout")
        assert response.extensions["mesh"].flag == "UT"


def test_weighted_subsets_share_as_configured(make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo) -> None:
    one, two = echo("v1"), echo("v2")
    yaml = (
        service("a", one.port, two.port, versions={one.port: "v1", two.port: "v2"})
        + destination_rule("a", "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]")
        + virtual_service(
            "a",
            "[{route: [{destination: {host: a, subset: v1}, weight: 75},"
            " {destination: {host: a, subset: v2}, weight: 25}]}]",
        )
    )
    call = make_caller(make_mesh(yaml))
    names = [call.get("http://a/").json()["name"] for _ in range(400)]
    assert abs(names.count("v1") - 300) <= spread(400, 0.75)


def test_an_edit_of_the_folder_takes_effect_and_a_wrong_one_does_not(
    make_mesh: MakeMesh, make_caller: MakeCaller, echo: Echo, tmp_path: Any
) -> None:
    one, two = echo("one"), echo("two")
    mesh = make_mesh(service("a", one.port))
    call = make_caller(mesh)
    assert call.get("http://a/").json()["name"] == "one"
    path = tmp_path / "mesh" / "mesh.yaml"
    path.write_text("kind: [")
    deadline = time.monotonic() + PATIENCE
    while not mesh.status()["problem"]:
        assert time.monotonic() < deadline
    assert call.get("http://a/").json()["name"] == "one"
    path.write_text(service("a", two.port))
    while call.get("http://a/").json()["name"] != "two":
        assert time.monotonic() < deadline
