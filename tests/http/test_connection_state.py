"""The life of a connection, fuzzed: whatever happens, and however it is cut into pieces, one that is not clean is not
used again, and no answer is taken for another's."""

from __future__ import annotations

import itertools
import socket
from dataclasses import dataclass
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsdk.http import connection_state as cs
from meshsdk.http.errors import ReadError, RemoteProtocolError
from meshsdk.http.http1 import Http1Reader
from meshsdk.http.http2 import Http2Session, Http2Stream
from meshsdk.http.sync_http1 import SyncHttp1Connection

REQUEST_EVENTS = [cs.ALL_SENT, cs.GIVEN_UP]
RESPONSE_EVENTS = [cs.HEAD, cs.END, cs.LAST_END, cs.STRAY, cs.CUT_OFF]


@pytest.mark.parametrize("length", range(6))
def test_of_all_histories_only_a_whole_exchange_leaves_a_connection_clean(length: int) -> None:
    """Every order of up to five events, of which the request's and the response's come in any order to each other."""
    for history in itertools.product([*REQUEST_EVENTS, *RESPONSE_EVENTS], repeat=length):
        state = cs.ConnectionState()
        assert state.begin()
        for event in history:
            (state.of_request if event in REQUEST_EVENTS else state.of_response)(event)
        of_request = [event for event in history if event in REQUEST_EVENTS]
        of_response = [event for event in history if event in RESPONSE_EVENTS]
        is_whole = of_request == [cs.ALL_SENT] and of_response == [cs.HEAD, cs.END]
        assert state.may_serve_again is is_whole, history
        assert state.begin() is is_whole, history


def test_tables_name_the_same_states_and_must_close_is_left_by_nothing() -> None:
    for table in (cs.REQUEST_TABLE, cs.RESPONSE_TABLE):
        assert all(after in table for changes in table.values() for after in changes.values())
        assert not table[cs.MUST_CLOSE]


@dataclass(frozen=True)
class Sent:
    """What a peer sends for one request: bytes, and what they are."""

    data: bytes
    body: bytes
    is_last: bool = False
    ends_with_connection: bool = False


BODIES = st.binary(max_size=40)


@st.composite
def answers(draw: st.DrawFn, method: str) -> Sent:
    """A good answer of any kind."""
    body = draw(BODIES)
    interim = draw(
        st.sampled_from([b"", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", b"HTTP/1.1 100 Go\r\n\r\n"])
    )
    kind = draw(st.sampled_from(["length", "chunked", "none", "last", "until the end"]))
    closing = b"connection: close\r\n" if kind == "last" else b""
    if kind == "none" and method != "HEAD":
        return Sent(interim + b"HTTP/1.1 204 No\r\n\r\n", b"")
    if kind == "chunked":
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part)
        trailer = draw(st.sampled_from([b"", b"x-sum: 1\r\n"]))
        head, content = b"transfer-encoding: chunked\r\n", chunks + b"0\r\n" + trailer + b"\r\n"
    elif kind == "until the end" and method != "HEAD":
        return Sent(interim + b"HTTP/1.1 200 OK\r\n\r\n" + body, body, ends_with_connection=True)
    else:
        head, content = b"content-length: %d\r\n" % len(body), body
    if method == "HEAD":
        body = content = b""
    return Sent(interim + b"HTTP/1.1 200 OK\r\n" + closing + head + b"\r\n" + content, body, kind == "last")


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:stop] for start, stop in itertools.pairwise(marks)]


STRAYS = st.sampled_from([b"", b"H", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"x", b"0\r\n\r\n", b"\0"])
PLACES = st.lists(st.integers(0, 1000), max_size=6)


