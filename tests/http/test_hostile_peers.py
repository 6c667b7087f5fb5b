"""Peers that break the protocol, or keep it in ways that are easy to get wrong, against every kind of client.

Each misbehaviour is put to sync and async clients over plaintext and TLS, and says what is right. httpx's own clients
are asked the same things; where they are right, they are the judge. `pytest -s` prints the table.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.errors
import h2.events
import httpx
import pytest
import trustme

import meshsdk
from tests.conftest import service
from tests.loops import LOOPS
from tests.patience import PATIENCE
from tests.servers import ScriptedServer, read_head

from .callers import Caller
from .http2_peer import Http2Peer, frame


@dataclass
class Peer:
    """A misbehaving server, and what the two sides tell each other.

    Attributes:
        url: Where it is.
        seen: What it received, for scripts that say so.
        done: Set by scripts whose misbehaviour has happened.
    """

    url: str = ""
    is_tls: bool = False
    connections: int = 0
    seen: list[bytes] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def has_done(self, connection: socket.socket) -> None:
        """The misbehaviour has been sent; it has happened when the client's system has taken it."""
        if sys.platform == "linux":
            # Bytes that the other side has not acknowledged, and the end of a connection is one: tcp(7), SIOCOUTQ.
            until = time.monotonic() + PATIENCE
            while any(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))) and time.monotonic() < until:
                time.sleep(0.001)
        else:
            time.sleep(0.02)
        self.done.set()

    def wait(self) -> None:
        """Wait until the misbehaviour has reached the client's socket."""
        assert self.done.wait(PATIENCE)
        self.done.clear()


Script = Callable[[Peer, socket.socket, int], None]
Ask = Callable[[Caller, Peer], str]


@dataclass(frozen=True)
class Misbehaviour:
    """What a peer does, what is asked of it, and what comes of it.

    Attributes:
        right: The outcome.
        over_tls: The same over TLS, where it is another.
        judged: httpx is right, too; `sync` or `async` where only that one is.
    """

    name: str
    protocol: str
    script: Script
    ask: Ask
    right: str
    over_tls: str = ""
    judged: tuple[str, ...] = ("sync", "asyncio")

    def outcome(self, is_tls: bool) -> str:
        return (is_tls and self.over_tls) or self.right


def told(caller: Caller, method: str, url: str, **options: Any) -> str:
    """An outcome in a few words."""
    try:
        response = caller(method, url, **options)
    except Exception as error:  # noqa: BLE001 - it is the outcome.
        return type(error).__name__
    return f"{response.status_code} {response.text}".strip()


