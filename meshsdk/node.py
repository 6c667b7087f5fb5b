"""Who a process is to its management server."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

__all__ = ["GENERATOR", "Locality", "Node"]

# Of a node's metadata: by what istiod makes its resources. Only of sidecars it is empty.
GENERATOR = "GENERATOR"


class Locality(Struct, frozen=True):
    """Where a node or an endpoint is (envoy.config.core.v3.Locality)."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


class Node(Struct, frozen=True):
    """Who this process is to the management server (envoy.config.core.v3.Node)."""

    id: str = ""
    cluster: str = ""
    locality: Locality = Locality()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_sidecar(self) -> bool:
        """Whether istiod takes it for a sidecar: by its type, and since it asks for no generator of its own.

        Source: istio/istio pilot/pkg/model/context.go, ParseServiceNodeWithMetadata; pilot/pkg/xds/ads.go,
        findGenerator.
        """
        return self.id.startswith("sidecar~") and self.id.count("~") == 3 and not self.metadata.get(GENERATOR)

    @property
    def namespace(self) -> str:
        """The Kubernetes namespace that short host names are completed with (Istio's node metadata NAMESPACE)."""
        named = self.metadata.get("NAMESPACE")
        if isinstance(named, str) and named:
            return named
        # Istio's node id is type~ip~pod.namespace~namespace.svc.cluster.local.
        parts = self.id.split("~")
        if len(parts) == 4 and "." in parts[2]:
            return parts[2].rpartition(".")[2]
        return "default"

    @property
    def cluster_domain(self) -> str:
        """The DNS domain of the Kubernetes cluster, `cluster.local` unless the node says otherwise."""
        named = self.metadata.get("CLUSTER_DOMAIN")
        if isinstance(named, str) and named:
            return named
        parts = self.id.split("~")
        if len(parts) == 4 and ".svc." in parts[3]:
            return parts[3].partition(".svc.")[2]
        return "cluster.local"

    def complete(self, host: str) -> str | None:
        """A Kubernetes short name in full: service, service.namespace or service.namespace.svc; None is none."""
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            pass
        else:
            return None
        labels = host.split(".")
        if len(labels) == 1:
            return f"{host}.{self.namespace}.svc.{self.cluster_domain}"
        if len(labels) == 2:
            return f"{host}.svc.{self.cluster_domain}"
        return f"{host}.{self.cluster_domain}" if len(labels) == 3 and labels[2] == "svc" else None
