"""Spans of calls that go out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...control import Control
from ...exchange.request_changes import format_context
from ...request_id import NAME
from ...routing import RequestHead, RouteTable
from ..engine import TargetName, call_head
from ..traced import client_tags, native_decision
from .outgoing_call import OutgoingCall, to_headers

if TYPE_CHECKING:
    from ...telemetry.grpc_calls import GrpcClientObserver

__all__ = ["trace_call"]

_REQUEST_ID = NAME.decode()


def trace_call(
    call: OutgoingCall,
    observer: GrpcClientObserver,
    control: Control,
    method: str,
    target: TargetName | None,
    table: RouteTable | None = None,
) -> None:
    """Begin a call's span, and have the call carry its trace on.

    Args:
        call: Before it is sent.
        observer: Makes the span.
        control: The Mesh's.
        method: `/package.Service/Method`.
        target: Of the channel, where it is known.
        table: The target's routes; of a call that was decided its own are known.
    """
    exchange, authority = call.exchange, target.authority if target is not None else ""
    host, port = (target.host, target.port) if target is not None else ("", 0)
    name, context, traced = "", None, None
    if exchange is not None:
        head, traced = exchange.head, exchange.traced
        name = exchange.route.route.operation if exchange.route is not None else ""
        context = format_context(head, exchange.cluster, exchange.route, exchange.attempts, None)
    else:
        head = call_head(authority, method, to_headers(call.metadata or ()))
        traced, changed = native_decision(table, lambda: head)
        if changed is not None and changed is not head:
            head = changed
            call.metadata = _with_request_id(call.metadata or (), changed)
    call.observe(observer.start(method[1:], host, port, call.metadata, name=name, traced=traced))
    call.tags = client_tags(control, head, traced, context)


def _with_request_id(
    metadata: Iterable[tuple[str, str | bytes]], head: RequestHead
) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata whose request id says what was decided."""
    known = head.header(_REQUEST_ID) or ""
    return (*(entry for entry in metadata if entry[0] != _REQUEST_ID), (_REQUEST_ID, known))
