"""Answers of unary calls: what is cut off or compressed is no answer."""

from __future__ import annotations

import httpx
import pytest

from meshsdk.http.grpc_unary import read_call


def _answer(content: bytes, status: str = "0") -> httpx.Response:
    return httpx.Response(200, headers={"grpc-status": status}, content=content)


def test_a_whole_message_is_read() -> None:
    assert read_call(_answer(b"\0\0\0\0\3abc")) == b"abc"
    assert read_call(_answer(b"\0\0\0\0\0")) == b""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no message"),
        (b"\1\0\0\0\3abc", "compressed"),
        # An empty CheckResponse would let a request pass.
        (b"\0\0\0\0\3", "has 0 bytes, and not 3"),
        (b"\0\0\0\0\3ab", "has 2 bytes, and not 3"),
        (b"\0\0\0\0\1a\0\0\0\0\0", "has 6 bytes, and not 1"),
    ],
)
def test_what_is_no_whole_message_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_call(_answer(content))


def test_a_failed_call_is_no_answer() -> None:
    with pytest.raises(ValueError, match="gRPC status 14"):
        read_call(_answer(b"\0\0\0\0\0", status="14"))
