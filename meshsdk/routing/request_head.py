"""What of a request a decision may depend on."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["RequestHead"]

RawHeaders = Sequence[tuple[bytes, bytes]]

# Looking through the headers a few times costs less than decoding all of them.
_LOOKUPS_BEFORE_INDEX = 4


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
            return self.scan(name.encode("latin-1", "replace"))
        index = self._index = self._make_index()
        return index.get(name)

    def scan(self, wanted: bytes) -> str | None:
        """The value of a header that is no pseudo-header, by its lower-case name in bytes."""
        size = len(wanted)
        values = [value for name, value in self.raw_headers if len(name) == size and name.lower() == wanted]
        return b",".join(values).decode("latin-1") if values else None

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
