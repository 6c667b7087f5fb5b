"""Peers that say nothing, too little or too much: nobody else is locked out, and nothing grows."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest

from ..certificates import SpiffeCa
from ..conftest import service
from ..patience import PATIENCE
from .running import identity, mesh_of, one_port, peer_authentication, serving
from .test_serve import who_asks

pytestmark = pytest.mark.usefixtures("each_loop")

# Short enough to be waited for, long enough for a busy machine to say what it means to say.
SOON = {"request_headers_timeout": 1.0, "stream_idle_timeout": 1.0, "transport_socket_connect_timeout": 1.0}


def echo_app() -> flask.Flask:
    app = flask.Flask("echo")

    @app.route("/", methods=["GET", "POST"])
    def echo() -> str:
        return f"{len(flask.request.get_data())} bytes"

    @app.get("/long")
    def long() -> flask.Response:
        return flask.Response(b"z" * 65536 for _ in range(1000))

    return app


@contextlib.contextmanager
def served(folder: Path, app: Any, **options: Any) -> Iterator[int]:
    port = one_port()
    with mesh_of(folder, service("web", port)) as mesh, serving(app, mesh, port, **options):
        yield port


def memory_kib(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def begin_peak() -> int:
    """Forget the most memory that this process ever had, and return what it has: KiB. See proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_kib("VmRSS")


def peak() -> int:
    """The most since then."""
    return memory_kib("VmHWM")