def answer(body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


def serve(connection: socket.socket) -> None:
    """Answer every request without a body, until the peer closes."""
    while read_head(connection):
        connection.sendall(answer(b"own"))


# HTTP/1.1


def answers_early_in_two_pieces(peer: Peer, connection: socket.socket, number: int) -> None:
    if number:
        serve(connection)
        return
    data = read_head(connection)
    connection.sendall(b"HTTP/1.1 413 No\r\ncontent-length: 4\r\n\r\nno")
    time.sleep(0.15)
    connection.sendall(b"pe")
    while b"0\r\n\r\n" not in data and b"GET " not in data:
        more = connection.recv(65536)
        if not more:
            return
        data += more
    if b"GET " in data:
        is_mixed_up = b"0\r\n\r\n" not in data.partition(b"GET ")[0]
        connection.sendall(answer(b"a request taken for a body" if is_mixed_up else b"own"))
    serve(connection)


def uploads_then_gets(caller: Caller, peer: Peer) -> str:
    body = caller.body(b"first", 0.1, b"second", 0.1, b"third")
    return f"{told(caller, 'POST', peer.url, content=body)}, {told(caller, 'GET', peer.url)}"


EVIL = answer(b"not asked for")


def answers_twice_at_once(peer: Peer, connection: socket.socket, number: int) -> None:
    if number:
        serve(connection)
        return
    read_head(connection)
    connection.sendall(answer(b"one") + EVIL)
    peer.has_done(connection)
    read_head(connection)


def answers_twice(peer: Peer, connection: socket.socket, number: int) -> None:
    if number:
        serve(connection)
        return
    read_head(connection)
    connection.sendall(answer(b"one"))
    time.sleep(0.001)
    connection.sendall(EVIL)
    peer.has_done(connection)
    read_head(connection)


def answers_head_with_a_body(later: bool) -> Script:
    def script(peer: Peer, connection: socket.socket, number: int) -> None:
        if number:
            serve(connection)
            return
        read_head(connection)
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(EVIL)
        if later:
            connection.sendall(head)
            time.sleep(0.001)
            connection.sendall(EVIL)
        else:
            connection.sendall(head + EVIL)
        peer.has_done(connection)
        read_head(connection)

    return script


def asks_twice(method: str) -> Ask:
    def ask(caller: Caller, peer: Peer) -> str:
        first = told(caller, method, peer.url)
        peer.wait()
        return f"{first}, {told(caller, 'GET', peer.url)}"

    return ask


def closes_after_each_answer(peer: Peer, connection: socket.socket, number: int) -> None:
    read_head(connection)
    connection.sendall(answer(b"ok"))
    connection.shutdown(socket.SHUT_RDWR)
    peer.has_done(connection)


def posts_twenty_times(caller: Caller, peer: Peer) -> str:
    outcomes = []
    for _ in range(20):
        outcomes.append(told(caller, "POST", peer.url))
        peer.wait()
    return f"{outcomes.count('200 ok')} of 20"


def takes_down_what_it_is_sent(peer: Peer, connection: socket.socket, number: int) -> None:
    while head := read_head(connection):
        peer.seen.append(head)
        connection.sendall(answer(b"ok"))


SMUGGLED = b"x" + b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"


def sends_wrong_lengths(caller: Caller, peer: Peer) -> str:
    outcomes = [
        told(caller, "POST", peer.url, content=SMUGGLED, headers={"content-length": "1"}),
        told(caller, "POST", peer.url, content=b"half", headers={"content-length": "8"}),
        told(caller, "GET", peer.url, headers={"content-length": "8"}),
        told(caller, "POST", peer.url, content=caller.body(SMUGGLED), headers={"content-length": "1"}),
        told(caller, "POST", peer.url, content=caller.body(b"half"), headers={"content-length": "8"}),
        told(caller, "POST", peer.url, content=b"x", headers={"content-length": "+1"}),
        told(caller, "POST", peer.url, content=b"x", headers=[("content-length", "1"), ("content-length", "9")]),
    ]
    assert not any(b"smuggled" in head.partition(b"\r\n")[0] for head in peer.seen)
    return f"{outcomes.count('LocalProtocolError')} of {len(outcomes)} refused"


NO_NAMES = [b"a b", b"x:", b"x ", b" x", b"", b"\x01", b"x\x7f", b"x\0", b"x\t", b":path", b"a\r\nb"]
NO_METHODS = ["GET /evil HTTP/1.1", "GE T", "GET\t", "", "GÉT", "GET\r\nx: y", "G:T"]


def sends_no_names(caller: Caller, peer: Peer) -> str:
    outcomes = [told(caller, "GET", peer.url, headers=[(name, b"v")]) for name in NO_NAMES]
    outcomes += [told(caller, method, peer.url) for method in NO_METHODS]
    assert not peer.seen
    return f"{outcomes.count('LocalProtocolError')} of {len(outcomes)} refused"


def waits_for_a_last_chunk(peer: Peer, connection: socket.socket, number: int) -> None:
    while data := read_head(connection):
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(65536)
        connection.sendall(answer(b"%d" % data.lower().count(b"content-length")))


def sends_no_chunk(caller: Caller, peer: Peer) -> str:
    headers = {"transfer-encoding": "chunked"}
    return ", ".join(told(caller, "POST", peer.url, content=body, headers=headers) for body in (b"", b"whole"))


def sends_trailers_late(peer: Peer, connection: socket.socket, number: int) -> None:
    read_head(connection)
    for piece in (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"0\r\nx-sum: 1\r\n",
        b"x-more: 2\r\n\r\n",
    ):
        connection.sendall(piece)
        time.sleep(0.02)
    read_head(connection)


def reads_trailers(caller: Caller, peer: Peer) -> str:
    response = caller.get(peer.url)
    return " ".join(f"{name.decode()}={value.decode()}" for name, value in response.extensions["trailing_headers"])


def ends_without_a_word(peer: Peer, connection: socket.socket, number: int) -> None:
    read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")


def ends_with_a_word(peer: Peer, connection: socket.socket, number: int) -> None:
    ends_without_a_word(peer, connection, number)
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()


def sends_chunk_by_chunk(peer: Peer, connection: socket.socket, number: int) -> None:
    read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n")
    for piece in (b"ab", b"cd", b"ef"):
        connection.sendall(piece)
        time.sleep(0.02)
    read_head(connection)


def reads_slowly(caller: Caller, peer: Peer) -> str:
    return caller.stream_slowly(peer.url, 0.1).decode()


def begins_to_answer_while_it_reads(peer: Peer, connection: socket.socket, number: int) -> None:
    data = read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
    while not data.endswith(b"0\r\n\r\n"):
        more = connection.recv(65536)
        if not more:
            return
        data += more
    connection.sendall(b"0\r\n\r\n")
    serve(connection)


def does_not_read(peer: Peer, connection: socket.socket, number: int) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.recv(1)
    peer.done.wait(PATIENCE)


def uploads_to_nobody(caller: Caller, peer: Peer) -> str:
    timeout = httpx.Timeout(PATIENCE, write=0.5)
    try:
        bodies = [b"x" * (24 << 20), caller.body(*[b"x" * (4 << 20)] * 6)]
        return ", ".join(told(caller, "POST", peer.url, content=body, timeout=timeout) for body in bodies)
    finally:
        peer.done.set()


def reads_late(peer: Peer, connection: socket.socket, number: int) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    length, read = 24 << 20, 0
    time.sleep(2.3)  # Longer than the client waits for an answer, once it has sent everything.
    while read < length:
        read += len(connection.recv(1 << 20))
    connection.sendall(answer(b"ok", b"connection: close\r\n"))


def uploads_with_a_short_read_timeout(caller: Caller, peer: Peer) -> str:
    timeout = httpx.Timeout(PATIENCE, read=2.0)
    return told(caller, "POST", peer.url, content=b"x" * (24 << 20), timeout=timeout)


HTTP1 = [
    Misbehaviour(
        "answers early in two pieces",
        "http1",
        answers_early_in_two_pieces,
        uploads_then_gets,
        "413 nope, 200 own",
    ),
    Misbehaviour(
        "answers twice at once", "http1", answers_twice_at_once, asks_twice("GET"), "200 one, 200 own", judged=()
    ),
    Misbehaviour("answers again, unasked", "http1", answers_twice, asks_twice("GET"), "200 one, 200 own", judged=()),
    Misbehaviour(
        "a body for HEAD at once",
        "http1",
        answers_head_with_a_body(False),
        asks_twice("HEAD"),
        "200, 200 own",
        judged=(),
    ),
    Misbehaviour(
        "a body for HEAD later",
        "http1",
        answers_head_with_a_body(True),
        asks_twice("HEAD"),
        "200, 200 own",
        judged=(),
    ),
    Misbehaviour("closes after each answer", "http1", closes_after_each_answer, posts_twenty_times, "20 of 20"),
    Misbehaviour("wrong lengths", "http1", takes_down_what_it_is_sent, sends_wrong_lengths, "7 of 7 refused"),
    Misbehaviour(
        "no names, no methods", "http1", takes_down_what_it_is_sent, sends_no_names, "18 of 18 refused", judged=()
    ),
    Misbehaviour("waits for a last chunk", "http1", waits_for_a_last_chunk, sends_no_chunk, "200 0, 200 0", judged=()),
    Misbehaviour("trailers in pieces", "http1", sends_trailers_late, reads_trailers, "x-sum=1 x-more=2", judged=()),
    Misbehaviour(
        "ends with the connection, unsaid",
        "http1",
        ends_without_a_word,
        lambda caller, peer: told(caller, "GET", peer.url),
        "200 half of it",
        over_tls="RemoteProtocolError",
        judged=(),
    ),
    Misbehaviour(
        "ends with the connection, said",
        "http1",
        ends_with_a_word,
        lambda caller, peer: told(caller, "GET", peer.url),
        "200 half of it",
    ),
    Misbehaviour("chunk by chunk", "http1", sends_chunk_by_chunk, reads_slowly, "abcdef"),
    Misbehaviour(
        "answers while it reads", "http1", begins_to_answer_while_it_reads, uploads_then_gets, "200 ok, 200 own"
    ),
    Misbehaviour("does not read", "http1", does_not_read, uploads_to_nobody, "WriteTimeout, WriteTimeout"),
    Misbehaviour("reads late", "http1", reads_late, uploads_with_a_short_read_timeout, "200 ok"),
]


# HTTP/2


def falls_silent(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection)
    if number:
        http2.serve()
    http2.answer(http2.request())
    peer.done.wait(PATIENCE)


def asks_until_answered(caller: Caller, peer: Peer) -> str:
    try:
        outcomes = [
            told(caller, "GET", peer.url),
            told(caller, "GET", peer.url, timeout=httpx.Timeout(PATIENCE, read=0.3)),
        ]
        return ", ".join([*outcomes, told(caller, "GET", peer.url)])
    finally:
        peer.done.set()


def goes_away_and_finishes(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection)
    if number:
        http2.serve()
    stream = http2.request()
    http2.h2.send_headers(stream, [(":status", "200")])
    http2.h2.send_data(stream, b"first ")
    http2.flush()
    # Twice, as a server does that does not yet know what is under way (RFC 9113 section 6.8).
    for last in (2**31 - 1, stream):
        connection.sendall(frame(7, 0, 0, last.to_bytes(4, "big") + bytes(4)))
        time.sleep(0.05)
    http2.h2.send_data(stream, b"second", end_stream=True)
    http2.flush()
    http2.wait_for(h2.events.ConnectionTerminated)


def gets_twice(caller: Caller, peer: Peer) -> str:
    return f"{told(caller, 'GET', peer.url)}, {told(caller, 'GET', peer.url)}"


def goes_away_before(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection)
    if number:
        http2.serve()
    http2.request()
    connection.sendall(frame(7, 0, 0, bytes(8)))
    http2.wait_for(h2.events.ConnectionTerminated)


def posts(caller: Caller, peer: Peer) -> str:
    return told(caller, "POST", peer.url, content=b"body")


def settles_late(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection, is_held=True, max_concurrent_streams=1)
    streams = [http2.request()]
    connection.settimeout(0.3)
    try:
        while True:
            streams.append(http2.request())
    except TimeoutError:
        connection.settimeout(PATIENCE)
    http2.is_held = False
    for refused in streams[1:]:
        http2.h2.reset_stream(refused, h2.errors.ErrorCodes.REFUSED_STREAM)
    http2.answer(streams[0])
    http2.serve()


def ten_at_once(caller: Caller, peer: Peer) -> str:
    outcomes = caller.many(10, "POST", peer.url, pause=0.1, content=b"body")
    good = [one for one in outcomes if isinstance(one, httpx.Response) and one.status_code == 200]
    return f"{len(good)} of 10"


def serves_http2(peer: Peer, connection: socket.socket, number: int) -> None:
    Http2Peer(connection, max_concurrent_streams=1000).serve()


def five_hundred_at_once(caller: Caller, peer: Peer) -> str:
    if not caller.is_async:
        return "200 own over 1"  # A connection carries one request at a time; see `sync_http2`.
    outcomes = caller.many(500, "GET", peer.url)
    [kind] = {f"{one.status_code} {one.text}" if isinstance(one, httpx.Response) else repr(one) for one in outcomes}
    return f"{kind} over {peer.connections}"


def sends_a_large_head(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection)
    http2.h2.max_outbound_frame_size = 16384
    headers = [(":status", "200"), *((f"x-{number}", "v" * 1000) for number in range(100))]
    http2.answer(http2.request(), headers=headers)
    http2.serve()


def announces_a_long_frame(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection)
    stream = http2.request()
    connection.sendall(frame(0, 0, stream, b"x" * 100, length=1 << 20))
    connection.recv(65536)


def speaks_http1(peer: Peer, connection: socket.socket, number: int) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    connection.recv(65536)
    connection.recv(65536)


def gets(caller: Caller, peer: Peer) -> str:
    return told(caller, "GET", peer.url)


def gives_head_a_body_over_http2(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection)
    if number:
        http2.serve()
    stream = http2.request()
    http2.h2.send_headers(stream, [(":status", "200"), ("content-length", "4")])
    http2.h2.send_data(stream, b"evil", end_stream=True)
    http2._answered.add(stream)
    http2.flush()
    peer.has_done(connection)
    http2.serve()


def answers_unasked_over_http2(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection)
    if number:
        http2.serve()
    stream = http2.request()
    http2.answer(stream, b"one")
    time.sleep(0.01)
    # An answer to the stream that the client opens next. 0x88 is `:status 200` (RFC 7541).
    connection.sendall(frame(1, 4, stream + 2, b"\x88") + frame(0, 1, stream + 2, b"not asked for"))
    peer.has_done(connection)
    connection.recv(65536)


def opens_its_window_before_it_reads(peer: Peer, connection: socket.socket, number: int) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    http2 = Http2Peer(connection, initial_window_size=8 << 20)
    http2.h2.increment_flow_control_window(64 << 20)
    http2.flush()
    stream = http2.request()
    time.sleep(0.3)
    http2.h2.increment_flow_control_window(32 << 20, stream)
    http2.flush()
    time.sleep(0.3)
    while True:
        events, http2._events = http2._events, []
        if any(isinstance(event, h2.events.StreamEnded) for event in events):
            break
        http2.read()
    http2.answer(stream)
    http2.serve()


def uploads_much(caller: Caller, peer: Peer) -> str:
    return told(caller, "POST", peer.url, content=b"x" * (16 << 20), timeout=PATIENCE)


def does_not_read_http2(peer: Peer, connection: socket.socket, number: int) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    http2 = Http2Peer(connection, initial_window_size=128 << 20)
    http2.h2.increment_flow_control_window(128 << 20)
    http2.flush()
    http2.request()
    peer.done.wait(PATIENCE)


def answers_early_over_http2(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection)
    stream = http2.request()
    http2.h2.send_headers(stream, [(":status", "413")])
    http2.h2.send_data(stream, b"no")
    http2.flush()
    time.sleep(0.05)
    http2.h2.send_data(stream, b"pe", end_stream=True)
    http2._answered.add(stream)
    http2.flush()
    http2.serve()


def takes_down_http2(peer: Peer, connection: socket.socket, number: int) -> None:
    http2 = Http2Peer(connection)
    while True:
        event = http2.wait_for(h2.events.StreamEnded)
        peer.seen.append(b"a request")
        http2.answer(event.stream_id or 0)


HTTP2 = [
    Misbehaviour(
        "falls silent", "http2", falls_silent, asks_until_answered, "200 ok, ReadTimeout, 200 own", judged=("sync",)
    ),
    Misbehaviour(
        "goes away and finishes",
        "http2",
        goes_away_and_finishes,
        gets_twice,
        "200 first second, 200 own",
        judged=(),
    ),
    Misbehaviour("goes away before it takes the request", "http2", goes_away_before, posts, "200 own", judged=()),
    Misbehaviour("settles late", "http2", settles_late, ten_at_once, "10 of 10", judged=()),
    Misbehaviour("500 at once", "http2", serves_http2, five_hundred_at_once, "200 own over 1", judged=()),
    Misbehaviour("a head of 100 KiB", "http2", sends_a_large_head, gets, "200 ok", judged=()),
    Misbehaviour("a frame too long", "http2", announces_a_long_frame, gets, "RemoteProtocolError", judged=()),
    Misbehaviour("speaks HTTP/1.1", "http2", speaks_http1, gets, "RemoteProtocolError", judged=()),
    Misbehaviour(
        "a body for HEAD", "http2", gives_head_a_body_over_http2, asks_twice("HEAD"), "200, 200 own", judged=()
    ),
    Misbehaviour(
        "answers again, unasked", "http2", answers_unasked_over_http2, asks_twice("GET"), "200 one, 200 own", judged=()
    ),
    Misbehaviour("opens its window early", "http2", opens_its_window_before_it_reads, uploads_much, "200 ok"),
    Misbehaviour(
        "does not read", "http2", does_not_read_http2, uploads_to_nobody, "WriteTimeout, WriteTimeout", judged=()
    ),
    Misbehaviour("answers early", "http2", answers_early_over_http2, uploads_then_gets, "413 nope, 200 own", judged=()),
    Misbehaviour("wrong lengths", "http2", takes_down_http2, sends_wrong_lengths, "7 of 7 refused", judged=()),
    Misbehaviour("no names, no methods", "http2", takes_down_http2, sends_no_names, "18 of 18 refused", judged=()),
]


@dataclass(frozen=True)
class Certificates:
    """What the peers prove their name with, and what the clients trust."""

    trusted: ssl.SSLContext
    of_http1: ssl.SSLContext
    of_http2: ssl.SSLContext


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    authority = trustme.CA()
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    contexts = []
    for protocol in ("http/1.1", "h2"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        context.set_alpn_protocols([protocol])
        contexts.append(context)
    return Certificates(trusted, *contexts)


@pytest.fixture(scope="module")
def table() -> Iterator[dict[tuple[str, str], dict[str, str]]]:
    """Outcomes by misbehaviour and client, printed at the end."""
    outcomes: dict[tuple[str, str], dict[str, str]] = {}
    yield outcomes
    for (protocol, name), row in sorted(outcomes.items()):
        print(f"\n{protocol} {name}")
        for client, outcome in row.items():
            print(f"    {client:24} {outcome}")


# httpx stands beside, where it is right.
CASES = [
    pytest.param(one, kind, id=f"{one.protocol} {one.name}-{kind}")
    for one in (*HTTP1, *HTTP2)
    for kind in ("sync", *LOOPS, *(f"httpx-{judge}" for judge in one.judged))
]


@pytest.mark.parametrize("is_tls", [False, True], ids=["plaintext", "tls"])
@pytest.mark.parametrize(("misbehaviour", "kind"), CASES)
def test_a_peer_that_misbehaves_gets_no_request_mixed_up_lost_or_stuck(
    misbehaviour: Misbehaviour,
    kind: str,
    is_tls: bool,
    certificates: Certificates,
    table: dict[tuple[str, str], dict[str, str]],
    tmp_path: Path,
    stack: ExitStack,
) -> None:
    peer = Peer(is_tls=is_tls)
    is_http2 = misbehaviour.protocol == "http2"
    kind, is_judge = kind.removeprefix("httpx-"), kind.startswith("httpx-")

    def script(connection: socket.socket, number: int) -> None:
        peer.connections = max(peer.connections, number + 1)
        misbehaviour.script(peer, connection, number)

    tls = (certificates.of_http2 if is_http2 else certificates.of_http1) if is_tls else None
    server = stack.enter_context(ScriptedServer(script, tls))
    peer.url = server.url
    options: dict[str, Any] = {"verify": certificates.trusted}
    mesh = None
    if is_judge:
        options |= {"http1": not is_http2, "http2": is_http2, "trust_env": False}
    else:
        (tmp_path / "mesh").mkdir()
        yaml = service("a", server.port)
        if is_http2 and not is_tls:
            yaml, peer.url = yaml.replace("name: http", "name: http2").replace("{http:", "{http2:"), "http://a/"
        (tmp_path / "mesh" / "mesh.yaml").write_text(yaml)
        mesh = stack.enter_context(meshsdk.Mesh(config=tmp_path / "mesh"))
        options["http2"] = is_http2
    caller = Caller(mesh, kind, **options)
    stack.callback(caller.close)
    outcome = misbehaviour.ask(caller, peer)
    client = f"{'httpx ' if is_judge else ''}{kind} {'TLS' if is_tls else 'plaintext'}"
    table.setdefault((misbehaviour.protocol, misbehaviour.name), {})[client] = outcome
    assert outcome == misbehaviour.outcome(is_tls)
    if not is_judge:
        assert all(not hasattr(one, "reader") or one.reader.state.may_serve_again for one in caller.idle)
