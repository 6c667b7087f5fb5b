"""Filters that act before the router: faults and rate limits.

Sources: Envoy docs, http_filters/fault_filter and http_filters/local_rate_limit_filter;
source/extensions/filters/http/fault/fault_filter.cc.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from ..resources import Fault, FractionalPercent, LocalRateLimit
from ..routing import RequestHead
from ..routing.compiled_filters import CompiledFault, CompiledFilters, FaultTally
from ..routing.token_bucket import TokenBucket
from .local_reply import LocalReply, fault_abort, rate_limited

__all__ = ["PASSED", "FilterVerdict", "Over", "limit_reply", "over_limit", "run_fault", "run_filters"]

RandomFraction = Callable[[], float]

_DELAY = "x-envoy-fault-delay-request"
_ABORT = "x-envoy-fault-abort-request"
_ABORT_GRPC = "x-envoy-fault-abort-grpc-request"


class FilterVerdict(Struct, frozen=True):
    """What filters have to say: how long to hold the request, and an answer in the upstream's place.

    Attributes:
        tally: Told when a request that is held up goes on, where it counts.
    """

    delay_seconds: float = 0.0
    reply: LocalReply | None = None
    tally: FaultTally | None = None


PASSED = FilterVerdict()


def run_filters(
    filters: CompiledFilters,
    head: RequestHead,
    cluster: str,
    random_fraction: RandomFraction,
    clock: Callable[[], float] = time.monotonic,
) -> FilterVerdict:
    """Carry out the filters that may answer in the upstream's place: rate limits, then faults."""
    for bucket in filters.rate_limits:
        if over_limit(bucket, random_fraction, clock()) is Over.ENFORCED:
            return FilterVerdict(reply=limit_reply(bucket))
    delay, tally = 0.0, None
    for one in filters.faults:
        verdict = run_fault(one, head, cluster, random_fraction, delay)
        if verdict.delay_seconds:
            delay, tally = delay + verdict.delay_seconds, one.tally
        if verdict.reply is not None:
            return _held_up(delay, replace(verdict.reply, tally=tally), tally)
    return _held_up(delay, None, tally) if delay else PASSED


def run_fault(
    one: CompiledFault, head: RequestHead, cluster: str, random_fraction: RandomFraction, delayed: float = 0.0
) -> FilterVerdict:
    """What one fault does to a request that others before it have held up for `delayed` seconds; counts nothing."""
    fault = one.fault
    if fault.upstream_cluster and fault.upstream_cluster != cluster:
        return PASSED
    seen = one.seen(head)
    if not all(condition.holds(seen, random_fraction) for condition in one.headers):
        return PASSED
    if fault.max_active is not None and one.tally.active >= fault.max_active:
        return PASSED
    seconds = _delay(fault, seen, random_fraction)
    return FilterVerdict(seconds, _abort(fault, seen, delayed + seconds, random_fraction))


def _held_up(delay: float, reply: LocalReply | None, tally: FaultTally | None) -> FilterVerdict:
    if tally is not None:
        tally.begin()
    return FilterVerdict(delay, reply, tally)


def _delay(fault: Fault, head: RequestHead, random_fraction: RandomFraction) -> float:
    seconds = fault.delay_seconds
    if fault.delay_by_header:
        milliseconds = _number(head.header(_DELAY))
        if milliseconds is None:
            return 0.0
        seconds = milliseconds / 1000
    if not seconds:
        return 0.0
    falls = _falls(fault.delay_share, head, f"{_DELAY}-percentage", fault.delay_by_header, random_fraction)
    return seconds if falls else 0.0


def _abort(fault: Fault, head: RequestHead, delay: float, random_fraction: RandomFraction) -> LocalReply | None:
    status, grpc_status = fault.abort_status, fault.abort_grpc_status
    if fault.abort_by_header:
        asked = _number(head.header(_ABORT))
        status = asked if asked is not None and 200 <= asked < 600 else 0
        grpc_status = _number(head.header(_ABORT_GRPC)) if not status else None
    if not status and grpc_status is None:
        return None
    if not _falls(fault.abort_share, head, f"{_ABORT}-percentage", fault.abort_by_header, random_fraction):
        return None
    return fault_abort(status, grpc_status, delay)


def _falls(
    share: FractionalPercent, head: RequestHead, header: str, by_header: bool, random_fraction: RandomFraction
) -> bool:
    """Whether chance picks this request; a header may lower the configured share, never raise it."""
    numerator = share.numerator
    if by_header:
        asked = _number(head.header(header))
        if asked is not None:
            numerator = min(asked, numerator)
    return random_fraction() < numerator / share.denominator


def _number(value: str | None) -> int | None:
    if value is None or not value.isdecimal() or not value.isascii() or len(value) > 15:
        return None
    return int(value)


class Over(Enum):
    """Where a request stands to a rate limit."""

    NO = 0
    NOT_ENFORCED = 1
    ENFORCED = 2


def over_limit(bucket: TokenBucket[LocalRateLimit], random_fraction: RandomFraction, now: float) -> Over:
    """Whether the limit is reached; it takes no token from requests that it is not enabled for."""
    limit = bucket.limit
    if random_fraction() >= limit.enabled.share or bucket.take(now):
        return Over.NO
    return Over.NOT_ENFORCED if random_fraction() >= limit.enforced.share else Over.ENFORCED


def limit_reply(bucket: TokenBucket[LocalRateLimit]) -> LocalReply:
    """The refusal of a request over the limit."""
    limit = bucket.limit
    headers = tuple((one.name.encode("latin-1"), one.value.encode("latin-1")) for one in limit.response_headers.add)
    return rate_limited(limit.status, headers)