def connected(port: int, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.sendall(said)
    return connection


def until_closed(connection: socket.socket) -> bytes:
    """What a server says before it closes a connection; fails where it does not close it."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def get(port: int, path: str = "/") -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", headers={"host": "web"}, timeout=PATIENCE)


HEAD = b"GET / HTTP/1.1\r\nhost: web\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 100\r\n\r\n"


@pytest.mark.parametrize("said", [b"", b"G", b"\r\n", HEAD, HEAD + b"x-y: z\r\n"], ids=str)
def test_a_head_that_does_not_come_is_not_waited_for(tmp_path: Path, said: bytes) -> None:
    with served(tmp_path, who_asks, **SOON) as port, connected(port, said) as connection:
        answer = until_closed(connection)
    assert answer == b"" or b"HTTP/1.1 408" in answer


def test_the_next_head_is_not_waited_for_either(tmp_path: Path) -> None:
    with served(tmp_path, who_asks, **SOON, timeout_keep_alive=1000) as port:
        with connected(port, HEAD + b"\r\nG") as connection:
            answers = until_closed(connection)
            assert answers.startswith(b"HTTP/1.1 200")
            assert b"HTTP/1.1 408" in answers
        with connected(port, HEAD + b"\r\n") as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            connection.sendall(b"G")
            assert b"HTTP/1.1 408" in until_closed(connection)


def test_a_head_that_drips_has_no_more_time_than_one_that_stands_still(tmp_path: Path) -> None:
    answer: bytes | None = None
    with served(tmp_path, who_asks, **SOON) as port, connected(port, HEAD) as connection:
        began = time.monotonic()
        connection.settimeout(0.2)
        while answer is None and time.monotonic() - began < PATIENCE:
            try:
                connection.sendall(b"x: y\r\n")
                answer = connection.recv(1000)
            except TimeoutError:
                continue
            except ConnectionError:
                answer = b""  # The answer was overtaken by the reset that came of a line behind it.
    assert answer is not None, "the head is waited for still"
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


def test_a_peer_that_is_silent_after_its_handshake_is_dropped(tmp_path: Path) -> None:
    port, ca = one_port(), SpiffeCa()
    yaml = service("web", port) + peer_authentication("STRICT")
    files = identity(tmp_path, ca, "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    folder = next(path for path in tmp_path.iterdir() if path.name.startswith("client"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    assert files is not None
    with (
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "web")) as mesh,
        serving(who_asks, mesh, port, **SOON),
        context.wrap_socket(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection,
    ):
        assert connection.recv(1000) == b""


@pytest.mark.parametrize("said", [UPLOAD, UPLOAD + b"x" * 99], ids=["nothing", "not all"])
@pytest.mark.parametrize("kind", ["ASGI", "WSGI"])
def test_a_body_that_stands_still_is_not_waited_for(tmp_path: Path, kind: str, said: bytes) -> None:
    async def reads(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        while (await receive()).get("more_body"):
            pass

    app = reads if kind == "ASGI" else echo_app()
    with served(tmp_path, app, **SOON) as port, connected(port, said) as connection:
        assert until_closed(connection).startswith(b"HTTP/1.1 408")


def test_an_application_that_takes_its_time_over_a_body_is_waited_for(tmp_path: Path) -> None:
    goes_on = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, goes_on.wait, PATIENCE)
        length, more = 0, True
        while more:
            message = await receive()
            length, more = length + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % length})

    with served(tmp_path, app, **SOON) as port:
        threading.Timer(2.5, goes_on.set).start()
        answer = httpx.post(f"http://127.0.0.1:{port}/", content=b"x" * (1 << 20), headers={"host": "web"}, timeout=60)
    assert answer.text == str(1 << 20)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (HEAD + b"x: y\r\n" * 200_000, b"431"),
        (HEAD + b"x: " + b"y" * (16 << 20), b"431"),
        (b"GET /" + b"y" * (16 << 20), b"431"),
        (b"\r\n" * (4 << 20), b"431"),
        (b"POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"y" * (4 << 20), b"431"),
        (b"POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 200_000, b"431"),
    ],
    ids=["small headers", "one header", "the target", "line ends", "a chunk extension", "trailers"],
)
def test_what_is_too_long_is_refused_while_it_comes(tmp_path: Path, said: bytes, status: bytes) -> None:
    async def reads(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        while (await receive()).get("more_body"):
            pass

    with served(tmp_path, reads) as port:
        before = begin_peak()
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(said)
            answer = until_closed(connection)
        grown_kib = peak() - before
    assert answer == b"" or answer.split(b" ")[1] == status  # A reset may overtake the answer.
    assert grown_kib < 32 << 10


@pytest.mark.parametrize("reads", [True, False], ids=["and takes the answers", "and takes nothing"])
def test_a_peer_that_asks_without_end_and_waits_for_no_answer_fills_no_memory(tmp_path: Path, reads: bool) -> None:
    asked = HEAD + b"\r\n"
    with served(tmp_path, who_asks, timeout_keep_alive=60) as port, connected(port) as connection:
        before = begin_peak()
        # Waiting for an answer takes the time that it takes; a send that does not get through is given up.
        answers = connection.dup()
        answers.settimeout(PATIENCE)
        taking = threading.Thread(target=until_closed, args=[answers])
        if reads:
            taking.start()
        began = time.monotonic()
        with connection.dup() as sending:  # So that answers are waited for longer than room for requests.
            sending.settimeout(0.1)
            while time.monotonic() - began < 2:
                with contextlib.suppress(OSError):
                    sending.send(asked * 10_000)
        assert get(port).status_code == 200
        grown_kib = peak() - before
        connection.shutdown(socket.SHUT_RDWR)
        if reads:
            taking.join(PATIENCE)
        answers.close()
    assert grown_kib < 48 << 10


def test_an_application_that_asks_whether_its_peer_is_gone_takes_no_more_than_others(tmp_path: Path) -> None:
    """What waits behind its request is read when that is answered, however often the application asks."""
    over = threading.Event()

    async def asks_again_and_again(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not over.is_set():
            # As Starlette's Request.is_disconnected does.
            asked = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
            await asyncio.sleep(0.001)

    with served(tmp_path, asks_again_and_again, timeout_keep_alive=60) as port, connected(port) as connection:
        connection.settimeout(0.1)
        began, sent = time.monotonic(), 0
        while time.monotonic() - began < 3:
            with contextlib.suppress(OSError):
                sent += connection.send((HEAD + b"\r\n") * 10_000)
        over.set()
        # The server may have ended it by now: the application has left its answer as it is.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    assert sent < 24 << 20  # What the system holds for both sides.


def test_an_answer_that_is_taken_slowly_is_not_broken_off(tmp_path: Path) -> None:
    length = 30 << 20

    async def much(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        headers = [(b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"z" * length})

    timeouts = {**SOON, "stream_idle_timeout": 2.0}
    with (
        served(tmp_path, much, **timeouts) as port,
        connected(port, HEAD + b"connection: close\r\n\r\n") as connection,
    ):
        taken = 0
        while chunk := connection.recv(256 << 10):
            taken += len(chunk)
            time.sleep(0.03)
    assert taken > length


def test_whoever_is_being_answered_makes_no_room_for_others(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        begun.set()
        await asyncio.to_thread(go_on.wait, PATIENCE)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    # An upgrade that nobody here knows is a request like others.
    for asked in (HEAD, HEAD + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n"):
        begun.clear()
        go_on.clear()
        port = one_port()
        folder = tmp_path / str(len(asked))
        folder.mkdir()
        with (
            mesh_of(folder, service("web", port)) as mesh,
            serving(waits, mesh, port) as server,
            connected(port, asked + b"\r\n") as connection,
        ):
            assert begun.wait(PATIENCE)
            assert server._door is not None
            server._door.crowd.make_room(100)
            go_on.set()
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("piece", [1, 1000, 70_000, 1 << 30])
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_requests_that_wait_for_no_answers_are_answered_in_order(tmp_path: Path, kind: str, piece: int) -> None:
    count = 4 if piece == 1 else 60
    asked, wanted = b"", []
    for length in range(0, count * 500, 500):
        asked += b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: %d\r\n\r\n" % length + b"z" * length + HEAD + b"\r\n"
        chunk = b"%x\r\n%s\r\n" % (length + 1, b"z" * (length + 1))
        asked += b"POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
        wanted += [length, 0, length + 1]
    asked += HEAD + b"connection: close\r\n\r\n"
    app: Any = echo_app() if kind == "wsgi" else count_body
    with served(tmp_path, app) as port, connected(port) as connection:
        pieces = [asked[start : start + piece] for start in range(0, len(asked), piece)]
        sending = threading.Thread(target=lambda: [connection.sendall(one) for one in pieces])
        sending.start()
        answers = until_closed(connection)
        sending.join(PATIENCE)
    assert [int(one) for one in re.findall(rb"(\d+) bytes", answers)] == [*wanted, 0]


async def count_body(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return await who_asks(scope, receive, send)
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d bytes" % length
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def test_a_websocket_handshake_with_a_body_is_refused_at_once(tmp_path: Path) -> None:
    handshake = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: "
    said = HEAD + handshake + b"YWFhYWFhYWFhYWFhYWFhYQ==\r\ncontent-length: 5\r\n\r\n"
    with served(tmp_path, who_asks) as port, connected(port, said) as connection:
        assert until_closed(connection).startswith(b"HTTP/1.1 501")


UPGRADE = (
    HEAD + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: YWFhYWFhYWFhYWFhYWFhYQ==\r\n\r\n"
)


def test_a_websocket_does_not_begin_while_a_request_before_it_is_answered(tmp_path: Path) -> None:
    """Both would write to one connection, and nobody would hold the answer back for a peer that does not read."""
    asked = threading.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        assert scope["type"] == "http"
        asked.set()
        await asyncio.sleep(0.2)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"one"})

    with served(tmp_path, slow) as port, connected(port, HEAD + b"\r\n" + UPGRADE) as connection:
        answer = until_closed(connection)
    assert asked.is_set()
    assert (answer.count(b"HTTP/1.1"), answer.endswith(b"\r\n\r\none")) == (1, True)


@pytest.mark.parametrize("behind", [b"", HEAD + b"\r\n", (HEAD + b"\r\n") * 1000], ids=["nothing", "one", "many"])
def test_an_application_that_waits_for_its_peer_to_go_hears_of_it(tmp_path: Path, behind: bytes) -> None:
    """Also where requests wait behind that one: else the connection, and its descriptor, would be held for ever."""
    begun, gone = threading.Event(), threading.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await who_asks(scope, receive, send)
        await receive()
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    with served(tmp_path, waits) as port:
        with connected(port, HEAD + b"\r\n" + behind):
            assert begun.wait(PATIENCE)
        assert gone.wait(PATIENCE)


def test_unfinished_bodies_hold_no_thread_of_a_wsgi_application(tmp_path: Path) -> None:
    with served(tmp_path, echo_app()) as port, contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(connected(port, UPLOAD + b"x"))
        assert get(port).text == "0 bytes"


def test_answers_that_nobody_takes_hold_their_threads_for_a_while_only(tmp_path: Path) -> None:
    with served(tmp_path, echo_app(), **SOON) as port, contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(connected(port, b"GET /long HTTP/1.1\r\nhost: web\r\n\r\n"))
        assert get(port).text == "0 bytes"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [0, 1, 100_000, 3 << 20])
def test_bodies_of_wsgi_applications_arrive_whole(tmp_path: Path, length: int, chunked: bool) -> None:
    content: Any = iter([b"x" * length]) if chunked else b"x" * length
    with served(tmp_path, echo_app()) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/", content=content, headers={"host": "web"}, timeout=PATIENCE)
    assert answer.text == f"{length} bytes"


def test_a_body_that_is_too_long_for_a_wsgi_application_is_refused(tmp_path: Path) -> None:
    with served(tmp_path, echo_app(), max_request_bytes=1000) as port:
        post = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"host": "web"}, timeout=PATIENCE)
        with post:
            assert post.post("/", content=b"x" * 1000).text == "1000 bytes"
            assert post.post("/", content=b"x" * 1001).status_code == 413