@settings(max_examples=1500, deadline=None)
@given(st.data(), st.sampled_from(["GET", "HEAD"]), STRAYS, PLACES, st.booleans(), st.integers(0, 8))
def test_an_answer_in_any_pieces_with_anything_behind_it_and_a_request_that_ends_at_any_time(
    data: st.DataObject, method: str, stray: bytes, places: list[int], is_given_up: bool, ends_after: int
) -> None:
    answer = data.draw(answers(method))
    stray = b"" if answer.ends_with_connection else stray
    reader = Http1Reader()
    reader.expect(method)
    pieces = cut(answer.data + stray, places)
    body = b""
    for index, piece in enumerate(pieces):
        if index == ends_after:
            reader.state.of_request(cs.GIVEN_UP if is_given_up else cs.ALL_SENT)
        try:
            reader.feed(piece)
        except RemoteProtocolError:
            assert reader.complete
            assert stray
        body += b"".join(reader.take())
    if ends_after >= len(pieces):
        assert not reader.state.may_serve_again  # The request is still going out.
        reader.state.of_request(cs.GIVEN_UP if is_given_up else cs.ALL_SENT)
    if answer.ends_with_connection:
        reader.feed_eof()
    assert reader.complete
    assert body + b"".join(reader.take()) == answer.body
    is_clean = not (stray or is_given_up or answer.is_last or answer.ends_with_connection)
    # HEAD may say nothing of a length, and is then taken for the last one.
    assert reader.state.may_serve_again is is_clean
    if is_clean:
        reader.expect("GET")
        reader.feed(b"HTTP/1.1 201 OK\r\ncontent-length: 3\r\n\r\nown")
        assert (reader.status, reader.take()) == (201, [b"own"])
    else:
        with pytest.raises(ReadError):
            reader.expect("GET")


class _Attempt:
    """What a connection needs of an attempt."""

    target = "/"
    deadline = None

    def finish(self) -> None:
        pass


@settings(max_examples=300, deadline=None)
@given(st.data(), st.lists(st.tuples(STRAYS, st.booleans(), st.booleans()), min_size=1, max_size=4))
def test_no_history_over_a_socket_ends_in_a_released_connection_that_has_more_to_say(
    data: st.DataObject, turns: list[tuple[bytes, bool, bool]]
) -> None:
    """Each turn: an answer, what comes behind it, whether that is in the same piece, and whether the peer closes."""
    from meshsdk.http.outgoing import Outgoing
    from meshsdk.http.timeouts import Timeouts

    released: list[SyncHttp1Connection] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = SyncHttp1Connection(ours, released.append)
        for number, (stray, is_at_once, closes) in enumerate(turns):
            body = b"answer %d" % number
            answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            theirs.sendall(answer + (stray if is_at_once else b""))
            outgoing: Any = Outgoing("GET", "http", _Attempt(), [(b"host", b"a")], b"", Timeouts(read=5.0))  # type: ignore[arg-type]
            released.clear()
            raw = connection.exchange(outgoing)
            assert b"".join(raw.body) == body  # type: ignore[arg-type]
            assert released == [connection]
            if not is_at_once and stray:
                theirs.sendall(stray)
            if closes:
                theirs.shutdown(socket.SHUT_WR)
            is_clean = not (stray or closes)
            assert connection.is_usable() is is_clean
            if not is_clean:
                break


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_connection_that_the_next_request_has_at_once_leaves_the_last_answer_as_it_was(*, is_chunked: bool) -> None:
    """As where another thread takes the connection in the moment in which it is let go."""
    from meshsdk.http.outgoing import Outgoing
    from meshsdk.http.timeouts import Timeouts

    answers: list[tuple[int, list[tuple[bytes, bytes]], list[tuple[bytes, bytes]], bytes]] = []
    ours, theirs = socket.socketpair()

    def ask() -> None:
        outgoing: Any = Outgoing("GET", "http", _Attempt(), [(b"host", b"a")], b"", Timeouts(read=30.0))  # type: ignore[arg-type]
        raw = connection.exchange(outgoing)
        body = b"".join(raw.body)
        answers.append((raw.status, list(raw.headers), list(raw.trailers), body))

    def next_one(_: SyncHttp1Connection) -> None:
        if len(statuses) > 0:
            answer(statuses.pop())
            ask()

    def answer(status: int) -> None:
        own = b"%d" % status
        if is_chunked:
            theirs.sendall(
                b"HTTP/1.1 %b OK\r\nx: %b\r\ntransfer-encoding: chunked\r\n\r\n" % (own, own)
                + b"3\r\n%b\r\n0\r\ny: %b\r\n\r\n" % (own, own)
            )
        else:
            theirs.sendall(b"HTTP/1.1 %b OK\r\nx: %b\r\ncontent-length: 3\r\n\r\n%b" % (own, own, own))

    statuses = [203, 202, 201]
    with ours, theirs:
        connection = SyncHttp1Connection(ours, next_one)
        answer(200)
        ask()
    for status, headers, trailers, body in answers:
        own = b"%d" % status
        assert (dict(headers)[b"x"], body, trailers) == (own, own, [(b"y", own)] if is_chunked else [])
    assert sorted(status for status, *_ in answers) == [200, 201, 202, 203]


