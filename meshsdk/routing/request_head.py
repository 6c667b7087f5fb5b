"""What of a request a decision may depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

__all__ = ["RequestHead"]

RawHeaders = Sequence[tuple[bytes, bytes]]

# Headers that Envoy knows by name and holds as one value, several joined (envoy/http/header_map.h, inline headers).
_JOINED = frozenset(
    "accept accept-encoding access-control-request-headers access-control-request-method"
    " access-control-request-private-network authorization cache-control connection content-encoding"
    " content-length content-type expect grpc-accept-encoding grpc-timeout if-match if-modified-since"
    " if-none-match if-range if-unmodified-since keep-alive origin pragma proxy-connection referer te"
    " transfer-encoding upgrade user-agent via x-client-trace-id x-envoy-attempt-count"
    " x-envoy-decorator-operation x-envoy-downstream-service-cluster x-envoy-downstream-service-node"
    " x-envoy-external-address x-envoy-is-timeout-retry x-envoy-original-path x-forwarded-client-cert"
    " x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-request-id".split()
)


class RequestHead:
    """Method, scheme, authority, path and headers of a request.

    Headers stay as the library that brought them holds them; they are indexed only when something asks for one.

    Attributes:
        method: Upper case.
        scheme: `http` or `https`.
        authority: The Host header's value, or the URL's host and port.
        path: Without query string.
        target: Path with query string, as sent.
        raw_headers: Name and value pairs in order, names in any case.
    """

    __slots__ = ("_by_name", "authority", "method", "path", "raw_headers", "scheme", "target")

    def __init__(self, method: str, scheme: str, authority: str, target: str, raw_headers: RawHeaders = ()) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.target = target
        self.path = target.partition("?")[0] if "?" in target else target
        self.raw_headers = raw_headers
        self._by_name: dict[bytes, bytes] | None = None

    def by_name(self) -> dict[bytes, bytes]:
        """The headers by their lower-case names; of several with one name the last. Not to be changed."""
        known = self._by_name
        if known is None:
            known = self._by_name = {name.lower(): value for name, value in self.raw_headers}
        return known

    def header(self, name: str) -> str | None:
        """The value of a header by its lower-case name, several values joined with commas; None where it is missing.

        Pseudo-headers are `:method`, `:scheme`, `:authority`, `:path` (with query), and `host` is `:authority`, as in
        Envoy.
        """
        if name in _PSEUDO_HEADERS:
            return _PSEUDO_HEADERS[name](self)
        wanted = name.encode("latin-1", "replace")
        value = self.by_name().get(wanted)
        if value is None:
            return None
        if not self.has_duplicates:
            return value.decode("latin-1")
        found = self._every(wanted)
        # An empty value adds nothing to those that are held as one (HeaderMapImpl::appendToHeader).
        return b",".join(filter(None, found) if name in _JOINED else found).decode("latin-1")

    def values(self, name: str) -> list[str]:
        """Every value of a header by its lower-case name, in order; one value where Envoy joins several."""
        if name in _PSEUDO_HEADERS:
            return [_PSEUDO_HEADERS[name](self)]
        wanted = name.encode("latin-1", "replace")
        value = self.by_name().get(wanted)
        if value is None:
            return []
        if not self.has_duplicates:
            return [value.decode("latin-1")]
        found = [one.decode("latin-1") for one in self._every(wanted)]
        return [",".join(filter(None, found))] if len(found) > 1 and name in _JOINED else found

    @property
    def has_duplicates(self) -> bool:
        """Whether a name stands more than once."""
        return len(self.by_name()) != len(self.raw_headers)

    def _every(self, wanted: bytes) -> list[bytes]:
        return [value for name, value in self.raw_headers if name.lower() == wanted]

    def first_header(self, name: str) -> str | None:
        """The first value of a header by its lower-case name, or None."""
        values = self.values(name)
        return values[0] if values else None

    def cookie(self, name: str) -> str:
        """The value of a cookie, as `find_cookie` has it; empty where it is missing."""
        return self.find_cookie(name) or ""

    def find_cookie(self, name: str) -> str | None:
        """The value of a cookie without its quotes; None where it is missing (Envoy: Utility::parseCookieValue)."""
        for line in self.values("cookie"):
            for part in line.split(";"):
                key, equals, value = part.strip().partition("=")
                if equals and key == name:
                    is_quoted = len(value) >= 2 and value[0] == value[-1] == '"'
                    return value[1:-1] if is_quoted else value
        return None

    def with_headers(self, raw_headers: RawHeaders) -> RequestHead:
        """The same request with other headers."""
        return RequestHead(self.method, self.scheme, self.authority, self.target, raw_headers)

    def set_headers(self, raw_headers: RawHeaders) -> None:
        """Give a request that nobody else has seen yet other headers."""
        self.raw_headers = raw_headers
        self._by_name = None

    def plus(self, name: bytes, value: bytes) -> RequestHead:
        """The same request with one header more, of a lower-case name that it did not have."""
        head = self.with_headers([*self.raw_headers, (name, value)])
        if self._by_name is not None:
            head._by_name = {**self._by_name, name: value}
        return head

    def replacing(self, name: bytes, value: bytes) -> RequestHead:
        """The same request with a header, by its lower-case name, that has this value only."""
        if name not in self.by_name():
            return self.plus(name, value)
        kept = [header for header in self.raw_headers if header[0].lower() != name]
        return self.with_headers([*kept, (name, value)])

    def with_content_length(self, length: int) -> RequestHead:
        """The same request with a body of known length instead of chunks."""
        framing = (b"transfer-encoding", b"content-length")
        kept = [header for header in self.raw_headers if header[0].lower() not in framing]
        return self.with_headers([*kept, (b"content-length", b"%d" % length)])

    @property
    def query(self) -> str:
        """The query string, without the question mark; empty where there is none."""
        return self.target.partition("?")[2]

    def query_parameter(self, name: str) -> str | None:
        """The first value of a query parameter, not decoded (Envoy: QueryParamsMulti::parseQueryString)."""
        for part in self.query.split("&"):
            key, _, value = part.partition("=")
            if key == name and part:
                return value
        return None


_PSEUDO_HEADERS: dict[str, Callable[[RequestHead], str]] = {
    ":method": attrgetter("method"),
    ":scheme": attrgetter("scheme"),
    ":authority": attrgetter("authority"),
    ":path": attrgetter("target"),
    "host": attrgetter("authority"),
}
