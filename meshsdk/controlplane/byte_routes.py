"""Where connections go that carry bytes: VirtualService's tls and tcp routes.

A client of ours names the host that it wants, and so the server name of its TLS is known before it connects.

Source: istio/istio pilot/pkg/networking/core/tls.go, route/route.go (matchTLS, matchTCP).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .client import Client
from .http_rules import ByteRoute, Destination, VirtualService, holds_for
from .world import Port, hosts_overlap

__all__ = ["byte_destinations"]

_OF_TLS = ("TLS", "HTTPS")


def byte_destinations(client: Client, rules: Iterable[VirtualService], host: str, port: Port) -> Sequence[Destination]:
    """Where connections to a port of a service go: to the service itself, where none of its rules says otherwise."""
    for rule in rules:
        if port.protocol in _OF_TLS:
            by_name = _by_server_name(client, rule.tls, host, port)
            if by_name is not None:
                return by_name.destinations
        for route in rule.tcp:
            if not route.matches or any(holds_for(client, match, port.number) for match in route.matches):
                return route.destinations
    return (Destination(host, port=port.number),)


def _by_server_name(client: Client, routes: Iterable[ByteRoute], host: str, port: Port) -> ByteRoute | None:
    """Envoy takes the filter chain of the most specific server name; of equal ones istiod keeps the first."""
    best: tuple[tuple[bool, int], ByteRoute] | None = None
    for route in routes:
        for match in route.matches:
            if not holds_for(client, match, port.number):
                continue
            for name in match.sni_hosts:
                rank = (not name.startswith("*"), len(name))
                if hosts_overlap(name, host) and (best is None or rank > best[0]):
                    best = rank, route
    return best[1] if best is not None else None
