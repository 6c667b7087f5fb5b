"""When and how often a request is tried again (envoy.config.route.v3.RetryPolicy)."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..matching import HeaderMatcher, parse_header_matcher
from ..notes import Notes
from ..values import Metadatum, lb_criteria, optional, seconds, unpack

__all__ = [
    "RETRY_CONDITIONS",
    "RateLimitedBackOff",
    "RetryBackOff",
    "RetryOn",
    "RetryPolicy",
    "parse_retry_on",
    "parse_retry_policy",
]


class RetryOn(IntFlag):
    """Conditions under which a request is tried again (Envoy docs, http_filters/router_filter, x-envoy-retry-on)."""

    NONE = 0
    SERVER_ERROR = 1 << 0  # 5xx
    GATEWAY_ERROR = 1 << 1
    RESET = 1 << 2
    RESET_BEFORE_REQUEST = 1 << 3
    CONNECT_FAILURE = 1 << 4
    ENVOY_RATELIMITED = 1 << 5
    RETRIABLE_4XX = 1 << 6
    REFUSED_STREAM = 1 << 7
    RETRIABLE_STATUS_CODES = 1 << 8
    RETRIABLE_HEADERS = 1 << 9
    HTTP3_POST_CONNECT_FAILURE = 1 << 10
    GRPC_CANCELLED = 1 << 11
    GRPC_DEADLINE_EXCEEDED = 1 << 12
    GRPC_INTERNAL = 1 << 13
    GRPC_RESOURCE_EXHAUSTED = 1 << 14
    GRPC_UNAVAILABLE = 1 << 15


class RetryBackOff(Struct, frozen=True, gc=False):
    """Jittered exponential back-off between tries; Envoy's defaults are 25 ms and ten times the base."""

    base_seconds: float = 0.025
    max_seconds: float = 0.25


class RateLimitedBackOff(Struct, frozen=True, gc=False):
    """Back-off that a response's header asks for (RetryPolicy.RateLimitedRetryBackOff).

    Attributes:
        reset_headers: Name, and whether the value is a Unix time rather than a number of seconds.
        max_seconds: A longer wait than this falls back to the exponential back-off.
    """

    reset_headers: tuple[tuple[str, bool], ...]
    max_seconds: float = 300.0


class RetryPolicy(Struct, frozen=True, gc=False):
    """When and how often a request is tried again (envoy.config.route.v3.RetryPolicy).

    Attributes:
        omit_canary_hosts: Retries do not go to endpoints marked as canaries (envoy.lb: {canary: true}).
        omit_host_metadata: Retries do not go to endpoints that carry all of these values under `envoy.lb`.
        retry_other_priorities: Retries go to priorities not tried before (previous_priorities), which are worked out
            anew each so many attempts; None leaves the priorities as they are.
    """

    conditions: RetryOn = RetryOn.NONE
    num_retries: int = 1
    per_try_timeout_seconds: float | None = None
    per_try_idle_timeout_seconds: float | None = None
    retriable_status_codes: frozenset[int] = frozenset()
    retriable_headers: tuple[HeaderMatcher, ...] = ()
    retriable_request_headers: tuple[HeaderMatcher, ...] = ()
    back_off: RetryBackOff = RetryBackOff()
    rate_limited_back_off: RateLimitedBackOff | None = None
    avoid_previous_hosts: bool = False
    omit_canary_hosts: bool = False
    omit_host_metadata: tuple[tuple[str, Metadatum], ...] = ()
    host_selection_attempts: int = 1
    retry_other_priorities: int | None = None


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

_HOST_PREDICATES = "envoy.extensions.retry.host"
_PREVIOUS_HOSTS = f"{_HOST_PREDICATES}.previous_hosts.v3.PreviousHostsPredicate"
_OMIT_CANARY = f"{_HOST_PREDICATES}.omit_canary_hosts.v3.OmitCanaryHostsPredicate"
_OMIT_METADATA = f"{_HOST_PREDICATES}.omit_host_metadata.v3.OmitHostMetadataConfig"
_PREVIOUS_PRIORITIES = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"

_ACTED_ON = frozenset(
    "retry_on num_retries per_try_timeout per_try_idle_timeout retriable_status_codes retriable_headers"
    " retriable_request_headers retry_back_off rate_limited_retry_back_off retry_host_predicate retry_priority"
    " host_selection_retry_max_attempts".split()
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
    hosts = {predicate.typed_config.type_url.rpartition("/")[2] for predicate in message.retry_host_predicate}
    for kind in hosts - {_PREVIOUS_HOSTS, _OMIT_CANARY, _OMIT_METADATA}:
        raise ResourceError(f"{where}.retry_host_predicate", f"{kind} is a predicate that meshsdk does not know")
    return RetryPolicy(
        conditions=conditions,
        num_retries=1 if retries is None else retries,
        # RetryPolicy.per_try_timeout: zero is the route's timeout.
        per_try_timeout_seconds=seconds(message, "per_try_timeout") or None,
        per_try_idle_timeout_seconds=seconds(message, "per_try_idle_timeout") or None,
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
        rate_limited_back_off=_parse_rate_limited(message, where),
        avoid_previous_hosts=_PREVIOUS_HOSTS in hosts,
        omit_canary_hosts=_OMIT_CANARY in hosts,
        omit_host_metadata=_parse_omitted_metadata(message, where),
        host_selection_attempts=message.host_selection_retry_max_attempts or 1,
        retry_other_priorities=_parse_retry_priority(message, where),
    )


def _parse_omitted_metadata(message: Any, where: str) -> tuple[tuple[str, Metadatum], ...]:
    for index, predicate in enumerate(message.retry_host_predicate):
        if predicate.typed_config.type_url.endswith(_OMIT_METADATA):
            path = f"{where}.retry_host_predicate[{index}].typed_config"
            config = unpack(predicate.typed_config, protos.omit_host_metadata_config_pb2.OmitHostMetadataConfig, path)
            return lb_criteria(config.metadata_match)
    return ()


def _parse_retry_priority(message: Any, where: str) -> int | None:
    if not message.HasField("retry_priority"):
        return None
    container, path = message.retry_priority.typed_config, f"{where}.retry_priority.typed_config"
    if not container.type_url.endswith(_PREVIOUS_PRIORITIES):
        raise ResourceError(path, f"{container.type_url!r} is a retry priority that meshsdk does not know")
    config = unpack(container, protos.previous_priorities_config_pb2.PreviousPrioritiesConfig, path)
    return int(config.update_frequency) or 1


def _parse_rate_limited(message: Any, where: str) -> RateLimitedBackOff | None:
    if not message.HasField("rate_limited_retry_back_off"):
        return None
    back_off = message.rate_limited_retry_back_off
    longest = seconds(back_off, "max_interval")
    return RateLimitedBackOff(
        reset_headers=tuple((header.name.lower(), header.format == 1) for header in back_off.reset_headers),
        max_seconds=300.0 if longest is None else longest,
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
