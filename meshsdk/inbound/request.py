"""A request on its way through the filters."""

from __future__ import annotations

from collections.abc import Callable

from ..routing import RequestHead
from .connection import Address, Connection, parse_address

__all__ = ["InboundRequest"]

Headers = list[tuple[bytes, bytes]]
ResponseChange = Callable[[Headers, int], Headers]


class InboundRequest:
    """What filters see of a request, and what they make of it.

    Attributes:
        head: As filters before have left it.
        connection: That it came by.
        remote: Whom it comes from: the connection's peer, or whom X-Forwarded-For names where that is believed.
        metadata: What filters tell later ones, by filter.
        response_changes: What filters do to the headers of the answer, in the order of the filters.
        audit: What was decided and why, for the log: pairs of name and value.
        body: What was read of it; None where nothing was.
        max_body_bytes: The longest that the application is given; None is no limit.
    """

    __slots__ = (
        "audit",
        "body",
        "connection",
        "head",
        "max_body_bytes",
        "metadata",
        "remote",
        "response_changes",
        "route_name",
    )

    def __init__(self, head: RequestHead, connection: Connection) -> None:
        self.head = head
        self.connection = connection
        self.remote: Address | None = parse_address(connection.source_ip)
        self.metadata: dict[str, dict[str, object]] = {}
        self.response_changes: list[ResponseChange] = []
        self.audit: list[tuple[str, str]] = []
        self.body: bytes | None = None
        self.max_body_bytes: int | None = None
        self.route_name = ""

    def set_header(self, name: bytes, value: bytes) -> None:
        """Set a request header, whatever it was."""
        kept = [header for header in self.head.raw_headers if header[0].lower() != name]
        self.head = self.head.with_headers([*kept, (name, value)])

    def remove_header(self, name: bytes) -> None:
        """Remove a request header."""
        headers = self.head.raw_headers
        kept = [header for header in headers if header[0].lower() != name]
        if len(kept) != len(headers):
            self.head = self.head.with_headers(kept)

    def with_target(self, target: str) -> None:
        """Give the request another path and query."""
        head = self.head
        self.head = RequestHead(head.method, head.scheme, head.authority, target, head.raw_headers)
