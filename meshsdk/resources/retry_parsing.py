"""envoy.config.route.v3.RetryPolicy: protobuf to data."""

from __future__ import annotations

from typing import Any

from ..errors import ResourceError
from .matchers import parse_header_matcher
from .notes import Notes
from .route import RetryBackOff, RetryOn, RetryPolicy
from .values import optional, seconds

__all__ = ["RETRY_CONDITIONS", "parse_retry_on", "parse_retry_policy"]

RETRY_CONDITIONS: dict[str, RetryOn] = {
    "5xx": RetryOn.SERVER_ERROR,
    "gateway-error": RetryOn.GATEWAY_ERROR,
    "reset": RetryOn.RESET,
    "reset-before-request": RetryOn.RESET_BEFORE_REQUEST,
    "connect-failure": RetryOn.CONNECT_FAILURE,
    "envoy-ratelimited": RetryOn.ENVOY_RATELIMITED,
    "retriable-4xx": RetryOn.RETRIABLE_4XX,
    "refused-stream": RetryOn.REFUSED_STREAM,
    "retriable-status-codes": RetryOn.RETRIABLE_STATUS_CODES,
    "retriable-headers": RetryOn.RETRIABLE_HEADERS,
    "http3-post-connect-failure": RetryOn.HTTP3_POST_CONNECT_FAILURE,
    "cancelled": RetryOn.GRPC_CANCELLED,
    "deadline-exceeded": RetryOn.GRPC_DEADLINE_EXCEEDED,
    "internal": RetryOn.GRPC_INTERNAL,
    "resource-exhausted": RetryOn.GRPC_RESOURCE_EXHAUSTED,
    "unavailable": RetryOn.GRPC_UNAVAILABLE,
}

_PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"

_ACTED_ON = frozenset(
    "retry_on num_retries per_try_timeout retriable_status_codes retriable_headers retriable_request_headers"
    " retry_back_off retry_host_predicate host_selection_retry_max_attempts".split()
)


def parse_retry_on(text: str) -> tuple[RetryOn, list[str]]:
    """A comma-separated retry_on: its conditions, and the words that are none (Envoy ignores those)."""
    conditions, unknown = RetryOn.NONE, []
    for word in filter(None, (word.strip() for word in text.split(","))):
        if word in RETRY_CONDITIONS:
            conditions |= RETRY_CONDITIONS[word]
        else:
            unknown.append(word)
    return conditions, unknown


def parse_retry_policy(message: Any, where: str, notes: Notes) -> RetryPolicy:
    """A checked RetryPolicy."""
    notes.unless_acted_on(message, where, _ACTED_ON)
    conditions, unknown = parse_retry_on(message.retry_on)
    for word in unknown:
        notes.add(f"{where}.retry_on", f"{word!r} is not a condition that meshsdk knows")
    retries = optional(message, "num_retries")
    hosts = [predicate.typed_config.type_url for predicate in message.retry_host_predicate]
    for index, type_url in enumerate(hosts):
        if not type_url.endswith(_PREVIOUS_HOSTS):
            notes.add(f"{where}.retry_host_predicate[{index}]", "is not acted on")
    return RetryPolicy(
        conditions=conditions,
        num_retries=1 if retries is None else retries,
        # RetryPolicy.per_try_timeout: zero is the route's timeout.
        per_try_timeout_seconds=seconds(message, "per_try_timeout") or None,
        retriable_status_codes=frozenset(message.retriable_status_codes),
        retriable_headers=tuple(
            parse_header_matcher(header, f"{where}.retriable_headers[{index}]")
            for index, header in enumerate(message.retriable_headers)
        ),
        retriable_request_headers=tuple(
            parse_header_matcher(header, f"{where}.retriable_request_headers[{index}]")
            for index, header in enumerate(message.retriable_request_headers)
        ),
        back_off=_parse_back_off(message, where),
        avoid_previous_hosts=any(type_url.endswith(_PREVIOUS_HOSTS) for type_url in hosts),
        host_selection_attempts=message.host_selection_retry_max_attempts or 1,
    )


def _parse_back_off(message: Any, where: str) -> RetryBackOff:
    if not message.HasField("retry_back_off"):
        return RetryBackOff()
    back_off = message.retry_back_off
    # Envoy counts in milliseconds, and takes anything below one as one.
    base = max(seconds(back_off, "base_interval") or 0.0, 0.001)
    longest = seconds(back_off, "max_interval")
    if longest is None:
        return RetryBackOff(base, base * 10)
    if longest < base:
        raise ResourceError(f"{where}.retry_back_off.max_interval", "must not be below base_interval")
    return RetryBackOff(base, longest)
