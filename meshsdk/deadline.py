"""How much time this process has left for what it was asked: the deadline of the inbound request, for outbound ones.

A request that comes in with a time limit (grpc-timeout, or a header over HTTP) leaves less time to each request that
is made on its behalf. The limit travels in a context variable: through awaits and asyncio tasks by itself, into other
threads by `contextvars.copy_context().run`. Both engines bound what goes out by it and pass on what is left.

Sources: gRPC's deadline propagation (grpc.io docs, guides/deadlines); grpc-timeout (gRPC PROTOCOL-HTTP2);
x-envoy-expected-rq-timeout-ms (Envoy docs, http_filters/router_filter).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import re2

__all__ = ["bounded", "current", "limit", "limit_from_headers", "of_headers", "parse_grpc_timeout", "remaining"]

current: ContextVar[float | None] = ContextVar("meshsdk_deadline", default=None)
"""The deadline, on `time.monotonic`'s clock; None where nobody has set a limit."""

# Eight digits of hours are eleven thousand years; beyond that a header is not a time limit but an attack or an error.
_GRPC_TIMEOUT = re2.compile("([0-9]{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MILLISECONDS = re2.compile("[0-9]{1,12}")


def remaining() -> float | None:
    """Seconds left of the inbound request's time, 0 where it is over; None where it has no limit."""
    deadline = current.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


@contextmanager
def limit(seconds: float | None) -> Iterator[None]:
    """Within this block outbound requests have at most `seconds`; an earlier limit stays.

    Args:
        seconds: From now on; None changes nothing.
    """
    if seconds is None:
        yield
        return
    deadline, before = time.monotonic() + seconds, current.get()
    token = current.set(deadline if before is None else min(before, deadline))
    try:
        yield
    finally:
        # A generator may be closed in another context than it ran in; there is nothing to undo there.
        with suppress(ValueError):
            current.reset(token)


@contextmanager
def limit_from_headers(headers: Mapping[str, str]) -> Iterator[None]:
    """`limit` by what an inbound HTTP request says: grpc-timeout, else x-envoy-expected-rq-timeout-ms.

    Args:
        headers: Of the request, by lower-case name or in a mapping that ignores case, as web frameworks have them.
    """
    with limit(of_headers(headers.get)):
        yield


def of_headers(header: Callable[[str], str | None]) -> float | None:
    """The seconds that an inbound HTTP request gives.

    Args:
        header: Looks a header up by its lower-case name.

    Returns:
        Seconds; None where the request says nothing of time.
    """
    text = header("grpc-timeout")
    seconds = parse_grpc_timeout(text) if text else None
    if seconds is not None:
        return seconds
    text = header("x-envoy-expected-rq-timeout-ms")
    if not text:
        return None
    milliseconds = int(text) if _MILLISECONDS.fullmatch(text) else 0
    # Envoy leaves the header out where there is no limit; 0 is its way to say so in configuration.
    return milliseconds / 1000 if milliseconds else None


def bounded(timeout: float | None) -> float | None:
    """The shorter of a timeout and what is left.

    Args:
        timeout: In seconds; None is none.

    Returns:
        Seconds; None where there is neither.
    """
    deadline = current.get()
    if deadline is None:
        return timeout
    left = max(0.0, deadline - time.monotonic())
    return left if timeout is None or left < timeout else timeout


def parse_grpc_timeout(value: str) -> float | None:
    """The seconds of a grpc-timeout header's value.

    Args:
        value: Such as `200m`.

    Returns:
        Seconds; None where it is no such value.
    """
    match = _GRPC_TIMEOUT.fullmatch(value)
    return None if match is None else int(match[1]) * _UNITS[match[2]]