@st.composite
def _http2_histories(draw: st.DrawFn) -> tuple[list[tuple[str, int]], list[int]]:
    kinds = ["open", "head", "data", "end", "reset", "refuse", "goaway", "settings", "ping", "close", "head and end"]
    steps = draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 5)), max_size=25))
    return steps, draw(st.lists(st.integers(0, 60), max_size=8))


class _Http2Pair:
    """A session and a peer that answers each stream with its own number, in any pieces."""

    def __init__(self, cuts: list[int]) -> None:
        self.session = Http2Session()
        self.peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.peer.initiate_connection()
        self.streams: list[Http2Stream] = []
        self.sent: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.goaway: int | None = None
        self._cuts = cuts
        self.to_peer(self.session.start())
        self.to_session(self.peer.data_to_send())

    def to_peer(self, data: bytes) -> None:
        if data and self.goaway is None:
            self.peer.receive_data(data)

    def to_session(self, data: bytes) -> None:
        for piece in cut(data, self._cuts) if data else []:
            self.to_peer(self.session.feed(piece))

    def step(self, kind: str, number: int) -> None:
        if kind == "open":
            if self.session.has_room and self.goaway is None:
                stream, data = self.session.open("GET", "http", "/", [(b"host", b"a")], end=True)
                self.streams.append(stream)
                self.to_peer(data)
            return
        if kind == "goaway":
            last = self.streams[number % len(self.streams)].id if self.streams else 0
            self.goaway = last if self.goaway is None else min(self.goaway, last)
            self.to_session(b"\0\0\x08\7\0\0\0\0\0" + self.goaway.to_bytes(4, "big") + bytes(4))
            return
        if kind in ("settings", "ping"):
            if kind == "settings":
                self.peer.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: number + 1})
            else:
                self.peer.ping(b"12345678")
            self.to_session(self.peer.data_to_send())
            return
        if self.streams:
            self._of_stream(kind, self.streams[number % len(self.streams)])

    def _of_stream(self, kind: str, stream: Http2Stream) -> None:
        if kind == "close":
            if stream.id in self.session.streams:
                self.to_peer(self.session.close(stream))
            return
        if stream.id in self.ended or (self.goaway is not None and stream.id > self.goaway):
            return
        own = b"%d;" % stream.id
        try:
            if kind in ("head", "head and end") and stream.id not in self.sent:
                self.peer.send_headers(stream.id, [(":status", "200")], end_stream=kind == "head and end")
                self.sent[stream.id] = b""
            elif kind in ("data", "end") and stream.id in self.sent:
                self.peer.send_data(stream.id, own, end_stream=kind == "end")
                self.sent[stream.id] += own
            elif kind in ("reset", "refuse"):
                code = h2.errors.ErrorCodes.REFUSED_STREAM if kind == "refuse" else h2.errors.ErrorCodes.CANCEL
                self.peer.reset_stream(stream.id, code)
            else:
                return
        except h2.exceptions.ProtocolError:
            return  # The client has let go of it.
        if kind in ("end", "head and end", "reset", "refuse"):
            self.ended.add(stream.id)
        self.to_session(self.peer.data_to_send())


@settings(max_examples=600, deadline=None)
@given(_http2_histories())
def test_streams_get_their_own_answers_whatever_happens_to_the_others(
    history: tuple[list[tuple[str, int]], list[int]],
) -> None:
    steps, cuts = history
    pair = _Http2Pair(cuts)
    for kind, number in steps:
        pair.step(kind, number)
    assert pair.session.error is None  # A peer that keeps to the protocol is never accused of breaking it.
    assert pair.session.is_usable is (pair.goaway is None)
    for stream in pair.streams:
        body = b"".join(stream.chunks)
        if stream.id in pair.session.streams:
            assert body == pair.sent.get(stream.id, b"")
        assert set(body.split(b";")) <= {b"", b"%d" % stream.id}
        if stream.error is not None:
            is_beyond = pair.goaway is not None and stream.id > pair.goaway
            assert is_beyond or stream.id in pair.ended


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), PLACES)
def test_whatever_an_http2_peer_sends_ends_in_an_answer_or_a_protocol_error(data: bytes, places: list[int]) -> None:
    pair = _Http2Pair([])
    pair.step("open", 0)
    [stream] = pair.streams
    for piece in cut(data, places):
        pair.session.feed(piece)
    assert stream.error is None or isinstance(stream.error, RemoteProtocolError)
