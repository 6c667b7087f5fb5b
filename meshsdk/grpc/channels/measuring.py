"""Has calls counted that go out."""

from __future__ import annotations

from collections.abc import Sequence

from ...control import Control
from ...http.measured import destination_of
from ..message_tally import OF_MESH, REQUEST_LINE, size_of_metadata
from .measured_calls import CallRecord
from .outgoing_call import OutgoingCall

__all__ = ["measure"]


def measure(call: OutgoingCall, control: Control, method: str, authority: str, clusters: Sequence[str] = ()) -> None:
    """Have a call counted, where that is asked for.

    Args:
        call: It is about to go out, or to be answered.
        control: The Mesh's.
        method: `/package.Service/Method`, or without the slash.
        authority: Of the channel.
        clusters: That grpc-core may choose; where the call is decided here, its own is known.
    """
    metrics = control.metrics
    if metrics is None:
        return
    known = control.directory.clusters
    cluster = call.exchange.cluster if call.exchange is not None else None
    if cluster is None:
        cluster = next((known[name] for name in clusters if name in known), None)
    call.record = record = CallRecord(metrics, cluster, authority, method, denies=control.unknown_hosts == "deny")
    record.tally.request_bytes = REQUEST_LINE + len(method) + size_of_metadata(call.metadata)
    if cluster is not None and destination_of(metrics, cluster).gets_metadata:
        (_, own_id), (_, own) = metrics.own_headers
        told = zip(OF_MESH, (own_id.decode("latin-1"), own.decode("latin-1"), own.decode("latin-1")), strict=True)
        call.metadata = (*(call.metadata or ()), *told)
