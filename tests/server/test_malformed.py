"""Requests that servers let through, and that two readers might understand differently."""

from __future__ import annotations

import pytest

from meshsdk.routing import RequestHead
from meshsdk.server.malformed import malformed

HOST = (b"host", b"web")


@pytest.mark.parametrize(
    "header",
    [
        (b"content-length", b"+3"),
        (b"content-length", b"-1"),
        (b"content-length", b"3, 3"),
        (b"content-length", b""),
        (b"content-length", b"0x10"),
        (b"content-length", "٣".encode()),
        (b"content-length", b"9" * 5000),
        (b"x", b"a\nb"),
        (b"host", b"other"),
        (b"Host", b"other"),
        (b":path", b"/other"),
    ],
    ids=str,
)
def test_a_header_that_is_read_in_two_ways_is_refused(header: tuple[bytes, bytes]) -> None:
    reply = malformed(RequestHead("POST", "http", "web", "/", [HOST, header]))
    assert reply is not None
    assert reply.status == 400


@pytest.mark.parametrize("headers", [[HOST], [HOST, (b"content-length", b"3")], [HOST, (b"x", b"a"), (b"x", b"b")]])
def test_other_headers_are_not(headers: list[tuple[bytes, bytes]]) -> None:
    assert malformed(RequestHead("POST", "http", "web", "/", headers)) is None
