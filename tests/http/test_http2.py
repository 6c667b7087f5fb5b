"""HTTP/2 without I/O: what may not go out, and what a peer may not make of us."""

from __future__ import annotations

import h2.config
import h2.connection
import pytest

from meshsdk.http.errors import LocalProtocolError, RemoteProtocolError
from meshsdk.http.http2 import Http2Session, Http2Stream


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/x\r\nx-evil: 1", []),
        ("/x y", []),
        ("/", [(b"host", b"a\r\nx-evil: 1")]),
        ("/", [(b"x-a", b"b\r\nx-evil: 1")]),
        ("/", [(b"x-a\n", b"b")]),
        ("/", [(b"x-a", b"\0")]),
    ],
)
def test_nothing_in_a_request_can_become_a_new_line_behind_a_proxy(
    target: str, headers: list[tuple[bytes, bytes]]
) -> None:
    session = Http2Session()
    session.start()
    with pytest.raises(LocalProtocolError):
        session.open("GET", "http", target, headers, end=True)


def answered(headers: list[tuple[bytes, bytes]]) -> tuple[Http2Session, Http2Stream]:
    """A session whose one request a peer answers with these headers, whatever they are."""
    session = Http2Session()
    config = h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
    peer = h2.connection.H2Connection(config)
    peer.initiate_connection()
    peer.receive_data(session.start())
    stream, data = session.open("GET", "http", "/", [(b"host", b"a")], end=True)
    peer.receive_data(data)
    peer.send_headers(stream.id, headers, end_stream=True)
    session.feed(peer.data_to_send())
    return session, stream


def test_a_good_answer_completes_its_stream() -> None:
    session, stream = answered([(b":status", b"204"), (b"x-a", b"b")])
    assert (stream.status, stream.complete, stream.headers) == (204, True, [(b"x-a", b"b")])
    assert session.is_usable


@pytest.mark.parametrize("status", [b"abc", b""])
def test_a_status_that_is_no_number_is_a_protocol_error(status: bytes) -> None:
    session, stream = answered([(b":status", status)])
    assert isinstance(stream.error, RemoteProtocolError)
    assert not session.is_usable


HEADERS_ON_STREAM_0 = b"\0\0\0\1\4\0\0\0\0"
DATA_ON_AN_IDLE_STREAM = b"\0\0\1\0\0\0\0\0\x63x"


@pytest.mark.parametrize("frame", [HEADERS_ON_STREAM_0, DATA_ON_AN_IDLE_STREAM])
def test_frames_that_break_the_protocol_fail_every_stream(frame: bytes) -> None:
    session = Http2Session()
    session.start()
    stream, _ = session.open("GET", "http", "/", [(b"host", b"a")], end=True)
    session.feed(frame)
    assert isinstance(stream.error, RemoteProtocolError)
    assert not session.is_usable
