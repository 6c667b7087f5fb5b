"""Who a workload is, in the words of Istio's metrics: this process, and its peers.

Sources: Envoy contrib/istio/filters/common/source/metadata_object.cc (what is read of a peer's metadata, and of an
endpoint's), Istio pkg/kube/labels/labels.go (canonical names), pilot/pkg/networking/util/util.go
(AppendLbEndpointMetadata).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "LATEST",
    "NOBODY",
    "UNKNOWN",
    "Workload",
    "bounded",
    "namespace_of",
    "own_workload",
    "workload_of_endpoint",
    "workload_of_peer",
]

UNKNOWN = "unknown"
LATEST = "latest"

CANONICAL_NAME = "service.istio.io/canonical-name"
CANONICAL_REVISION = "service.istio.io/canonical-revision"
# In Istio's order.
_CANONICAL_NAMES = (CANONICAL_NAME, "app.kubernetes.io/name", "app")
_CANONICAL_REVISIONS = (CANONICAL_REVISION, "app.kubernetes.io/version", "version")

# Names of Kubernetes' have 253 characters at most, as DNS's; a host may have a port besides.
MAX_VALUE_CHARACTERS = 260


def bounded(value: object) -> str:
    """A value that somebody else has said, as a label; `unknown` where it is none, or none that a name would be."""
    if not isinstance(value, str) or not value or len(value) > MAX_VALUE_CHARACTERS:
        return UNKNOWN
    is_plain = value.isascii() and value.isprintable() and '"' not in value and "\\" not in value
    return value if is_plain else UNKNOWN


@dataclass(frozen=True, slots=True)
class Workload:
    """One side of a request.

    Attributes:
        app, version: Of its labels; `unknown` where it is not known, and empty where this process has none.
        cluster: The mesh's name of its Kubernetes cluster.
    """

    name: str = UNKNOWN
    namespace: str = UNKNOWN
    app: str = UNKNOWN
    version: str = UNKNOWN
    canonical_service: str = UNKNOWN
    canonical_revision: str = LATEST
    cluster: str = UNKNOWN


NOBODY = Workload()


def own_workload(metadata: Mapping[str, Any], namespace: str, fallback: str = "") -> Workload:
    """This process.

    Args:
        metadata: The node's, as Istio's agent would have it: WORKLOAD_NAME, NAMESPACE, CLUSTER_ID, LABELS, NAME.
        namespace: Where the metadata say none.
        fallback: Its name, where nothing says one.
    """
    said = metadata.get("LABELS")
    labels: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    name = _text(metadata, "WORKLOAD_NAME") or _name_by_pod(_text(metadata, "NAME"), labels)
    name = name or _first(labels, _CANONICAL_NAMES) or fallback or UNKNOWN
    # istio_stats reads these two labels alone of its own node, and writes what is missing as empty.
    missing = "" if labels else UNKNOWN
    return Workload(
        name=name,
        namespace=_text(metadata, "NAMESPACE") or namespace or UNKNOWN,
        app=_text(labels, "app") or missing,
        version=_text(labels, "version") or missing,
        canonical_service=_first(labels, _CANONICAL_NAMES) or name,
        canonical_revision=_first(labels, _CANONICAL_REVISIONS) or LATEST,
        cluster=_text(metadata, "CLUSTER_ID") or UNKNOWN,
    )


def _name_by_pod(pod: str, labels: Mapping[str, Any]) -> str:
    """The workload of a pod, as Istio's injector tells it from the pod's owner: by the hash that names hold."""
    template = _text(labels, "pod-template-hash")
    if template and f"-{template}" in pod:
        return pod.rpartition(f"-{template}")[0]
    if "statefulset.kubernetes.io/pod-name" in labels or "apps.kubernetes.io/pod-index" in labels:
        return pod.rpartition("-")[0]
    return pod


def workload_of_endpoint(metadata: Mapping[str, Mapping[str, Any]]) -> Workload:
    """What istiod tells of an endpoint: `name;namespace;canonical name;canonical revision;cluster`."""
    told = metadata.get("istio", {}).get("workload")
    parts = told.split(";") if isinstance(told, str) else []
    if len(parts) < 5:
        return NOBODY
    name, namespace, service, revision, cluster = (part and bounded(part) for part in parts[:5])
    return Workload(
        name or UNKNOWN,
        namespace or UNKNOWN,
        canonical_service=service or UNKNOWN,
        canonical_revision=revision or LATEST,
        cluster=cluster or UNKNOWN,
    )


def workload_of_peer(metadata: Mapping[str, Any]) -> Workload:
    """What a peer tells of itself. Nothing vouches for it, and so every value is bounded."""
    said = metadata.get("LABELS")
    labels: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    return Workload(
        name=_of_kubernetes(metadata.get("WORKLOAD_NAME")),
        namespace=_of_kubernetes(metadata.get("NAMESPACE")),
        app=bounded(_first(labels, ("app.kubernetes.io/name", "app"))),
        version=bounded(_first(labels, ("app.kubernetes.io/version", "version"))),
        canonical_service=bounded(_first(labels, (CANONICAL_NAME,))),
        canonical_revision=bounded(_first(labels, (CANONICAL_REVISION,)) or LATEST),
        cluster=bounded(metadata.get("CLUSTER_ID")),
    )


def _of_kubernetes(value: object) -> str:
    """A name that looks like an identity is none of Kubernetes': who has one is to prove it."""
    name = bounded(value)
    return UNKNOWN if "/" in name or ":" in name else name


def namespace_of(spiffe_id: str) -> str:
    """The namespace in a SPIFFE ID of Istio's, `spiffe://domain/ns/NAMESPACE/sa/ACCOUNT`; empty where it has none."""
    parts = spiffe_id.split("/")
    return bounded(parts[4]) if len(parts) >= 7 and parts[3] == "ns" else ""


def _text(metadata: Mapping[str, Any], name: str) -> str:
    value = metadata.get(name)
    return value if isinstance(value, str) else ""


def _first(labels: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := _text(labels, name))), "")
