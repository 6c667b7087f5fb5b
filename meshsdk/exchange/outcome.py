"""How one attempt ended."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

__all__ = ["OUTLIER_FAILURES", "TIMEOUTS", "Failure", "Outcome", "http_status_of"]


class Failure(Enum):
    """Why an attempt brought no response. Values are Envoy's response flags (access_log/usage, RESPONSE_FLAGS)."""

    CONNECT = "UF"
    RESET = "UC"
    REFUSED_STREAM = "UR"
    PER_TRY_TIMEOUT = "UPT"
    PER_TRY_IDLE_TIMEOUT = "UPI"
    ROUTE_TIMEOUT = "UT"
    IDLE_TIMEOUT = "SI"
    STREAM_DURATION = "DT"
    OVERFLOW = "UO"


TIMEOUTS = frozenset(
    {
        Failure.PER_TRY_TIMEOUT,
        Failure.PER_TRY_IDLE_TIMEOUT,
        Failure.ROUTE_TIMEOUT,
        Failure.IDLE_TIMEOUT,
        Failure.STREAM_DURATION,
    }
)

# What is the endpoint's fault; a stream that was refused was not even begun, and an overflow is ours.
OUTLIER_FAILURES = frozenset({Failure.CONNECT, Failure.RESET, Failure.REFUSED_STREAM}) | TIMEOUTS


def _no_header(name: str) -> str | None:
    return None


class Outcome(Struct, frozen=True):
    """A response's head, or a failure.

    Attributes:
        status: HTTP status, or None where there was no response.
        failure: Why there was none.
        request_began: Whether any byte of the request may have reached the peer.
        can_replay: Whether the request's body can be sent once more.
        header: Looks a response header up by lower-case name.
    """

    status: int | None = None
    failure: Failure | None = None
    request_began: bool = True
    can_replay: bool = True
    header: Callable[[str], str | None] = _no_header


# Envoy: Grpc::Utility::grpcToHttpStatus.
_HTTP_STATUSES = {
    0: 200,
    1: 499,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    14: 503,
    16: 401,
}


def http_status_of(outcome: Outcome) -> int:
    """The HTTP status of a response; that which its gRPC status means, where it has one."""
    grpc_status = outcome.header("grpc-status") if outcome.status == 200 else None
    if grpc_status is not None and grpc_status.isdecimal() and grpc_status.isascii() and len(grpc_status) < 4:
        return _HTTP_STATUSES.get(int(grpc_status), 500)
    return outcome.status or 0
