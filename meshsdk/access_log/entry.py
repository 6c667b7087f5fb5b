"""What an access log is told of one request, client or server alike, when it is over.

What most requests have in common with others (where they went, how they ended) is apart from what is a request's own:
formats fill it in once and keep what comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..routing import RequestHead
from ..routing.formatter import FormatContext

__all__ = ["Entry", "Headers", "OfServer", "RemembersSteady", "Steady", "size_of"]

Headers = Sequence[tuple[bytes, bytes]]
Metadata = Mapping[str, Mapping[str, Any]]


class Steady:
    """What many requests have in common.

    Attributes:
        method, authority: Of the request as it went on.
        status: HTTP's; 0 where no response began.
        flags: Envoy's, in the order in which they were set, with commas; empty for none.
        details: Envoy's response code details.
        protocol: That the request came by.
        cluster, route: By name; empty where there is none.
        attempts: How many were made.
        host, hostname: Address of the endpoint that was tried last, and its name; empty where there was none.
        own_address: Our side of the connection to it.
        failure: Why a connection came to nothing.
        cluster_metadata, host_metadata: Of the cluster and of the endpoint.
        filled: What formats have made of it.
    """

    __slots__ = (
        "attempts",
        "authority",
        "cluster",
        "cluster_metadata",
        "details",
        "failure",
        "filled",
        "flags",
        "host",
        "host_metadata",
        "hostname",
        "method",
        "own_address",
        "protocol",
        "route",
        "status",
    )

    def __init__(self, head: RequestHead, status: int, flags: str, details: str, protocol: str = "HTTP/1.1") -> None:
        self.method = head.method
        self.authority = head.authority
        self.status = status
        self.flags = flags
        self.details = details
        self.protocol = protocol
        self.cluster = self.route = self.host = self.hostname = self.own_address = self.failure = ""
        self.attempts = 0
        self.cluster_metadata: Metadata | None = None
        self.host_metadata: Metadata | None = None
        self.filled: dict[object, str] = {}


class RemembersSteady(Protocol):
    """Whatever keeps what requests have in common: access logs, or metrics whose labels come from requests."""

    known: dict[Any, Any]

    def remember(self, key: Any, steady: Steady, /) -> Steady:
        """Keep it by a key."""


class OfServer(Protocol):
    """What only servers know of a request."""

    @property
    def metadata(self) -> Metadata:
        """What filters said."""

    @property
    def route_metadata(self) -> Metadata:
        """What the route says for filters."""

    def ask(self, operator: str, arguments: str) -> str:
        """The value of an operator with its arguments that is about the connection; empty where there is none."""


class Entry:
    """One request that is over. Formats and filters read it at once, so nothing in it is copied.

    Attributes:
        steady: What it has in common with others.
        head: The request as it went on: with the changes of its route and of filters.
        headers, trailers: Of the response as the caller got it.
        received, sent: Bytes of the bodies of request and response.
        ended: In seconds since the epoch.
        seconds: From the first byte of the request to the last of the response.
        seconds_to_head: To the head of the upstream's response; None where no upstream answered.
        of_server: What only servers know; None in a client.
        names: The request's headers by their lower-case names; of several with one name the last.
    """

    __slots__ = (
        "ended",
        "head",
        "headers",
        "names",
        "of_server",
        "received",
        "seconds",
        "seconds_to_head",
        "sent",
        "steady",
        "trailers",
    )

    def __init__(
        self,
        steady: Steady,
        head: RequestHead,
        headers: Headers,
        trailers: Headers,
        received: int,
        sent: int,
        ended: float,
        seconds: float,
        seconds_to_head: float | None,
        of_server: OfServer | None = None,
    ) -> None:
        self.steady = steady
        self.head = head
        self.headers = headers
        self.trailers = trailers
        self.received = received
        self.sent = sent
        self.ended = ended
        self.seconds = seconds
        self.seconds_to_head = seconds_to_head
        self.of_server = of_server
        self.names = head.by_name()

    @property
    def status(self) -> int:
        """HTTP's; 0 where no response began."""
        return self.steady.status

    @property
    def milliseconds(self) -> int:
        """That it took."""
        return int(self.seconds * 1000)

    def response_header(self, name: bytes) -> bytes | None:
        """The first value of a header by its lower-case name."""
        for key, value in self.headers:
            if key == name or key.lower() == name:
                return value
        return None

    def ask(self, operator: str, arguments: str = "") -> str:
        """The value of an operator that is about a server's connection; empty in a client."""
        return self.of_server.ask(operator, arguments) if self.of_server is not None else ""

    @property
    def context(self) -> FormatContext:
        """The same for operators that values of headers have, too."""
        steady, of_server = self.steady, self.of_server
        return FormatContext(
            self.head,
            steady.cluster,
            route=steady.route,
            upstream_address=steady.host,
            upstream_hostname=steady.hostname,
            cluster_metadata=steady.cluster_metadata,
            upstream_metadata=steady.host_metadata,
            status=steady.status,
            attempts=steady.attempts,
            flags=steady.flags,
            details=steady.details,
            started=self.ended - self.seconds,
            dynamic_metadata=of_server.metadata if of_server is not None else None,
            route_metadata=of_server.route_metadata if of_server is not None else None,
            downstream=of_server.ask if of_server is not None else None,
        )


# What an entry takes besides its headers, and what it refers to.
_ENTRY_BYTES = 1024


def size_of(entry: Entry) -> int:
    """About how much memory an entry holds while it waits."""
    size = _ENTRY_BYTES + len(entry.head.target)
    for name, value in entry.head.raw_headers:
        size += len(name) + len(value)
    for name, value in entry.headers:
        size += len(name) + len(value)
    return size
