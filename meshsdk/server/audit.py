"""Every denial as one event: in the log, and in a metric.

The log is bounded, since whoever is refused may try again and again: so many events a second, and how many were left
out. The metric counts all.
"""

from __future__ import annotations

import threading
import time

from ..exchange.local_reply import LocalReply
from ..inbound import InboundRequest
from ..log_lines import logger_of
from ..routing.timeouts import is_grpc
from ..telemetry.lookup import denial_counter

__all__ = ["audit"]

logger = logger_of("meshsdk.audit")

_EVENTS_A_SECOND = 20
_MAX_TEXT = 256

# What is a refusal by policy; redirects, preflights and direct responses are answers, and none.
_REFUSALS = (
    "rbac_",
    "jwt_authn_",
    "ext_authz_",
    "csrf_",
    "no_inbound_policy",
    "peer_not_accepted",
    "path_normalization_failed",
)


class _Window:
    """Events of the second that is under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._second = 0
        self._events = 0
        self._left_out = 0

    def admit(self) -> int | None:
        """How many events were left out before this one, or None where this one is left out."""
        with self._lock:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._events = second, 0
            self._events += 1
            if self._events > _EVENTS_A_SECOND:
                self._left_out += 1
                return None
            left_out, self._left_out = self._left_out, 0
            return left_out


_window = _Window()


def audit(request: InboundRequest, reply: LocalReply) -> LocalReply:
    """Record a refusal; the reply is given back as it is."""
    if not reply.details.startswith(_REFUSALS):
        return reply
    count = denial_counter()
    if count is not None:
        count(reply.details.partition("[")[0].partition("{")[0], reply.http_status or reply.status)
    left_out = _window.admit()
    if left_out is None:
        return reply
    head, connection = request.head, request.connection
    answer = reply.as_grpc() if is_grpc(head) else reply
    grpc_status = answer.grpc_status
    event = {
        "policy": _shown(reply.details),
        "status": answer.http_status or answer.status,
        "grpc_status": "-" if grpc_status is None else grpc_status,
        "peer": _shown(connection.principal) or "-",
        "source": connection.source_ip,
        "method": _shown(head.method),
        "authority": _shown(head.authority),
        "path": _shown(head.path),
        "flag": reply.flag or "-",
        "route": request.route_name or "-",
        "left_out": left_out,
    }
    logger.warning("denied: %s", " ".join(f"{name}={value!r}" for name, value in event.items()), extra={"mesh": event})
    return reply


def _shown(text: str) -> str:
    """Text from the network, bounded; control characters are escaped by its repr."""
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
