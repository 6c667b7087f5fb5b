"""Requests as bytes, with syntax that two readers may take differently.

An oddity changes a request on the wire. Some are *refused by us alone*: Envoy takes them, and docs/envoy-differences.md
says why we do not; with all others both sides must say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from .judge import Request

__all__ = ["ODDITIES", "Wire", "make_wire"]


@dataclass
class Wire:
    """A request as it is sent.

    Attributes:
        lines: Of the head, each with its end.
        oddities: What is odd about it.
    """

    method: str
    target: str
    host: str
    version: str = "HTTP/1.1"
    lines: list[str] = field(default_factory=list)
    body: bytes = b""
    oddities: list[str] = field(default_factory=list)

    def as_bytes(self) -> bytes:
        """What goes over the wire."""
        first = f"{self.method} {self.target} {self.version}\r\n"
        host = "" if self.host == "-" else f"host: {self.host}\r\n"
        return (first + host + "".join(self.lines) + "connection: close\r\n\r\n").encode("latin-1") + self.body

    @property
    def has_header_twice(self) -> bool:
        """Whether a name stands in two lines."""
        names = [line.partition(":")[0].lower() for line in "".join(self.lines).split("\r\n") if ":" in line]
        return len(names) != len(set(names))

    def add(self, line: str) -> None:
        """One more line of the head."""
        self.lines.append(f"{line}\r\n")


Change = Callable[[Random, Wire], None]
_VALUES = ("admin", "adm", "user", "1", "")
_NAMES = ("x-user", "x-role", "x-gone")


def _set(name: str, *values: str) -> Change:
    def change(rng: Random, wire: Wire) -> None:
        setattr(wire, name, rng.choice(values))

    return change


def _line(*lines: str) -> Change:
    """A line of the head; {n} is a name that policies ask for, {v} a value."""

    def change(rng: Random, wire: Wire) -> None:
        line = rng.choice(lines)
        wire.add(line.replace("{n}", rng.choice(_NAMES)).replace("{v}", rng.choice(_VALUES)))

    return change


def _host(*forms: str) -> Change:
    def change(rng: Random, wire: Wire) -> None:
        wire.host = rng.choice(forms).replace("{h}", wire.host)

    return change


def _target(*forms: str) -> Change:
    def change(rng: Random, wire: Wire) -> None:
        wire.target = rng.choice(forms).replace("{t}", wire.target).replace("{h}", wire.host)

    return change


def _chunked(*bodies: bytes, coding: str = "chunked") -> Change:
    def change(rng: Random, wire: Wire) -> None:
        wire.method = "POST"
        wire.add(f"transfer-encoding: {coding}")
        name, value = rng.choice(_NAMES).encode(), rng.choice(_VALUES).encode()
        wire.body = rng.choice(bodies).replace(b"{n}", name).replace(b"{v}", value)

    return change


def _length(*lines: str, body: bytes = b"abc") -> Change:
    def change(rng: Random, wire: Wire) -> None:
        wire.method = "POST"
        for line in rng.choice(lines).split("|"):
            wire.add(line)
        wire.body = body

    return change


def _many(count: int) -> Change:
    def change(rng: Random, wire: Wire) -> None:
        while len(wire.lines) + 2 < count:
            wire.add(f"y-{len(wire.lines)}: z")

    return change


def _long(size: int) -> Change:
    def change(rng: Random, wire: Wire) -> None:
        if rng.random() < 1 / 2:
            wire.add("y-long: " + "z" * size)
        else:
            wire.target += ("&" if "?" in wire.target else "?") + "z" * size

    return change


# By name: what it does, and whether we alone refuse it.
ODDITIES: dict[str, tuple[Change, bool]] = {
    "spaces around a value": (_line("{n}: {v} ", "{n}:\t {v}\t", "{n}:{v}", "{n}:   {v}  "), False),
    "a space before the colon": (_line("{n} : {v}"), False),
    "a header twice": (_line("{n}: {v}\r\n{n}: {v}", "{n}: {v}\r\nX-User: {v}"), False),
    "a list": (_line("{n}: {v},{v}", "{n}: {v}, ,{v}"), False),
    "an empty value": (_line("{n}:", "{n}: "), False),
    "a folded value": (_line("{n}: {v}\r\n {v}", "{n}:\r\n {v}"), True),
    "an odd name": (_line("x!#$%&'*+.^`|~: {v}", "x/y: {v}", "x\xe9: {v}", "x\x01: {v}", ": {v}", "x y: {v}"), False),
    "an odd value": (_line("{n}: a\x01{v}", "{n}: a\x7f", "{n}: \xe9{v}", "{n}: {v}\t{v}"), False),
    "a carriage return in a value": (_line("{n}: {v}\r{v}"), True),
    "an underscore": (_line("x_user: {v}", "x_role: {v}", "x_forwarded_client_cert: {v}"), False),
    "a pseudo-header": (_line(":path: /admin", ":authority: a.com", ":x: y", ":method: GET"), False),
    "a nominated header": (_line("{n}: {v}\r\nconnection: {n}", "connection: x-user, x-role"), False),
    "the host nominated": (_line("connection: host"), True),
    "a nominated header that stays": (_line("connection: x-forwarded-for", "connection: :path"), False),
    "an upgrade": (_line("upgrade: foo\r\nconnection: upgrade", "upgrade: foo"), False),
    "an upgrade to h2c": (_line("upgrade: h2c\r\nconnection: upgrade"), False),
    "no host": (_host("-"), False),
    "two hosts": (_line("host: a.com", "Host: other"), True),
    "an odd host": (_host("{h}/x", "{h}?x", "{h}#x", "a b", "\xe9", "a\\b", '"a"', "<a>", "a^b", "{a}"), False),
    "spaces around the host": (_host("{h} ", " {h}\t"), False),
    "a host that readers differ on": (_host("", "{h}:", "u@{h}", "{h}:x", ":80", "[::1"), True),
    "an absolute target": (
        _target("http://{h}{t}", "HTTP://a.com{t}", "https://other{t}", "http://b.com:80{t}"),
        False,
    ),
    "an absolute target without a path": (_target("http://a.com", "http://other"), False),
    "an odd absolute target": (_target("ftp://a.com{t}", "http://{t}", "http://a b/", "http:///x", "a.com:80"), False),
    "user information in the target": (_target("http://u@a.com{t}", "http://u:p@other{t}"), False),
    "an empty port in the target": (_target("http://a.com:{t}"), True),
    "a fragment": (_target("{t}#x", "#x", "/a#{t}", "http://a.com/#x"), False),
    "a question mark": (_target("{t}?", "/admin?", "/a??", "?a"), False),
    "an odd target": (_target("*", "admin", "\\admin", "/\x01", "/\x7f", "/\xe9", "/a b", "//a.com{t}"), False),
    "an odd path": (
        _target("/admin\\x", '/admin"', "/a|b", "/a^b", "/a{b}", "/%", "/%zz", "/a%2fb", "/x/../admin"),
        False,
    ),
    "an escaped control character": (_target("/admin%0a", "/admin%00", "/a%7f", "/admin%0D"), True),
    "dots with parameters": (_target("/x/..;/admin", "/a/.;x/b", "/x/%2e%2e;y/admin"), True),
    "an odd method": (_set("method", "FOO", "get", "F!O", "QUERY", "PRI", "M-SEARCH", "A" * 40), False),
    "a method of WebDAV": (_set("method", "PROPFIND", "TRACE", "SOURCE", "LINK", "SEARCH"), False),
    "CONNECT": (_set("method", "CONNECT"), False),
    "another version": (_set("version", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/0.9", ""), False),
    "tabs and spaces in the first line": (_set("version", "HTTP/1.1 ", "HTTP/1.1\t"), True),
    "chunks": (_chunked(b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\n\r\n"), False),
    "trailers": (_chunked(b"1\r\na\r\n0\r\n{n}: {v}\r\nx-forwarded-client-cert: z\r\n\r\n"), False),
    "odd chunks": (_chunked(b"+1\r\na\r\n0\r\n\r\n", b"0x1\r\na\r\n0\r\n\r\n", b"g\r\n\r\n"), True),
    "another coding": (_chunked(b"1\r\na\r\n0\r\n\r\n", coding="gzip, chunked"), False),
    "a coding that is none": (_chunked(b"1\r\na\r\n0\r\n\r\n", coding="xchunked"), False),
    "chunks and a length": (_length("content-length: 3|transfer-encoding: chunked", body=b"0\r\n\r\n"), False),
    "a length": (_length("content-length: 3"), False),
    "an odd length": (
        _length(
            "content-length: 3|content-length: 3",
            "content-length: 3, 3",
            "content-length: +3",
            "content-length: 0x3",
            "content-length: -3",
            "content-length:",
            "content-length: 3|content-length: 4",
        ),
        False,
    ),
    "many headers": (_many(100), True),
    "too many headers": (_many(101), True),
    "a long head": (_long(50_000), False),
    "too long a head": (_long(61_500), False),
}


def make_wire(rng: Random, request: Request) -> Wire:
    """A request with up to three oddities."""
    wire = Wire(request.method, request.target, request.authority)
    for name, value in request.headers:
        wire.add(f"{name}: {value}")
    for name in rng.sample(list(ODDITIES), rng.choice([0, 1, 1, 1, 2, 3])):
        ODDITIES[name][0](rng, wire)
        wire.oddities.append(name)
    return wire
