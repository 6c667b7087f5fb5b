"""Has calls counted and told of that go out."""

from __future__ import annotations

from ...control import Control
from ...http.measured import destination_of
from ...routing import RequestHead
from ..engine import call_head
from ..message_tally import OF_MESH, REQUEST_LINE, size_of_metadata
from .call_plan import CallPlan
from .logged_calls import WayOfCall
from .measured_calls import CallRecord
from .outgoing_call import OutgoingCall, to_headers

__all__ = ["measure"]


def measure(call: OutgoingCall, control: Control, method: str, authority: str, plan: CallPlan | None = None) -> None:
    """Have a call counted and told of, where that is asked for.

    Args:
        call: It is about to go out, or to be answered.
        control: The Mesh's.
        method: `/package.Service/Method`, or without the slash.
        authority: Of the channel.
        plan: Of the method, where there is one: the clusters that grpc-core may choose, and its target's routes.
    """
    metrics, logs = control.metrics, control.access_logs
    if metrics is None and logs is None:
        return
    known = control.directory.clusters
    exchange = call.exchange
    cluster = exchange.cluster if exchange is not None else None
    table = None
    if plan is not None:
        table = plan.table
        if cluster is None:
            cluster = next((known[name] for name in plan.clusters if name in known), None)
    way = WayOfCall(exchange, table, call.directory.clusters)
    head = _head_of(call, authority, method)
    size = REQUEST_LINE + len(method) + size_of_metadata(call.metadata)
    denies = control.unknown_hosts == "deny"
    call.record = CallRecord(metrics, logs, head, way, cluster, size=size, denies=denies)
    if metrics is not None and cluster is not None and destination_of(metrics, cluster).gets_metadata:
        (_, own_id), (_, own) = metrics.own_headers
        told = zip(OF_MESH, (own_id.decode("latin-1"), own.decode("latin-1"), own.decode("latin-1")), strict=True)
        call.metadata = (*(call.metadata or ()), *told)


def _head_of(call: OutgoingCall, authority: str, method: str) -> RequestHead:
    """The call as it goes out."""
    path = f"/{method.removeprefix('/')}"
    if call.exchange is not None:
        outgoing = call.exchange.outgoing_head
        authority, path = outgoing.authority, outgoing.target
    return call_head(authority, path, to_headers(call.metadata or ()))
