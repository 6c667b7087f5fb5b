"""Whether and when to try again.

Conditions are Envoy's (docs, http_filters/router_filter, x-envoy-retry-on and x-envoy-retry-grpc-on;
source/common/router/retry_state_impl.cc). tenacity drives the retries: it is asked only after a first attempt failed,
so that a request that succeeds pays nothing for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..balancing import Cluster, Endpoint
from ..balancing.context import PickContext
from ..resources import HeaderMatcher, RetryPolicy
from ..resources.route import RetryOn
from ..resources.values import frozen
from ..routing import CompiledForward
from ..routing.conditions import compile_header, no_chance
from ..routing.request_head import RequestHead
from .outcome import Failure, Outcome

__all__ = ["asked_back_off", "conditions_met", "pick_for_retry", "refuses", "retrying", "should_retry", "surely_stands"]

if TYPE_CHECKING:
    import tenacity

R = TypeVar("R", bound="tenacity.BaseRetrying")

_BY_FAILURE: dict[Failure, RetryOn] = {
    # 5xx: "also any connection failure, reset or timeout"; gateway-error is the same for 502, 503 and 504.
    Failure.CONNECT: RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.CONNECT_FAILURE | RetryOn.RESET,
    Failure.RESET: RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.RESET,
    Failure.REFUSED_STREAM: RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.RESET | RetryOn.REFUSED_STREAM,
    Failure.PER_TRY_TIMEOUT: RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.RESET,
    Failure.PER_TRY_IDLE_TIMEOUT: RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.RESET,
    Failure.ROUTE_TIMEOUT: RetryOn.NONE,
    Failure.IDLE_TIMEOUT: RetryOn.NONE,
    Failure.STREAM_DURATION: RetryOn.NONE,
    # Envoy never retries what a circuit breaker refused (RetryStateImpl::wouldRetryFromReset).
    Failure.OVERFLOW: RetryOn.NONE,
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
    return not matchers or any(compile_header(matcher).holds(head, no_chance) for matcher in matchers)


def pick_for_retry(
    context: PickContext, cluster: Cluster, policy: RetryPolicy, previous: tuple[Endpoint, ...]
) -> Endpoint | None:
    """RetryPolicy.retry_priority chooses where, and retry_host_predicate refuses picks, up to so many."""
    frequency = policy.retry_other_priorities
    tried = previous[: len(previous) // frequency * frequency] if frequency is not None else ()

    def pick() -> Endpoint | None:
        return cluster.pick_elsewhere(context, tried) if tried else cluster.pick(context)

    endpoint = pick()
    for _ in range(policy.host_selection_attempts):
        if endpoint is None or not refuses(policy, endpoint, previous):
            break
        context.pick_number += 1
        endpoint = pick()
    return endpoint


def surely_stands(
    forward: CompiledForward | None, policy: RetryPolicy | None, status: int, headers: Sequence[tuple[bytes, bytes]]
) -> bool:
    """Whether a response surely stands; a quick look, which may say no of one that does."""
    if forward is None:
        return True
    redirect = forward.internal_redirect
    if redirect is not None and status in redirect.statuses:
        return False
    if policy is None:
        return True
    if policy is not forward.retry_policy:
        return False
    if status >= 400 or status in forward.retriable_statuses:
        return False
    wanted = forward.retriable_headers
    return not wanted or not any(name.lower() in wanted for name, _ in headers)


def refuses(policy: RetryPolicy, endpoint: Endpoint, previous: Collection[Endpoint]) -> bool:
    """Whether a predicate of the policy wants another endpoint for a retry (RetryPolicy.retry_host_predicate)."""
    if policy.avoid_previous_hosts and endpoint in previous:
        return True
    if not (policy.omit_canary_hosts or policy.omit_host_metadata):
        return False
    values = endpoint.config.metadata.get("envoy.lb", {})
    if policy.omit_canary_hosts and values.get("canary") is True:
        return True
    wanted = policy.omit_host_metadata
    return bool(wanted) and all(key in values and frozen(values[key]) == value for key, value in wanted)


def _any_header(matchers: tuple[HeaderMatcher, ...], outcome: Outcome) -> bool:
    for matcher in matchers:
        value = outcome.header(matcher.name)
        pair = [] if value is None else [(matcher.name.encode("latin-1"), value.encode("latin-1", "replace"))]
        if compile_header(matcher).holds(RequestHead("", "", "", "", pair), no_chance):
            return True
    return False


def asked_back_off(policy: RetryPolicy, header: Callable[[str], str | None], wall_time: float) -> float | None:
    """The wait that a response asks for (RetryPolicy.rate_limited_retry_back_off), in seconds; None for none."""
    limited = policy.rate_limited_back_off
    if limited is None:
        return None
    for name, is_time in limited.reset_headers:
        value = header(name)
        if value is not None and value.isdecimal() and value.isascii() and len(value) <= 12:
            seconds = int(value) - wall_time if is_time else float(int(value))
            if 0 < seconds <= limited.max_seconds:
                return seconds
    return None


def retrying(
    kind: Callable[..., R],
    policy: RetryPolicy,
    wants_retry: Callable[[Any], bool],
    sleep: Callable[[float], Any],
    asked: Callable[[], float | None],
    random_fraction: Callable[[], float] = random.random,
) -> R:
    """tenacity's loop for one request.

    Its first turn is the attempt that has already failed; each later one is a new attempt. The delay before retry n
    is uniform between 0 and base * 2**(n-1), at most max (Envoy: JitteredExponentialBackOffStrategy).

    Args:
        kind: `tenacity.Retrying` or `tenacity.AsyncRetrying`.
        policy: Gives the back-off.
        wants_retry: Asked with what each turn returned.
        sleep: How to wait, by the engine's means.
        asked: The wait that the last response asked for, or None.
        random_fraction: Uniform in [0, 1).
    """
    import tenacity  # When it is needed: only a failure pays for it.

    back_off = policy.back_off

    def wait(state: tenacity.RetryCallState) -> float:
        seconds = asked()
        if seconds is not None:
            # Envoy: up to half as much again, by chance (JitteredLowerBoundBackOffStrategy).
            return seconds * (1 + random_fraction() / 2)
        longest = min(back_off.base_seconds * 2.0 ** min(state.attempt_number - 1, 32), back_off.max_seconds)
        return random_fraction() * longest

    return kind(
        retry=tenacity.retry_if_result(wants_retry),
        wait=wait,
        stop=tenacity.stop_never,
        sleep=sleep,
    )
