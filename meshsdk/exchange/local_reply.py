"""Answers that come from the mesh's policy, not from a server.

Statuses, bodies and flags are those of Envoy's local replies (source/common/router/router.cc; docs,
http_conn_man/response_code_details).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import NoHealthyEndpointError, NoRouteError, RequestError, RequestTimeoutError

__all__ = ["LocalReply"]


@dataclass(frozen=True, slots=True)
class LocalReply:
    """A response made here.

    Attributes:
        flag: Envoy's response flag; empty where the answer is what was configured (redirect, direct response).
        details: Envoy's response code details.
        error: What `local_replies="raise"` raises; None for answers that are no failure.
        delay_seconds: How long to hold it back (fault injection).
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    flag: str = ""
    details: str = ""
    error: RequestError | None = None
    delay_seconds: float = 0.0


def no_route(method: str, authority: str, path: str) -> LocalReply:
    """No virtual host or route matches."""
    error = NoRouteError(f"no route for {method} {path} at {authority}; `meshsdk route` shows why")
    return LocalReply(404, flag="NR", details="route_not_found", error=error)


def cluster_not_found(cluster: str, status: int) -> LocalReply:
    """The route's cluster is not there."""
    error = NoRouteError(f"cluster {cluster!r} of the route does not exist", status=status, flag="NC")
    return LocalReply(status, flag="NC", details="cluster_not_found", error=error)


def no_healthy_endpoint(cluster: str, problem: str) -> LocalReply:
    """The cluster has nobody to send to."""
    why = f": {problem}" if problem else ": all are unhealthy, or there are none"
    error = NoHealthyEndpointError(f"cluster {cluster} has no endpoint to pick{why}")
    return LocalReply(
        503,
        b"no healthy upstream",
        _TEXT,
        flag="UH",
        details="no_healthy_upstream",
        error=error,
    )


def request_timeout(seconds: float, *, per_try: bool) -> LocalReply:
    """The route's time, or the last attempt's, ran out before a response began."""
    error = RequestTimeoutError(f"no response in the {'attempt' if per_try else 'route'}'s {seconds:g} s")
    details = "upstream_per_try_timeout" if per_try else "response_timeout"
    return LocalReply(504, b"upstream request timeout", _TEXT, flag="UT", details=details, error=error)


def fault_abort(status: int, delay_seconds: float) -> LocalReply:
    """The fault filter aborts the request (source/extensions/filters/http/fault/fault_filter.cc)."""
    error = RequestError(f"aborted with {status} by fault injection", status=status, flag="FI")
    return LocalReply(
        status,
        b"fault filter abort",
        _TEXT,
        flag="FI",
        details="fault_filter_abort",
        error=error,
        delay_seconds=delay_seconds,
    )


_TEXT = ((b"content-type", b"text/plain"),)
