"""Istio's names of xDS resources (istio/istio pilot/pkg/model/context.go, BuildSubsetKey)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from .world import Service

__all__ = ["cluster_name", "domains_of"]


def cluster_name(port: int, subset: str, host: str) -> str:
    """`outbound|9080|v1|reviews.default.svc.cluster.local`."""
    return f"outbound|{port}|{subset}|{host}"


def domains_of(service: Service, *, port: int | None, aliases: Iterable[str] = ()) -> list[str]:
    """The authorities of a service, each also with the port where one is given; its full name also with a last dot.

    Args:
        service: The service.
        port: One of its ports.
        aliases: Full names of services that are names of it.
    """
    of_aliases = (name for alias in aliases for name in (alias, *_short_forms(alias)))
    names = list(dict.fromkeys([service.host, *service.aliases, *of_aliases]))
    if not _is_address(service.host):
        names.append(f"{service.host}.")
    return [text for name in names for text in ((name,) if port is None else (name, f"{name}:{port}"))]


def _short_forms(host: str) -> list[str]:
    """`reviews.default.svc`, `reviews.default` and `reviews` of a Kubernetes service."""
    parts = host.split(".")
    return [".".join(parts[:count]) for count in (3, 2, 1)] if len(parts) > 3 and parts[2] == "svc" else []


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
