"""What an access log is told of one request, client or server alike, when it is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..routing import RequestHead
from ..routing.formatter import FormatContext

__all__ = ["Entry"]

Headers = Sequence[tuple[bytes, bytes]]
Metadata = Mapping[str, Mapping[str, Any]]


class Entry:
    """One request that is over. Formats and filters read it at once, so nothing in it is copied.

    Attributes:
        head: The request as it went on: with the changes of its route and of filters.
        headers: Of the response as the caller got it; None where there was none.
        trailers: Of the response.
        status: HTTP's; 0 where no response began.
        flags: Envoy's, in the order in which they were set, with commas; empty for none.
        details: Envoy's response code details.
        received, sent: Bytes of the bodies of request and response.
        ended: In seconds since the epoch.
        seconds: From the first byte of the request to the last of the response.
        seconds_to_head: To the head of the upstream's response; None where no upstream answered.
        cluster, route: By name; empty where there is none.
        host: Address of the endpoint that was tried last; empty where there was none.
        attempts: How many were made.
        failure: Why a connection came to nothing.
        hostname: The endpoint's, where it has one.
        own_address: Our side of the connection to it.
        protocol: That the request came by.
        cluster_metadata, host_metadata: Of the cluster and of the endpoint.
        dynamic_metadata, route_metadata: What filters and the route said, in a server.
        downstream: The value of an operator with its arguments that is about a server's connection; None in a client.
    """

    __slots__ = (
        "_context",
        "attempts",
        "cluster",
        "cluster_metadata",
        "details",
        "downstream",
        "dynamic_metadata",
        "ended",
        "failure",
        "flags",
        "head",
        "headers",
        "host",
        "host_metadata",
        "hostname",
        "own_address",
        "protocol",
        "received",
        "route",
        "route_metadata",
        "seconds",
        "seconds_to_head",
        "sent",
        "status",
        "trailers",
    )

    def __init__(
        self,
        head: RequestHead,
        headers: Headers | None,
        status: int,
        flags: str,
        details: str,
        received: int,
        sent: int,
        ended: float,
        seconds: float,
        seconds_to_head: float | None,
    ) -> None:
        self.head = head
        self.headers = headers
        self.status = status
        self.flags = flags
        self.details = details
        self.received = received
        self.sent = sent
        self.ended = ended
        self.seconds = seconds
        self.seconds_to_head = seconds_to_head
        self.trailers: Headers = ()
        self.cluster = self.route = self.host = self.failure = self.hostname = self.own_address = ""
        self.attempts = 0
        self.protocol = "HTTP/1.1"
        self.cluster_metadata: Metadata | None = None
        self.host_metadata: Metadata | None = None
        self.dynamic_metadata: Metadata | None = None
        self.route_metadata: Metadata | None = None
        self.downstream: Callable[[str, str], str] | None = None
        self._context: FormatContext | None = None

    @property
    def started(self) -> float:
        """In seconds since the epoch."""
        return self.ended - self.seconds

    @property
    def milliseconds(self) -> int:
        """That it took."""
        return int(self.seconds * 1000)

    def response_header(self, name: bytes) -> bytes | None:
        """The first value of a header by its lower-case name."""
        for key, value in self.headers or ():
            if key == name or key.lower() == name:
                return value
        return None

    @property
    def context(self) -> FormatContext:
        """The same for operators that values of headers have, too."""
        if self._context is None:
            self._context = FormatContext(
                self.head,
                self.cluster,
                route=self.route,
                upstream_address=self.host,
                upstream_hostname=self.hostname,
                cluster_metadata=self.cluster_metadata,
                upstream_metadata=self.host_metadata,
                status=self.status,
                attempts=self.attempts,
                flags=self.flags,
                details=self.details,
                started=self.started,
                dynamic_metadata=self.dynamic_metadata,
                route_metadata=self.route_metadata,
                downstream=self.downstream,
            )
        return self._context
