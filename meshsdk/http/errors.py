"""Mesh errors that are httpx exceptions too, so that existing `except` clauses keep working."""

from __future__ import annotations

import httpx

from .. import errors
from ..exchange import Failure, LocalReply

__all__ = ["DeadlineExceededError", "FromReply", "RefusedStreamError", "UnprocessedStreamError", "as_httpx_error"]


class FromReply:
    """An error in the place of an answer.

    Attributes:
        reply: The answer; None where there would have been none.
    """

    reply: LocalReply | None = None


class HttpxRequestError(FromReply, errors.RequestError, httpx.TransportError):
    """A request error with no nearer kind."""


class HttpxNoRouteError(FromReply, errors.NoRouteError, httpx.ConnectError):
    """No route, as an httpx.ConnectError."""


class HttpxNoHealthyEndpointError(FromReply, errors.NoHealthyEndpointError, httpx.ConnectError):
    """No endpoint, as an httpx.ConnectError."""


class HttpxCircuitOpenError(FromReply, errors.CircuitOpenError, httpx.PoolTimeout):
    """A breaker is open, as an httpx.PoolTimeout: the pool has no room for the request."""


class HttpxRequestTimeoutError(FromReply, errors.RequestTimeoutError, httpx.ReadTimeout):
    """The route's timeout, as an httpx.ReadTimeout."""


class HttpxPeerIdentityError(FromReply, errors.PeerIdentityError, httpx.ConnectError):
    """A wrong peer, as an httpx.ConnectError."""


class DeadlineExceededError(Exception):
    """A deadline of the route or of the attempt passed. Does not leave this package."""


class IdleTimeoutError(Exception):
    """No byte came in the route's idle time, or in the attempt's. Does not leave this package."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class PendingOverflowError(Exception):
    """A circuit breaker lets no further request wait for a connection. Does not leave this package."""


class RefusedStreamError(httpx.RemoteProtocolError):
    """The peer did not process the stream at all (RFC 9113 section 8.7); it may safely be sent again."""


class UnprocessedStreamError(RefusedStreamError):
    """The same, for a reason that is the connection's: it goes away, or takes fewer streams (RFC 9113 section 6.8).

    Sending the request over another connection is nothing that a policy must allow.
    """


_TWINS: dict[
    type[errors.RequestError],
    type[HttpxRequestError]
    | type[HttpxNoRouteError]
    | type[HttpxNoHealthyEndpointError]
    | type[HttpxCircuitOpenError]
    | type[HttpxRequestTimeoutError]
    | type[HttpxPeerIdentityError],
] = {
    errors.NoRouteError: HttpxNoRouteError,
    errors.NoHealthyEndpointError: HttpxNoHealthyEndpointError,
    errors.CircuitOpenError: HttpxCircuitOpenError,
    errors.RequestTimeoutError: HttpxRequestTimeoutError,
    errors.PeerIdentityError: HttpxPeerIdentityError,
}


def as_httpx_error(error: errors.RequestError, reply: LocalReply | None = None) -> errors.RequestError:
    """The same error as an instance of the nearest httpx exception as well, which stands in the place of an answer."""
    twin = _TWINS.get(type(error), HttpxRequestError)(str(error), status=error.status, flag=error.flag)
    twin.reply = reply
    return twin
