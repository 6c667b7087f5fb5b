"""x-request-id of requests that go out, and what its 15th character says.

Theory of operation. A request id is a UUID whose first eight digits choose whether its request is sampled, the same on
all its way; the digit that says its version says the choice that was made: 4 none, 9 sampled, a forced, b asked for by
x-client-trace-id. Ids that are no UUIDs are left alone, and choose nothing where they do not begin with digits.

Source: Envoy source/extensions/request_id/uuid/config.cc.
"""

from __future__ import annotations

from collections.abc import Callable

from ..request_id import NAME, current, make_request_id
from ..resources.tracing import RequestIds
from .request_head import RequestHead

__all__ = ["NOT_TRACED", "compile_request_ids", "number_of", "reason_of", "with_reason"]

_UUID_LENGTH = 36
_REASON = 14
_REASONS = frozenset("9ab")
_HEX = frozenset("0123456789abcdefABCDEF")

NOT_TRACED = "4"


def compile_request_ids(ids: RequestIds) -> Callable[[RequestHead], None]:
    """A function that gives a client's request its id, where it has none: the inbound request's, or a new one."""
    generates = ids.generates

    def identify(head: RequestHead) -> None:
        raw = head.raw_headers
        for name, value in raw:
            # Written out, since every request comes by here.
            if len(name) == 12 and name.lower() == NAME:
                if value:
                    return
                raw = [header for header in raw if header[0].lower() != NAME]
        known = current.get()
        if known is None:
            if not generates:
                return
            known = make_request_id()
        head.set_headers([*raw, (NAME, known)])

    return identify


def number_of(request_id: str | None) -> int | None:
    """What shares are chosen by; None where an id does not begin with eight hexadecimal digits."""
    digits = request_id[:8] if request_id is not None else ""
    return int(digits, 16) if len(digits) == 8 and _HEX.issuperset(digits) else None


def reason_of(request_id: str) -> str:
    """Why a request is traced, as its id says it; empty where it says nothing."""
    if len(request_id) != _UUID_LENGTH:
        return ""
    reason = request_id[_REASON]
    return reason if reason in _REASONS else ""


def with_reason(request_id: str, reason: str) -> str:
    """An id that says why its request is traced; one that is no UUID stays as it is."""
    if len(request_id) != _UUID_LENGTH:
        return request_id
    return f"{request_id[:_REASON]}{reason}{request_id[_REASON + 1 :]}"
