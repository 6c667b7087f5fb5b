"""What spans say of gRPC calls, in the words of a sidecar's, for clients and servers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from ..control import Control
from ..inbound import InboundRequest
from ..inbound.peer import format_context
from ..routing import RequestHead, RouteTable
from ..routing.formatter import FormatContext
from ..routing.tracing import Traced
from ..telemetry.span_tags import SpanTags, grpc_tags, outcome_tags, request_tags

__all__ = ["client_tags", "native_decision", "server_tags"]

_NO_TAGS = SpanTags({}, {})

_NUMBERS = {code.name: str(code.value[0]) for code in grpc.StatusCode}

Tags = Callable[[str, str, str, str], Mapping[str, str]]


def native_decision(
    table: RouteTable | None, head: Callable[[], RequestHead]
) -> tuple[Traced | None, RequestHead | None]:
    """What configuration says of the trace of a call that grpc-core finds its way for, and the call as it then is."""
    if table is None or table.tracing is None:
        return None, None
    changed, traced = table.tracing.decide(head(), random.random)
    return traced, changed


def client_tags(control: Control, head: RequestHead, traced: Traced | None, context: FormatContext | None) -> Tags:
    """What makes the tags of a call that goes out of the name and message of its status, its cluster and its flag."""

    def tags(code: str, details: str, cluster: str, flag: str) -> Mapping[str, str]:
        configured = traced.tracing.tags(context or FormatContext(head, cluster)) if traced is not None else None
        own = control.span_tags.with_configured(configured)
        return {**own, **_tags(head, "", code, details, cluster, flag)}

    return tags


def server_tags(
    control: Control | None, request: InboundRequest | None, method: str, code: str, details: str
) -> Mapping[str, str]:
    """The tags of a call that came in."""
    traced = request.traced if request is not None else None
    configured = traced.tracing.tags(format_context(request)) if traced is not None and request is not None else None
    own = (control.span_tags if control is not None else _NO_TAGS).with_configured(configured)
    head = request.head if request is not None else RequestHead("POST", "http", "", method)
    peer = request.connection.source_ip if request is not None else ""
    cluster = request.cluster or f"inbound|{request.connection.destination_port}||" if request is not None else ""
    return {**own, **_tags(head, peer, code, details, cluster, "")}


def _tags(head: RequestHead, peer: str, code: str, details: str, cluster: str, flag: str) -> dict[str, Any]:
    # Answers to gRPC calls are 200, failures of proxies too.
    return {
        **request_tags("POST", f"{head.scheme}://{head.authority}{head.target}", "HTTP/2", peer, None, head.header),
        **outcome_tags(200, flag, None, cluster),
        **grpc_tags(head.target, head.authority, _NUMBERS.get(code, ""), details),
    }
