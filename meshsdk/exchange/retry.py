"""Whether and when to try again.

Conditions are Envoy's (docs, http_filters/router_filter, x-envoy-retry-on and x-envoy-retry-grpc-on;
source/common/router/retry_state_impl.cc). tenacity drives the retries: it is asked only after a first attempt failed,
so that a request that succeeds pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..resources import HeaderMatcher, RetryPolicy
from ..resources.route import RetryOn
from ..routing.conditions import compile_header
from ..routing.request_head import RequestHead
from .outcome import Failure, Outcome

__all__ = ["conditions_met", "retrying", "should_retry"]

if TYPE_CHECKING:
    import tenacity

R = TypeVar("R", bound="tenacity.BaseRetrying")

_BY_FAILURE: dict[Failure, RetryOn] = {
    # 5xx: "also any connection failure, reset or timeout"; gateway-error is the same for 502, 503 and 504.
    Failure.CONNECT: RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.CONNECT_FAILURE | RetryOn.RESET,
    Failure.RESET: RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.RESET,
    Failure.REFUSED_STREAM: RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.RESET | RetryOn.REFUSED_STREAM,
    Failure.PER_TRY_TIMEOUT: RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.RESET,
    Failure.ROUTE_TIMEOUT: RetryOn.NONE,
}

_BY_GRPC_STATUS: dict[str, RetryOn] = {
    "1": RetryOn.GRPC_CANCELLED,
    "4": RetryOn.GRPC_DEADLINE_EXCEEDED,
    "8": RetryOn.GRPC_RESOURCE_EXHAUSTED,
    "13": RetryOn.GRPC_INTERNAL,
    "14": RetryOn.GRPC_UNAVAILABLE,
}


def conditions_met(outcome: Outcome) -> RetryOn:
    """Every condition that the outcome meets, apart from those that need the policy's own lists."""
    if outcome.failure is not None:
        met = _BY_FAILURE[outcome.failure]
        if not outcome.request_began:
            met |= RetryOn.RESET_BEFORE_REQUEST
        return met
    status = outcome.status or 0
    met = RetryOn.NONE
    if status >= 500:
        met |= RetryOn.SERVER_ERROR
    if status in (502, 503, 504):
        met |= RetryOn.GATEWAY_ERROR
    if status == 409:
        met |= RetryOn.RETRIABLE_4XX
    return met | _BY_GRPC_STATUS.get(outcome.header("grpc-status") or "", RetryOn.NONE)


def should_retry(policy: RetryPolicy, outcome: Outcome) -> bool:
    """Whether `outcome` is one that `policy` retries. Pure: counting attempts and time is the caller's."""
    wanted = policy.conditions
    if outcome.failure is None and outcome.header("x-envoy-ratelimited") is not None:
        # A rate-limited response is retried for that reason or not at all.
        return bool(wanted & RetryOn.ENVOY_RATELIMITED)
    if wanted & conditions_met(outcome):
        return True
    if outcome.status is None:
        return False
    if wanted & RetryOn.RETRIABLE_STATUS_CODES and outcome.status in policy.retriable_status_codes:
        return True
    return bool(wanted & RetryOn.RETRIABLE_HEADERS) and _any_header(policy.retriable_headers, outcome)


def may_retry_request(policy: RetryPolicy, head: RequestHead) -> bool:
    """RetryPolicy.retriable_request_headers: where there are some, one must match for the request to be retried."""
    matchers = policy.retriable_request_headers
    return not matchers or any(compile_header(matcher).holds(head, _never) for matcher in matchers)


def _any_header(matchers: tuple[HeaderMatcher, ...], outcome: Outcome) -> bool:
    for matcher in matchers:
        value = outcome.header(matcher.name)
        pair = [] if value is None else [(matcher.name.encode("latin-1"), value.encode("latin-1", "replace"))]
        if compile_header(matcher).holds(RequestHead("", "", "", "", pair), _never):
            return True
    return False


def _never() -> float:
    return 1.0


def retrying(
    kind: Callable[..., R], policy: RetryPolicy, wants_retry: Callable[[Any], bool], sleep: Callable[[float], Any]
) -> R:
    """tenacity's loop for one request.

    Its first turn is the attempt that has already failed; each later one is a new attempt. The delay before retry n
    is uniform between 0 and base * 2**(n-1), at most max (Envoy: JitteredExponentialBackOffStrategy).

    Args:
        kind: `tenacity.Retrying` or `tenacity.AsyncRetrying`.
        policy: Gives the back-off.
        wants_retry: Asked with what each turn returned.
        sleep: How to wait, by the engine's means.
    """
    import tenacity  # When it is needed: only a failure pays for it.

    back_off = policy.back_off
    return kind(
        retry=tenacity.retry_if_result(wants_retry),
        wait=tenacity.wait_random_exponential(multiplier=back_off.base_seconds, max=back_off.max_seconds),
        stop=tenacity.stop_never,
        sleep=sleep,
    )
