"""What a request must be before a byte of it goes out, in either protocol.

A method, a target or a header name that is none would be read as something else by the peer (RFC 9110 sections 5.1 and
9.1, RFC 9112 section 3.2); a body that is not as long as the head says would be read as the next request, or waited
for without end (RFC 9112 section 6.3, RFC 9113 section 8.1.1). Both are the caller's mistake: gateways copy headers
that came in, Content-Length among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import LocalProtocolError

__all__ = ["NO_FRAMING", "Framer", "Framing", "check_target", "framing_of", "with_framing", "without_length"]

Headers = Sequence[tuple[bytes, bytes]]

_is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])

_SPECIAL = frozenset([b"content-length", b"transfer-encoding", b"expect"])

# Names that were looked at before and are names, but special ones. A process uses few; more are looked at anew.
_plain_names: set[bytes] = set()
_MAX_PLAIN_NAMES = 2048
_MAX_PLAIN_NAME_BYTES = 64


class Framing:
    """How a request's body is delimited.

    Attributes:
        length: Its Content-Length; None where there is none.
        is_chunked: It goes out in chunks, over HTTP/1.1 (RFC 9112 section 7.1).
        expects_continue: It waits for a 100 (RFC 9110 section 10.1.1).
        drops_length: A Content-Length beside a Transfer-Encoding, which must not be sent (RFC 9112 section 6.2).
    """

    __slots__ = ("drops_length", "expects_continue", "is_chunked", "length")

    def __init__(
        self,
        length: int | None = None,
        *,
        is_chunked: bool = False,
        expects_continue: bool = False,
        drops_length: bool = False,
    ) -> None:
        self.length = length
        self.is_chunked = is_chunked
        self.expects_continue = expects_continue
        self.drops_length = drops_length

    @property
    def has_end(self) -> bool:
        """Whether an HTTP/1.1 peer knows from the head where the body ends."""
        return self.is_chunked or self.length is not None


NO_FRAMING = Framing()


def framing_of(method: str, headers: Headers, body: object) -> Framing:
    """How the body of a request is delimited, whose method and header names are such.

    Args:
        method: As it goes out.
        headers: As they go out.
        body: The bytes; anything else is a stream, whose length is seen as it goes out (`Framer`).

    Raises:
        LocalProtocolError: A peer would read something else than what was meant.
    """
    if method not in _METHODS and _is_token(method.encode("utf-8", "replace")) is None:
        raise LocalProtocolError(f"{method!r} is no method")
    framing = NO_FRAMING
    for name, _ in headers:
        if name not in _plain_names and _is_special(name) and framing is NO_FRAMING:
            framing = _framing(headers, body)
    return framing


def _is_special(name: bytes) -> bool:
    if _is_token(name) is None:
        raise LocalProtocolError(f"{name.decode('latin-1')!r} is no header name")
    if name.lower() in _SPECIAL:
        return True
    if len(_plain_names) < _MAX_PLAIN_NAMES and len(name) <= _MAX_PLAIN_NAME_BYTES:
        _plain_names.add(name)
    return False


def _framing(headers: Headers, body: object) -> Framing:
    codings: list[bytes] = []
    length: int | None = None
    expects = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            length = _agreed_length(value, length)
        elif lower == b"transfer-encoding":
            codings.append(value)
        elif lower == b"expect":
            expects = expects or value.strip().lower() == b"100-continue"
    if codings and _ends_in_chunks(b",".join(codings)):
        return Framing(is_chunked=True, expects_continue=expects, drops_length=length is not None)
    if length is not None and isinstance(body, bytes) and len(body) != length:
        raise LocalProtocolError(
            f"the request's Content-Length is {length}, and its body has {len(body)} bytes; leave the header out,"
            " it is set by the body"
        )
    return Framing(length, expects_continue=expects)


def check_target(target: str) -> None:
    """See that a target ends where it is meant to.

    Raises:
        LocalProtocolError: It is empty, or something in it is no character of a target.
    """
    if not (target.isascii() and target.isprintable()) or " " in target or not target:
        raise LocalProtocolError(f"illegal character in the request's target: {target!r}")


def _ends_in_chunks(codings: bytes) -> bool:
    names = [name.strip().lower() for name in codings.split(b",")]
    # RFC 9112 section 6.1: chunked comes last, and once; without it a request has no end.
    if names[-1] != b"chunked" or names.count(b"chunked") > 1:
        raise LocalProtocolError(f"a request's Transfer-Encoding must end with chunked: {codings!r}")
    return True


def _agreed_length(value: bytes, before: int | None) -> int:
    text = value.strip(b" \t")
    if not text.isdigit() or len(text) > 18:
        raise LocalProtocolError(f"the request's Content-Length is no number: {value!r}")
    if before is not None and before != int(text):
        raise LocalProtocolError(f"the request has two Content-Lengths, {before} and {int(text)}")
    return int(text)


def without_length(headers: Headers) -> Headers:
    """The headers without Content-Length."""
    return [header for header in headers if header[0].lower() != b"content-length"]


def with_framing(headers: Headers, body: object) -> tuple[Headers, Framing]:
    """The headers of an HTTP/1.1 request whose body had none that delimits it; a route may have taken it away."""
    if isinstance(body, bytes):
        return [*headers, (b"content-length", b"%d" % len(body))], Framing(len(body))
    return [*headers, (b"transfer-encoding", b"chunked")], Framing(is_chunked=True)


class Framer:
    """Counts the chunks of a streamed body, which must be as long as announced, and frames them for HTTP/1.1."""

    __slots__ = ("_is_chunked", "_left")

    def __init__(self, framing: Framing) -> None:
        self._is_chunked = framing.is_chunked
        self._left = framing.length

    def count(self, chunk: bytes) -> None:
        """One more chunk.

        Raises:
            LocalProtocolError: There is more body than Content-Length says.
        """
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                raise LocalProtocolError("the request's body is longer than its Content-Length")

    def end(self) -> bytes:
        """The last chunk, where there are chunks.

        Raises:
            LocalProtocolError: There is less body than Content-Length says.
        """
        if self._left:
            raise LocalProtocolError("the request's body is shorter than its Content-Length")
        return b"0\r\n\r\n" if self._is_chunked else b""

    def frame(self, head: bytes, chunk: bytes) -> list[bytes]:
        """What goes out of a chunk, after the head where that has not gone out yet; as pieces, since to join them
        would be to copy the chunk.

        Raises:
            LocalProtocolError: There is more body than Content-Length says.
        """
        if not self._is_chunked:
            self.count(chunk)
            return [head, chunk] if head else [chunk]
        return [b"%b%x\r\n" % (head, len(chunk)), chunk, b"\r\n"]
