"""A request on its way through the filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from types import EllipsisType

from ..routing import CompiledRoute, RequestHead
from ..routing.tracing import Traced
from .connection import Address, Connection, parse_address

__all__ = ["ROUTER", "InboundRequest"]

Headers = list[tuple[bytes, bytes]]
ResponseChange = Callable[[Headers, int], Headers]

DoneCallback = Callable[[int | None, int | None], None]

# The place of the router, which is the last filter.
ROUTER = 1_000_000

_place = itemgetter(0)

_SAYS_NOTHING: Mapping[str, Mapping[str, object]] = {}


def _peer_address(request: InboundRequest) -> Address | None:
    return parse_address(request.connection.source_ip)


class InboundRequest:
    """What filters see of a request, and what they make of it.

    Attributes:
        head: As filters before have left it.
        arrived: As it came.
        connection: That it came by.
        find_remote: Finds `remote`, when it is asked for first.
        metadata: What filters tell later ones, by filter.
        filter_state: What they keep under a name.
        response_changes: What filters do to the headers of the answer, each with the filter's place in the chain.
        audit: What was decided and why, for the log: pairs of name and value.
        body: What was read of it; None where nothing was.
        route, route_name, route_metadata: That was found; what it says for filters, by filter.
        cluster: That the route leads to, where it forwards.
        max_body_bytes: The longest that the application is given; None is no limit.
        on_done: Who is told how the request ended.
        is_clean: What only proxies may say was taken out of it, and it has its id.
        request_id: That goes on in what is sent on its behalf; None where it has none.
        traced: What was decided of its trace; None leaves it to the application's OpenTelemetry.
    """

    __slots__ = (
        "_remote",
        "arrived",
        "audit",
        "body",
        "cluster",
        "connection",
        "filter_state",
        "find_remote",
        "head",
        "is_clean",
        "max_body_bytes",
        "metadata",
        "on_done",
        "request_id",
        "response_changes",
        "route",
        "route_metadata",
        "route_name",
        "traced",
    )

    def __init__(self, head: RequestHead, connection: Connection) -> None:
        self.head = head
        self.arrived = head
        self.connection = connection
        self.find_remote: Callable[[InboundRequest], Address | None] = _peer_address
        self._remote: Address | EllipsisType | None = ...
        self.metadata: dict[str, dict[str, object]] = {}
        self.filter_state: dict[str, str | Address] = {}
        self.response_changes: list[tuple[int, ResponseChange]] = []
        self.audit: list[tuple[str, str]] = []
        self.body: bytes | None = None
        self.max_body_bytes: int | None = None
        self.route: CompiledRoute | None = None
        self.route_name = self.cluster = ""
        self.route_metadata: Mapping[str, Mapping[str, object]] = _SAYS_NOTHING
        self.on_done: list[DoneCallback] = []
        self.is_clean = False
        self.request_id: bytes | None = None
        self.traced: Traced | None = None

    @property
    def remote(self) -> Address | None:
        """Whom it comes from: the connection's peer, or whom X-Forwarded-For names where that is believed."""
        if self._remote is ...:
            self._remote = self.find_remote(self)
        return self._remote

    @property
    def remote_port(self) -> int:
        """Of `remote`; 0 where that is an address that X-Forwarded-For told, which has none."""
        connection = self.connection
        return connection.source_port if str(self.remote or "") == connection.source_ip else 0

    def changed_response(self, headers: Headers, status: int) -> Headers:
        """The headers of an answer, as they leave: the filters change them from the last to the first."""
        changes = self.response_changes
        if len(changes) > 1:
            changes = sorted(changes, key=_place, reverse=True)
        for _, change in changes:
            headers = change(headers, status)
        return headers

    def done(self, status: int | None, grpc_status: int | None = None) -> None:
        """The request is over; told once.

        Args:
            status: Of the answer; None where there is none, or not all of it.
            grpc_status: Of a gRPC call.
        """
        while self.on_done:
            self.on_done.pop()(status, grpc_status)

    def set_header(self, name: bytes, value: bytes) -> None:
        """Set a request header, whatever it was. What could begin a new line is taken out: values come from others."""
        if b"\r" in value or b"\n" in value or b"\0" in value:
            value = value.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
        self.head = self.head.replacing(name.lower(), value)

    def remove_header(self, name: bytes) -> None:
        """Remove a request header."""
        name = name.lower()
        if name in self.head.by_name():
            kept = [header for header in self.head.raw_headers if header[0].lower() != name]
            self.head = self.head.with_headers(kept)

    def with_target(self, target: str) -> None:
        """Give the request another path and query."""
        head = self.head
        self.head = RequestHead(head.method, head.scheme, head.authority, target, head.raw_headers)
