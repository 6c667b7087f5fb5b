"""Requests that servers let through, and that two readers might understand differently."""

from __future__ import annotations

import pytest

from meshsdk.resources.listener.request_rules import NO_RULES, RequestRules, Underscores
from meshsdk.routing import RequestHead
from meshsdk.server.hop_by_hop import take_away_nominated
from meshsdk.server.malformed import malformed
from meshsdk.server.request_target import origin_form

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
        (b"Transfer-Encoding", b"chunked"),
    ],
    ids=str,
)
def test_a_header_that_is_read_in_two_ways_is_refused(header: tuple[bytes, bytes]) -> None:
    given = [(b"transfer-encoding", b"xchunked")] if header[0] == b"Transfer-Encoding" else []
    reply = malformed(RequestHead("POST", "http", "web", "/", [HOST, *given, header]), NO_RULES)
    assert reply is not None
    assert reply.status == 400


@pytest.mark.parametrize("headers", [[HOST], [HOST, (b"content-length", b"3")], [HOST, (b"x", b"a"), (b"x", b"b")]])
def test_other_headers_are_not(headers: list[tuple[bytes, bytes]]) -> None:
    assert malformed(RequestHead("POST", "http", "web", "/", headers), NO_RULES) is None


@pytest.mark.parametrize(
    ("authority", "is_one"),
    [
        *[(one, True) for one in ("web", "web:80", "a_b.C-d.", "[::1]", "[fe80::1%25eth0]:443", "10.0.0.1", "a;b=c")],
        *[(one, False) for one in ("", ":80", "web:", "web:x", "web:123456", "web/x", "web?x", "web#x", "u@web")],
        *[(one, False) for one in ("[::1", "::1", "a b", "é", 'a"', "<a>", "a\\b", "{a}", "a^b", "a, a", "a,b")],
    ],
)
def test_a_host_is_a_name_or_an_address_and_maybe_a_port(authority: str, is_one: bool) -> None:
    head = RequestHead("GET", "http", authority, "/", [(b"host", authority.encode("latin-1"))])
    assert (malformed(head, NO_RULES) is None) is is_one


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/x?", 0),
        ("OPTIONS", "*", 0),
        ("PROPFIND", "/", 0),
        ("GET", "*", 400),
        ("GET", "x", 400),
        ("GET", "http://web/", 400),
        ("GET", "/x%0a", 400),
        ("GET", "/%7F", 400),
        ("GET", "/x?%0a", 0),
        ("FOO", "/", 400),
        ("QUERY", "/", 400),
        ("get", "/", 400),
        ("CONNECT", "/", 404),
    ],
)
def test_methods_and_targets_are_those_that_envoy_knows(method: str, target: str, status: int) -> None:
    reply = malformed(RequestHead(method, "http", "web", target, [HOST]), NO_RULES)
    assert (reply.status if reply is not None else 0) == status


@pytest.mark.parametrize(
    ("rules", "headers", "protocol", "status"),
    [
        (RequestRules(max_headers=2), [HOST, (b"x", b"1")], "1.1", 0),
        (RequestRules(max_headers=2), [HOST, (b"x", b"1"), (b"x", b"2")], "1.1", 431),
        (RequestRules(max_head_bytes=20), [HOST, (b"x", b"1")], "1.1", 0),
        (RequestRules(max_head_bytes=20), [HOST, (b"x", b"1" * 20)], "1.1", 431),
        (RequestRules(underscores=Underscores.REJECT_REQUEST), [HOST, (b"x_y", b"1")], "1.1", 400),
        (NO_RULES, [HOST, (b"x_y", b"1")], "1.1", 0),
        (NO_RULES, [HOST], "1.0", 426),
        (RequestRules(accepts_http_10=True), [HOST], "1.0", 0),
        (NO_RULES, [HOST], "2.0", 426),
        (NO_RULES, [HOST], "2", 0),
        (NO_RULES, [HOST, (b"transfer-encoding", b"gzip, chunked")], "1.1", 501),
        (NO_RULES, [HOST, (b"transfer-encoding", b"Chunked")], "1.1", 0),
    ],
)
def test_rules_of_the_connection_manager_hold(
    rules: RequestRules, headers: list[tuple[bytes, bytes]], protocol: str, status: int
) -> None:
    reply = malformed(RequestHead("GET", "http", "web", "/", headers), rules, protocol)
    assert (reply.status if reply is not None else 0) == status


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/x?y", b"/x?y", None),
        (b"http://b/x?y", b"/x?y", b"b"),
        (b"HTTPS://u:p@b:80", b"/", b"b:80"),
        (b"http://b?x", b"http://b?x", None),
        (b"http:///x", b"http:///x", None),
        (b"ftp://b/x", b"ftp://b/x", None),
        (b"http://a@b@c/x", b"http://a@b@c/x", None),
        (b"http://u*@b-c.d/x", b"/x", b"b-c.d"),
        (b"http://[::1]:80/x", b"/x", b"[::1]:80"),
        (b"http://b:65535", b"/", b"b:65535"),
        *((target, target, None) for target in (b"http://b*/x", b"http://b_c/x", b"http://b,c/x", b"http://b%41/x")),
        *(
            (target, target, None)
            for target in (b"http://b:/x", b"http://b:8a/x", b"http://b:65536/x", b"http://b=c/x")
        ),
        *((target, target, None) for target in (b"http://[::g]/x", b"http://[::1/x", b"http://\xe9/x")),
        (b"*", b"*", None),
        (b"//b/x", b"//b/x", None),
    ],
)
def test_a_target_in_absolute_form_names_its_host(target: bytes, path: bytes, host: bytes | None) -> None:
    assert origin_form(target) == (path, host)


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([(b"connection", b"close"), (b"x", b"1")], [b"connection", b"x"]),
        ([(b"connection", b"x"), (b"x", b"1")], [b"connection"]),
        ([(b"Connection", b"close, X , y"), (b"x", b"1"), (b"X", b"2")], [b"Connection"]),
        ([(b"connection", b"x"), (b"connection", b"close"), (b"x", b"1")], [b"connection", b"connection"]),
        ([(b"connection", b"te"), (b"te", b"trailers, gzip")], [b"connection", b"te"]),
        ([(b"connection", b"te"), (b"te", b"gzip")], [b"connection"]),
        ([(b"connection", b"upgrade"), (b"upgrade", b"h2c"), (b"http2-settings", b"x")], [b"connection"]),
        ([(b"connection", b"upgrade"), (b"upgrade", b"websocket")], [b"connection", b"upgrade"]),
        ([(b"connection", b"x-forwarded-for")], None),
        ([(b"connection", b"host")], None),
        ([(b"connection", b":path")], None),
        ([(b"connection", b"a,b,c,d,e,f,g,h,i,j")], None),
    ],
    ids=str,
)
def test_headers_that_connection_names_are_taken_away(
    headers: list[tuple[bytes, bytes]], kept: list[bytes] | None
) -> None:
    head = take_away_nominated(RequestHead("GET", "http", "web", "/", headers))
    assert (None if head is None else [name for name, _ in head.raw_headers]) == kept
