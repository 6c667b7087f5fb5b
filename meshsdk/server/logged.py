"""What an access log is told of a request that came to a server of this process.

A line says what a sidecar's would: the application is the upstream, its cluster is `inbound|PORT||`, as Istio calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..access_log import Entry, Headers, RemembersSteady, Steady
from ..exchange import LocalReply
from ..inbound import Connection, InboundPolicy, InboundRequest
from ..inbound.connection import address_text
from ..inbound.peer import connection_value
from ..resources import Listener, NonForwardingAction
from ..routing import CompiledRoute

__all__ = ["cluster_of", "entry_of", "listener_of"]

# How requests end that the application has taken up, by their flags.
_DETAILS = {
    "": "via_upstream",
    "DC": "downstream_remote_disconnect",
    "UC": "upstream_reset_after_response_started{connection_termination}",
}


class _OfServer:
    """What only servers know of a request."""

    __slots__ = ("_request",)

    def __init__(self, request: InboundRequest) -> None:
        self._request = request

    @property
    def metadata(self) -> Mapping[str, Mapping[str, Any]]:
        """See `access_log.OfServer`."""
        return self._request.metadata

    @property
    def route_metadata(self) -> Mapping[str, Mapping[str, Any]]:
        """See `access_log.OfServer`."""
        return self._request.route_metadata

    def ask(self, operator: str, arguments: str) -> str:
        """See `access_log.OfServer`."""
        request = self._request
        if operator == "DOWNSTREAM_REMOTE_ADDRESS" and b"x-forwarded-for" not in request.arrived.by_name():
            # In nearly every format, and nearly always the connection's own, which needs no look at addresses.
            connection = request.connection
            return address_text(connection.source_ip, connection.source_port)
        return connection_value(request, operator, arguments)


def entry_of(
    logs: RemembersSteady,
    request: InboundRequest,
    headers: Sequence[tuple[Any, Any]],
    reply: LocalReply | None,
    status: int,
    flags: str,
    sizes: tuple[int, int],
    timing: tuple[float, float, float | None],
) -> Entry:
    """The entry of a request that is over.

    Args:
        logs: What they know of others.
        request: As the application got it, or as it was refused.
        headers: Of the response, as bytes or, of a WSGI application, as text.
        reply: The answer in the application's place, if there is one.
        status, flags: How it ended.
        sizes: Bytes of the bodies of request and response.
        timing: When it ended, in seconds since the epoch; how long it took; and how long until the response's head.
    """
    head, connection, route = request.head, request.connection, request.route
    details = _DETAILS.get(flags, "via_upstream") if reply is None else reply.details
    key = (
        request.cluster,
        request.route_name,
        status,
        flags,
        details,
        route is None,
        head.method,
        head.authority,
        connection.destination_ip,
        connection.destination_port,
        connection.server_name,
        connection.protocol,
    )
    steady = logs.known.get(key)
    if steady is None:
        steady = Steady(head, status, flags, details, connection.protocol)
        steady.route = request.route_name
        if route is not None:
            steady.cluster = request.cluster or cluster_of(route, connection.destination_port)
        if reply is None:
            steady.host = address_text(connection.destination_ip, connection.destination_port)
            steady.attempts = 1
        logs.remember(key, steady)
    received, sent = sizes
    if reply is not None:
        # It is answered before its body is read, but for what a filter has asked for.
        received = len(request.body or b"")
    if head.method == "HEAD":
        sent = 0  # Whatever the application says, the server sends none of it.
    ended, seconds, to_head = timing
    return Entry(steady, head, _as_bytes(headers), (), received, sent, ended, seconds, to_head, _OfServer(request))


def listener_of(policy: InboundPolicy | None, connection: Connection) -> Listener | None:
    """What the listener says that a connection came by: its access logs, and the labels of its metrics."""
    chain = policy.chain_of(connection) if policy is not None else None
    return chain.manager.listener if chain is not None else None


def cluster_of(route: CompiledRoute, port: int) -> str:
    """Where a request would have gone that a filter has answered; empty where a route answers by itself."""
    if route.forward is not None:
        return route.forward.destinations[0].cluster
    return f"inbound|{port}||" if isinstance(route.route.action, NonForwardingAction) else ""


def _as_bytes(headers: Sequence[tuple[Any, Any]]) -> Headers:
    if headers and isinstance(headers[0][0], str):
        return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    return headers
