"""How long a request may take, from its route and its headers.

Sources: RouteAction.timeout, idle_timeout and max_stream_duration; Envoy docs, faq/configuration/timeouts; Envoy
source/common/router/router.cc (FilterUtility::finalTimeout); gRPC's grpc-timeout header (PROTOCOL-HTTP2).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from ..deadline import parse_grpc_timeout
from ..resources import ForwardAction, Listener, RetryPolicy, StreamDuration
from .request_head import RequestHead

__all__ = [
    "RouteTimeouts",
    "compile_timeouts",
    "format_grpc_timeout",
    "grpc_timeout_seconds",
    "is_grpc",
    "is_grpc_content",
]


class RouteTimeouts(Struct, frozen=True):
    """In seconds; None is no limit.

    Attributes:
        route: From the request to the response's head, retries included.
        per_try: The same for one attempt.
        idle: Without a byte from the upstream, in the whole request.
        per_try_idle: The same for one attempt; such an attempt may be retried.
        stream: From the request to the end of the response.
        announced: What is said to the upstream in grpc-timeout; None says nothing.
        shortest_idle, is_per_try_idle_shorter: The one of `idle` and `per_try_idle` that comes first.
    """

    route: float | None = None
    per_try: float | None = None
    idle: float | None = None
    per_try_idle: float | None = None
    stream: float | None = None
    announced: float | None = None
    shortest_idle: float | None = None
    is_per_try_idle_shorter: bool = False

    def settled(self) -> RouteTimeouts:
        """Ready for use: without a per-try timeout that could never come before the route's, and with the shorter of
        the two idle times worked out (FilterUtility::finalTimeout)."""
        per_try = self.per_try
        if per_try is not None and self.route is not None and per_try >= self.route:
            per_try = None
        is_shorter = self.per_try_idle is not None and (self.idle is None or self.per_try_idle < self.idle)
        return replace(
            self,
            per_try=per_try,
            shortest_idle=self.per_try_idle if is_shorter else self.idle,
            is_per_try_idle_shorter=is_shorter,
        )


Compute = Callable[[RequestHead], RouteTimeouts]


def compile_timeouts(
    action: ForwardAction, retry_policy: RetryPolicy | None, listener: Listener
) -> tuple[RouteTimeouts, Compute | None]:
    """A route's timeouts, and a function that works them out for a request where they depend on it."""
    duration = action.stream_duration or StreamDuration()
    idle = action.idle_timeout_seconds
    plain = RouteTimeouts(
        # Envoy: where a route has max_stream_duration, its timeout does not count (usingNewTimeouts).
        route=None if action.stream_duration is not None else action.timeout_seconds,
        per_try=retry_policy.per_try_timeout_seconds if retry_policy is not None else None,
        idle=listener.stream_idle_timeout_seconds if idle is None else idle or None,
        per_try_idle=retry_policy.per_try_idle_timeout_seconds if retry_policy is not None else None,
        stream=listener.max_stream_duration_seconds if duration.max_seconds is None else duration.max_seconds or None,
    ).settled()
    if action.stream_duration is None and action.max_grpc_timeout_seconds is None:
        return plain, None

    def for_request(head: RequestHead) -> RouteTimeouts:
        if not is_grpc(head):
            return plain
        asked = grpc_timeout_seconds(head)
        if action.stream_duration is not None:
            longest, stream = duration.grpc_timeout_header_max_seconds, plain.stream
            if longest is not None and asked is not None:
                stream = _less(min(asked, longest) if longest else asked, duration.grpc_timeout_header_offset_seconds)
            return replace(plain, stream=stream, announced=stream)
        wanted = _less(asked, action.grpc_timeout_offset_seconds) if asked is not None else None
        route = _bounded(wanted, action.max_grpc_timeout_seconds or 0.0)
        return replace(plain, route=route, announced=route).settled()

    return plain, for_request


def _less(seconds: float, offset: float) -> float:
    """RouteAction.grpc_timeout_offset: only where something is left."""
    return seconds - offset if offset < seconds else seconds


def _bounded(seconds: float | None, longest: float) -> float | None:
    """At most `longest`, where that is not 0; no timeout at all is `longest`, too."""
    if not longest:
        return seconds or None
    return longest if not seconds else min(seconds, longest)


def format_grpc_timeout(seconds: float) -> bytes:
    """A grpc-timeout header: eight digits at most, in milliseconds where that is enough."""
    milliseconds = max(1, round(seconds * 1000))
    for unit, size in ((b"m", 1), (b"S", 1000), (b"M", 60_000)):
        if milliseconds // size < 100_000_000:
            return b"%d%b" % (milliseconds // size, unit)
    return b"%dH" % (milliseconds // 3_600_000)


def grpc_timeout_seconds(head: RequestHead) -> float | None:
    """The grpc-timeout header; None where it is missing or is none."""
    value = head.header("grpc-timeout")
    return None if value is None else parse_grpc_timeout(value)


def is_grpc(head: RequestHead) -> bool:
    """Whether a request is gRPC (Envoy: Grpc::Common::isGrpcRequestHeaders)."""
    return is_grpc_content(head.header("content-type") or "")


def is_grpc_content(content_type: str) -> bool:
    """Whether a content type is gRPC's."""
    return content_type == "application/grpc" or content_type.startswith("application/grpc+")
