"""What can go wrong with a request, in the engine's own words: those of httpx, whose users know them.

Each library's adapter gives its callers its own exception in the place of one of these (`library`). Those of the mesh
(`meshsdk.errors`) are one of these as well, so that the engine has one way to tell of a failure.
"""

from __future__ import annotations

from .. import errors
from ..exchange import Failure, LocalReply

__all__ = [
    "ConnectError",
    "ConnectTimeout",
    "DeadlineExceededError",
    "FromReply",
    "IdleTimeoutError",
    "LocalProtocolError",
    "PendingOverflowError",
    "PoolTimeout",
    "ReadError",
    "ReadTimeout",
    "RefusedStreamError",
    "RemoteProtocolError",
    "TransportError",
    "UnprocessedStreamError",
    "UnsupportedProtocol",
    "WriteError",
    "WriteTimeout",
    "as_transport_error",
    "own_error",
]


class TransportError(Exception):
    """A request got no response, or not all of it."""


class ConnectError(TransportError):
    """No connection could be opened."""


class ConnectTimeout(TransportError):
    """None was open in time."""


class PoolTimeout(TransportError):
    """There was no room for one in time."""


class ReadError(TransportError):
    """Reading the response failed."""


class ReadTimeout(TransportError):
    """It did not come in time."""


class WriteError(TransportError):
    """Sending the request failed."""


class WriteTimeout(TransportError):
    """The peer did not take it in time."""


class LocalProtocolError(TransportError):
    """The request is none that a peer would read as it was meant."""


class RemoteProtocolError(TransportError):
    """The response breaks the protocol."""


class UnsupportedProtocol(TransportError):
    """The URL is none of HTTP's."""


class FromReply:
    """An error in the place of an answer.

    Attributes:
        reply: The answer; None where there would have been none.
    """

    reply: LocalReply | None = None


class FailedRequestError(FromReply, errors.RequestError, TransportError):
    """A request error with no nearer kind."""


class RoutelessError(FromReply, errors.NoRouteError, ConnectError):
    """No route, as a failure to connect."""


class UnhealthyError(FromReply, errors.NoHealthyEndpointError, ConnectError):
    """No endpoint, as a failure to connect."""


class OpenCircuitError(FromReply, errors.CircuitOpenError, PoolTimeout):
    """A breaker is open: the pool has no room for the request."""


class RouteTimeoutError(FromReply, errors.RequestTimeoutError, ReadTimeout):
    """The route's timeout."""


class WrongPeerError(FromReply, errors.PeerIdentityError, ConnectError):
    """A wrong peer, as a failure to connect."""


class DeadlineExceededError(Exception):
    """A deadline of the route or of the attempt passed. Does not leave this package."""


class IdleTimeoutError(Exception):
    """No byte came in the route's idle time, or in the attempt's. Does not leave this package."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class PendingOverflowError(Exception):
    """A circuit breaker lets no further request wait for a connection. Does not leave this package."""


class RefusedStreamError(RemoteProtocolError):
    """The peer did not process the stream at all (RFC 9113 section 8.7); it may safely be sent again."""


class UnprocessedStreamError(RefusedStreamError):
    """The same, for a reason that is the connection's: it goes away, or takes fewer streams (RFC 9113 section 6.8).

    Sending the request over another connection is nothing that a policy must allow.
    """


_TWINS: dict[
    type[errors.RequestError],
    type[FailedRequestError]
    | type[RoutelessError]
    | type[UnhealthyError]
    | type[OpenCircuitError]
    | type[RouteTimeoutError]
    | type[WrongPeerError],
] = {
    errors.NoRouteError: RoutelessError,
    errors.NoHealthyEndpointError: UnhealthyError,
    errors.CircuitOpenError: OpenCircuitError,
    errors.RequestTimeoutError: RouteTimeoutError,
    errors.PeerIdentityError: WrongPeerError,
}


def as_transport_error(error: errors.RequestError, reply: LocalReply | None = None) -> errors.RequestError:
    """The same error as one of the engine's as well, which stands in the place of an answer."""
    twin = _TWINS.get(type(error), FailedRequestError)(str(error), status=error.status, flag=error.flag)
    twin.reply = reply
    return twin


_BY_NAME: dict[str, type[TransportError]] = {kind.__name__: kind for kind in TransportError.__subclasses__()}


def own_error(error: BaseException) -> BaseException:
    """What a library's own transport raised, in the engine's words; anything else as it is."""
    if isinstance(error, (TransportError, errors.RequestError)):
        return error
    for kind in type(error).__mro__:
        if kind.__module__ in ("httpx", "httpx2") and (kind.__name__ in _BY_NAME or kind.__name__ == "TransportError"):
            own = _BY_NAME.get(kind.__name__, TransportError)(str(error))
            own.__cause__ = error.__cause__
            return own
    return error
