"""Istio's names of xDS resources (istio/istio pilot/pkg/model/context.go, BuildSubsetKey)."""

from __future__ import annotations

import ipaddress

from .world import Service

__all__ = ["cluster_name", "domains_of"]


def cluster_name(port: int, subset: str, host: str) -> str:
    """`outbound|9080|v1|reviews.default.svc.cluster.local`."""
    return f"outbound|{port}|{subset}|{host}"


def domains_of(service: Service, *, port: int | None) -> list[str]:
    """The authorities of a service, each also with the port where one is given; its full name also with a last dot."""
    names = list(dict.fromkeys([service.host, *service.aliases]))
    if not _is_address(service.host):
        names.append(f"{service.host}.")
    return [text for name in names for text in ((name,) if port is None else (name, f"{name}:{port}"))]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
