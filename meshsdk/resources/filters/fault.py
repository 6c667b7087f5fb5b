"""Fault injection (envoy.extensions.filters.http.fault.v3.HTTPFault)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from .. import protos
from ..matching import FractionalPercent, HeaderMatcher, parse_fractional_percent, parse_header_matcher
from ..notes import Notes
from ..values import optional, seconds, unpack
from .settings import FilterSetting

__all__ = ["Fault", "parse_fault"]


_ACTED_ON = frozenset(
    "delay abort upstream_cluster headers max_active_faults disable_downstream_cluster_stats filter_metadata".split()
)

NEVER = FractionalPercent(0, 100)


class Fault(FilterSetting, Struct, frozen=True, gc=False):
    """Delay and abort, each for its share of the requests.

    Attributes:
        delay_seconds: How long the request is held before it goes on.
        delay_by_header: The header x-envoy-fault-delay-request (milliseconds) says how long instead, and
            x-envoy-fault-delay-request-percentage lowers the share.
        abort_status: The HTTP status that answers an aborted request.
        abort_grpc_status: The gRPC status that answers it instead; None is HTTP.
        abort_by_header: x-envoy-fault-abort-request (an HTTP status) or x-envoy-fault-abort-grpc-request says which
            instead, and x-envoy-fault-abort-request-percentage lowers the share.
        upstream_cluster: Only requests to this cluster; empty is any.
        headers: Only requests that match all of these.
        max_active: How many requests may be under a fault at once; None is no limit.
    """

    delay_seconds: float = 0.0
    delay_share: FractionalPercent = NEVER
    delay_by_header: bool = False
    abort_status: int = 0
    abort_grpc_status: int | None = None
    abort_share: FractionalPercent = NEVER
    abort_by_header: bool = False
    upstream_cluster: str = ""
    headers: tuple[HeaderMatcher, ...] = ()
    max_active: int | None = None


def parse_fault(container: Any, where: str, notes: Notes) -> Fault:
    """The HTTPFault inside a google.protobuf.Any."""
    message = unpack(container, protos.fault_pb2.HTTPFault, where)
    notes.unless_acted_on(message, where, _ACTED_ON)
    delay, abort = message.delay, message.abort
    abort_kind = abort.WhichOneof("error_type")
    return Fault(
        delay_seconds=seconds(delay, "fixed_delay") or 0.0,
        delay_share=parse_fractional_percent(delay.percentage, f"{where}.delay.percentage"),
        delay_by_header=delay.WhichOneof("fault_delay_secifier") == "header_delay",
        abort_status=abort.http_status if abort_kind == "http_status" else 0,
        abort_grpc_status=abort.grpc_status if abort_kind == "grpc_status" else None,
        abort_share=parse_fractional_percent(abort.percentage, f"{where}.abort.percentage"),
        abort_by_header=abort_kind == "header_abort",
        upstream_cluster=message.upstream_cluster,
        headers=tuple(
            parse_header_matcher(header, f"{where}.headers[{index}]") for index, header in enumerate(message.headers)
        ),
        max_active=optional(message, "max_active_faults"),
    )
