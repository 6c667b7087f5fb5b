"""HTTP/1.1 without I/O: what comes of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsdk.http.connection_state import ALL_SENT
from meshsdk.http.errors import LocalProtocolError, RemoteProtocolError
from meshsdk.http.http1 import MAX_HEAD_BYTES, Http1Reader, encode_head


def read(*data: bytes, method: str = "GET", eof: bool = False) -> Http1Reader:
    reader = Http1Reader()
    reader.expect(method)
    reader.state.of_request(ALL_SENT)
    for piece in data:
        reader.feed(piece)
    if eof:
        reader.feed_eof()
    return reader


def test_a_response_in_pieces_of_one_byte() -> None:
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX-A: b\r\n\r\nhello"
    reader = read(*(data[i : i + 1] for i in range(len(data))))
    assert (reader.status, reader.complete, reader.state.may_serve_again) == (200, True, True)
    assert (b"X-A", b"b") in reader.headers
    assert b"".join(reader.take()) == b"hello"


def test_chunks_and_trailers() -> None:
    reader = read(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 7\r\n\r\n"
    )
    assert b"".join(reader.take()) == b"abcde"
    assert reader.trailers == [(b"x-sum", b"7")]


@pytest.mark.parametrize("status", [204, 304])
def test_responses_that_never_have_a_body(status: int) -> None:
    assert read(b"HTTP/1.1 %d X\r\ncontent-length: 5\r\n\r\n" % status).complete


def test_a_head_response_only_announces_its_body_and_the_next_response_is_read_afresh() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n", method="HEAD")
    assert reader.complete
    assert reader.state.may_serve_again
    reader.expect("GET")
    reader.feed(b"HTTP/1.1 201 OK\r\ncontent-length: 0\r\n\r\n")
    assert reader.status == 201


def test_interim_responses_are_skipped() -> None:
    reader = read(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    )
    assert reader.continue_received
    assert reader.status == 200
    assert reader.headers == [(b"content-length", b"0")]


def test_a_body_may_end_with_the_connection() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n\r\nall of it", eof=True)
    assert reader.complete
    assert not reader.state.may_serve_again


@pytest.mark.parametrize("closing", [b"HTTP/1.1 200 OK\r\nconnection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
def test_a_connection_that_is_to_be_closed_is_not_reusable(closing: bytes) -> None:
    assert not read(closing + b"content-length: 0\r\n\r\n").state.may_serve_again


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ncontent-le",
    ],
)
def test_a_connection_that_ends_too_early_is_an_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(data, eof=True)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_not_http_is_an_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(data)


@pytest.mark.parametrize("endless", [b"x-a: b\r\n", b"a"])
def test_an_endless_head_is_cut_off(endless: bytes) -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(RemoteProtocolError, match="exceeds"):
        for _ in range(2 * MAX_HEAD_BYTES // 1000):
            reader.feed(endless * (1000 // len(endless)))


def test_endless_trailers_are_cut_off() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
    with pytest.raises(RemoteProtocolError, match="exceeds"):
        for _ in range(2 * MAX_HEAD_BYTES // 1000):
            reader.feed(b"x-a: b\r\n" * 125)


def test_a_second_response_makes_the_connection_useless_but_not_the_first() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert b"".join(reader.take()) == b"ok"
    assert not reader.state.may_serve_again


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_bytes_end_in_a_response_or_a_protocol_error(pieces: list[bytes]) -> None:
    try:
        read(b"HTTP/1.1 200 OK\r\n", *pieces, eof=True)
    except RemoteProtocolError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/x\r\nx-evil: 1", []),
        ("/x y", []),
        ("/é", []),
        ("/", [(b"x-a", b"b\r\nx-evil: 1")]),
        ("/", [(b"x-a\n", b"b")]),
        ("/", [(b"x-a", b"\0")]),
    ],
)
def test_nothing_in_a_request_can_begin_a_new_line(target: str, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_head("GET", target, headers)
