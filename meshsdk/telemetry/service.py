"""What a cluster is, as a service: what istiod writes into its metadata, or what its name says.

Sources: Envoy contrib/istio/filters/http/istio_stats (populatePeerInfo); Istio pilot/pkg/networking/core/cluster.go
(buildServiceMetadata). istiod's grpc profile has no metadata of clusters, whose names are
`outbound|port|subset|host` there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .workload import UNKNOWN, bounded

__all__ = ["BLACK_HOLE", "PASSTHROUGH", "Service", "is_external", "is_of_kubernetes", "outside", "service_of"]

PASSTHROUGH = "PassthroughCluster"
BLACK_HOLE = "BlackHoleCluster"

Metadata = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Service:
    """What was asked for.

    Attributes:
        namespace: Empty where it is the peer's.
        is_outside: Its host is whatever the caller has written into a URL.
    """

    host: str = UNKNOWN
    name: str = UNKNOWN
    namespace: str = ""
    is_outside: bool = False


def service_of(cluster: str, metadata: Metadata) -> Service | None:
    """A cluster's service; None where nothing tells."""
    services = metadata.get("istio", {}).get("services")
    first = services[0] if isinstance(services, list) and services else None
    if isinstance(first, Mapping) and first.get("host"):
        host = bounded(first["host"])
        return Service(host, bounded(first.get("name") or host.partition(".")[0]), str(first.get("namespace") or ""))
    parts = cluster.split("|")
    if len(parts) != 4 or not parts[3]:
        return None
    host = bounded(parts[3])
    labels = host.split(".")
    if is_of_kubernetes(host):
        return Service(host, labels[0], labels[1])
    return Service(host, host)


def is_of_kubernetes(host: str) -> bool:
    """Whether a host is a service's in Kubernetes, `name.namespace.svc.domain`."""
    labels = host.split(".", 3)
    return len(labels) == 4 and labels[2] == "svc"


def is_external(metadata: Metadata) -> bool:
    """Whether a cluster is marked as one that is told nothing of its callers."""
    marks = metadata.get("istio", {})
    return marks.get("external") is True or marks.get("disable_mx") is True


def outside(authority: str, name: str = "") -> Service:
    """A host that no configuration knows, by the Host header."""
    host = bounded(authority)
    return Service(host, name or host, is_outside=True)
