"""x-envoy-* request headers by which a caller inside the mesh changes how its request is carried out.

Source: Envoy docs, http_filters/router_filter (HTTP headers consumed). They are taken off before the request goes out.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..resources import HeaderMatcher, HeaderMatchKind, RetryPolicy
from ..resources.route import RetryOn, parse_retry_on
from ..routing import RequestHead
from ..routing.timeouts import RouteTimeouts

__all__ = ["has_caller_headers", "retry_policy_for", "timeouts_for", "without_caller_headers"]

_RETRY_ON = "x-envoy-retry-on"
_RETRY_GRPC_ON = "x-envoy-retry-grpc-on"
_MAX_RETRIES = "x-envoy-max-retries"
_STATUS_CODES = "x-envoy-retriable-status-codes"
_HEADER_NAMES = "x-envoy-retriable-header-names"
_TIMEOUT = "x-envoy-upstream-rq-timeout-ms"
_PER_TRY_TIMEOUT = "x-envoy-upstream-rq-per-try-timeout-ms"
_HEDGE = "x-envoy-hedge-on-per-try-timeout"

_CONSUMED = frozenset(
    name.encode()
    for name in (
        _RETRY_ON,
        _RETRY_GRPC_ON,
        _MAX_RETRIES,
        _STATUS_CODES,
        _HEADER_NAMES,
        _TIMEOUT,
        _PER_TRY_TIMEOUT,
        _HEDGE,
    )
)
_GRPC_CONDITIONS = (
    RetryOn.GRPC_CANCELLED
    | RetryOn.GRPC_DEADLINE_EXCEEDED
    | RetryOn.GRPC_INTERNAL
    | RetryOn.GRPC_RESOURCE_EXHAUSTED
    | RetryOn.GRPC_UNAVAILABLE
)


# Names that were looked at before and are none of them. A process uses few; more are looked at anew.
_other_names: set[bytes] = set()
_MAX_OTHER_NAMES = 2048
_MAX_OTHER_NAME_BYTES = 64


def has_caller_headers(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether one of them is there; a quick look, which may say yes too often."""
    # Written out, since every request comes by here.
    for name, _ in headers:
        if name not in _other_names:
            if name[:8].lower() == b"x-envoy-":
                return True
            if len(_other_names) < _MAX_OTHER_NAMES and len(name) <= _MAX_OTHER_NAME_BYTES:
                _other_names.add(name)
    return False


def without_caller_headers(head: RequestHead) -> RequestHead:
    """The request as it may go out."""
    return head.with_headers([header for header in head.raw_headers if header[0].lower() not in _CONSUMED])


def retry_policy_for(head: RequestHead, policy: RetryPolicy | None) -> RetryPolicy | None:
    """The route's retry policy with what the caller asks for (source/common/router/retry_state_impl.cc)."""
    http, grpc = head.header(_RETRY_ON), head.header(_RETRY_GRPC_ON)
    if policy is None:
        if http is None and grpc is None:
            return None
        policy = RetryPolicy()
    asked = RetryOn.NONE
    if http is not None:
        asked |= parse_retry_on(http)[0] & ~_GRPC_CONDITIONS
    if grpc is not None:
        asked |= parse_retry_on(grpc)[0] & _GRPC_CONDITIONS
    retries = _number(head, _MAX_RETRIES)
    statuses = frozenset(int(word) for word in (head.header(_STATUS_CODES) or "").split(",") if _is_status(word))
    names = tuple(name.strip().lower() for name in (head.header(_HEADER_NAMES) or "").split(",") if name.strip())
    if not (asked or retries is not None or statuses or names):
        return policy
    return replace(
        policy,
        conditions=policy.conditions | asked,
        num_retries=policy.num_retries if retries is None else retries,
        retriable_status_codes=policy.retriable_status_codes | statuses,
        retriable_headers=policy.retriable_headers
        + tuple(HeaderMatcher(name, HeaderMatchKind.PRESENT) for name in names),
    )


def timeouts_for(head: RequestHead, timeouts: RouteTimeouts) -> RouteTimeouts:
    """The route's timeouts with those that the caller sets; zero is no limit."""
    whole, per_try = _number(head, _TIMEOUT), _number(head, _PER_TRY_TIMEOUT)
    if whole is not None:
        timeouts = replace(timeouts, route=whole / 1000 or None)
    if per_try is not None:
        timeouts = replace(timeouts, per_try=per_try / 1000 or None)
    return timeouts.settled()


def hedges(head: RequestHead, configured: bool) -> bool:
    """Whether a per-try timeout starts another attempt beside the slow one."""
    value = head.header(_HEDGE)
    return configured if value is None else value == "true"


def _number(head: RequestHead, name: str) -> int | None:
    value = (head.header(name) or "").strip()
    return int(value) if value.isdecimal() and value.isascii() and len(value) <= 15 else None


def _is_status(word: str) -> bool:
    word = word.strip()
    return word.isdecimal() and word.isascii() and len(word) <= 3
