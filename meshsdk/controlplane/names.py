"""Istio's names of xDS resources (istio/istio pilot/pkg/model/context.go, BuildSubsetKey)."""

from __future__ import annotations

from .world import Service

__all__ = ["cluster_name", "domains_of"]


def cluster_name(port: int, subset: str, host: str) -> str:
    """`outbound|9080|v1|reviews.default.svc.cluster.local`."""
    return f"outbound|{port}|{subset}|{host}"


def domains_of(service: Service, *, port: int | None) -> list[str]:
    """The authorities of a service, each also with the port where one is given."""
    names = list(dict.fromkeys([service.host, *service.aliases]))
    return [text for name in names for text in ((name,) if port is None else (name, f"{name}:{port}"))]
