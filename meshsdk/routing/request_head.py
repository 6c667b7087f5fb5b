"""What of a request a decision may depend on."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["RequestHead"]

RawHeaders = Sequence[tuple[bytes, bytes]]

# Looking through the headers a few times costs less than decoding all of them.
_LOOKUPS_BEFORE_INDEX = 4


# Headers that Envoy knows by name and holds as one value, several joined (envoy/http/header_map.h, inline headers).
_JOINED = frozenset(
    "connection content-length content-type expect forwarded grpc-timeout keep-alive proxy-connection te"
    " transfer-encoding upgrade user-agent via x-client-trace-id x-envoy-attempt-count x-forwarded-client-cert"
    " x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-request-id".split()
)


class RequestHead:
    """Method, scheme, authority, path and headers of a request.

    Headers stay as the client library holds them; they are indexed only when something asks for one.

    Attributes:
        method: Upper case.
        scheme: `http` or `https`.
        authority: The Host header's value, or the URL's host and port.
        path: Without query string.
        target: Path with query string, as sent.
        raw_headers: Name and value pairs in order, names in any case.
    """

    __slots__ = ("_index", "_lookups", "authority", "method", "path", "raw_headers", "scheme", "target")

    def __init__(self, method: str, scheme: str, authority: str, target: str, raw_headers: RawHeaders = ()) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.target = target
        self.path = target.partition("?")[0] if "?" in target else target
        self.raw_headers = raw_headers
        self._index: dict[str, str] | None = None
        self._lookups = 0

    def header(self, name: str) -> str | None:
        """The value of a header by its lower-case name, several values joined with commas; None where it is missing.

        Pseudo-headers are `:method`, `:scheme`, `:authority`, `:path` (with query), and `host` is `:authority`, as in
        Envoy.
        """
        index = self._index
        if index is not None:
            return index.get(name)
        if self._lookups < _LOOKUPS_BEFORE_INDEX and name[:1] != ":" and name != "host":
            self._lookups += 1
            return self._scan(name.encode("latin-1", "replace"))
        index = self._index = self._make_index()
        return index.get(name)

    def _scan(self, wanted: bytes) -> str | None:
        size = len(wanted)
        values = [value for name, value in self.raw_headers if len(name) == size and name.lower() == wanted]
        return b",".join(values).decode("latin-1") if values else None

    def values(self, name: str) -> list[str]:
        """Every value of a header by its lower-case name, in order; one value where Envoy joins several."""
        if name[:1] == ":" or name == "host":
            only = self.header(name)
            return [] if only is None else [only]
        wanted, size = name.encode("latin-1", "replace"), len(name)
        found = [
            value.decode("latin-1") for key, value in self.raw_headers if len(key) == size and key.lower() == wanted
        ]
        return [",".join(found)] if len(found) > 1 and name in _JOINED else found

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

    def with_content_length(self, length: int) -> RequestHead:
        """The same request with a body of known length instead of chunks."""
        framing = (b"transfer-encoding", b"content-length")
        kept = [header for header in self.raw_headers if header[0].lower() not in framing]
        return self.with_headers([*kept, (b"content-length", b"%d" % length)])

    def _make_index(self) -> dict[str, str]:
        index: dict[str, str] = {}
        for raw_name, raw_value in self.raw_headers:
            name = raw_name.decode("latin-1").lower()
            value = raw_value.decode("latin-1")
            index[name] = f"{index[name]},{value}" if name in index else value
        index[":method"] = self.method
        index[":scheme"] = self.scheme
        index[":authority"] = self.authority
        index[":path"] = self.target
        index["host"] = self.authority
        return index

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
