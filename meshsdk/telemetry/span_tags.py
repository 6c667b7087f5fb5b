"""Tags of spans in the words of Istio and Envoy, beside OpenTelemetry's semantic conventions.

Kiali finds a workload's spans by `node_id`, and knows a proxy's by `component`.

Sources: Envoy source/common/tracing/http_tracer_impl.cc (finalizeDownstreamSpan, setCommonTags), conn_manager_impl.cc
(node_id, zone); Istio pilot/pkg/networking/core/tracing.go (buildServiceTags).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .workload import UNKNOWN, own_workload

__all__ = ["SpanTags", "grpc_tags", "outcome_tags", "own_span_tags", "request_tags"]

Tags = dict[str, str]

# Of what somebody else has said.
_MAX_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class SpanTags:
    """What all spans of a process say of it.

    Attributes:
        own: As a proxy's.
        istio: As istiod adds it, as far as it is known.
    """

    own: Mapping[str, str]
    istio: Mapping[str, str]

    def with_configured(self, configured: Mapping[str, str] | None) -> Tags:
        """The tags with those of configuration; None is none of it, which leaves Istio's on."""
        if configured is None:
            return {**self.own, **self.istio}
        # Istio's are on or off together; a control plane may know less of the process than the process does.
        return {**self.own, **configured, **(self.istio if "istio.namespace" in configured else {})}


def own_span_tags(node_id: str, zone: str, metadata: Mapping[str, Any], namespace: str) -> SpanTags:
    """The tags of this process.

    Args:
        node_id, zone: The bootstrap's; empty where it says none.
        metadata: The node's, as Istio's agent would have it.
        namespace: Where the metadata say none.
    """
    workload = own_workload(metadata, namespace)
    mesh_id = metadata.get("MESH_ID")
    known = {
        "istio.canonical_service": workload.canonical_service,
        "istio.canonical_revision": workload.canonical_revision,
        "istio.mesh_id": mesh_id if isinstance(mesh_id, str) else "",
        "istio.namespace": workload.namespace,
        "istio.cluster_id": workload.cluster,
    }
    is_known = workload.canonical_service != UNKNOWN
    own = {"component": "proxy", "node_id": node_id, "zone": zone}
    return SpanTags(
        {name: value for name, value in own.items() if value},
        {name: value for name, value in known.items() if value not in ("", UNKNOWN)} if is_known else {},
    )


def request_tags(
    method: str, url: str, protocol: str, peer: str, size: str | None, header: Callable[[str], str | None]
) -> Tags:
    """What is said of a request.

    Args:
        method, protocol: Such as `GET` and `HTTP/1.1`.
        url: With its path as long as it may be.
        peer: Whose request it is, by its address; empty where that is not known.
        size: Of its body, in bytes.
        header: A header's value by its lower-case name.
    """
    tags = {
        "http.method": method,
        "http.url": url,
        "http.protocol": protocol,
        "downstream_cluster": _bounded(header("x-envoy-downstream-service-cluster") or "-"),
        "user_agent": _bounded(header("user-agent") or "-"),
        "request_size": _number(size),
    }
    for name in ("x-request-id", "x-client-trace-id"):
        value = header(name)
        if value:
            tags[f"guid:{name}"] = _bounded(value)
    if peer:
        tags["peer.address"] = peer
    return tags


def outcome_tags(status: int | None, flags: str, size: str | None, cluster: str) -> Tags:
    """How a request ended.

    Args:
        status: HTTP's; None where no response began.
        flags: Envoy's; empty where nothing went wrong.
        size: Of the response's body, in bytes, as far as it was announced; None where it was not.
        cluster: That was chosen; empty where none was.
    """
    tags = {"http.status_code": str(status or 0), "response_flags": flags or "-"}
    if size is not None:
        tags["response_size"] = _number(size)
    if cluster:
        tags["upstream_cluster"] = tags["upstream_cluster.name"] = cluster
    if status is None or status >= 500:
        tags["error"] = "true"
    return tags


def grpc_tags(path: str, authority: str, status: str, message: str) -> Tags:
    """What is said of a gRPC call besides; the number of its status is empty where none came."""
    tags = {"grpc.path": path, "grpc.content_type": "application/grpc"}
    if authority:
        tags["grpc.authority"] = authority
    if status:
        tags["grpc.status_code"] = status
    if message and status != "0":
        tags["grpc.message"] = _bounded(message)
    return tags


def _number(text: str | None) -> str:
    return text if text is not None and text.isdecimal() and text.isascii() and len(text) < 20 else "0"


def _bounded(value: str) -> str:
    return value[:_MAX_LENGTH]
