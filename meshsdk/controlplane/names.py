"""Istio's names: of clusters, and those under which a client may ask for a host."""

from __future__ import annotations

from collections.abc import Iterable

from ..resources.cluster import original_name
from .checks import is_address

__all__ = ["cluster_name", "full_host", "names_of", "original_name", "service_host", "short_forms"]


def cluster_name(port: int, subset: str, host: str) -> str:
    """`outbound|9080|v1|reviews.default.svc.cluster.local` (pilot/pkg/model/context.go, BuildSubsetKey)."""
    return f"outbound|{port}|{subset}|{host}"


def full_host(host: str, namespace: str, domain: str) -> str:
    """A host as Istio completes it: a name without dots is a service of the rule's own namespace."""
    return host.lower() if "." in host or host == "*" else service_host(host.lower(), namespace, domain)


def service_host(name: str, namespace: str, domain: str) -> str:
    """The host that a Service of Kubernetes is."""
    return f"{name}.{namespace}.svc.{domain}"


def names_of(*hosts: str, port: int, namespace: str, domain: str, addresses: Iterable[str] = ()) -> list[str]:
    """The authorities under which a client may ask for a host, each also with the port.

    Args:
        hosts: Its full name, and those of services that are names of it.
        port: That is asked for.
        namespace: The client's, in which a service's own name is enough.
        domain: The cluster's.
        addresses: Its own.

    Source: istio/istio pilot/pkg/networking/core/httproute.go, generateVirtualHostDomains.
    """
    names = []
    for host in hosts:
        names.append(host)
        if not host.startswith("*"):
            names += short_forms(host, namespace, domain)
            if not is_address(host):
                names.append(f"{host}.")
    names += addresses
    return [text for name in dict.fromkeys(names) for text in (name, f"{name}:{port}")]


def short_forms(host: str, namespace: str, domain: str) -> list[str]:
    """`reviews.default.svc`, `reviews.default` and, for clients of the namespace, `reviews`."""
    inner = host.removesuffix(f".{domain}")
    name, _, rest = inner.partition(".")
    of, _, last = rest.partition(".")
    if inner == host or last != "svc" or not name:
        return []
    return [f"{name}.{of}.svc", f"{name}.{of}", *([name] if of == namespace else [])]
