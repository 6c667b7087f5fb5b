"""Sidecar (istio.networking.v1.Sidecar), as far as it is about what a workload calls."""

from __future__ import annotations

from .fields import Fields
from .kubernetes import Meta
from .mesh_config import is_registry_only
from .world import EgressListener, Sidecar

__all__ = ["parse_sidecar"]


def parse_sidecar(spec: Fields, meta: Meta) -> Sidecar:
    """A Sidecar. What it says of inbound connections is for those who intercept them."""
    selector, outbound = spec.child("workloadSelector"), spec.child("outboundTrafficPolicy")
    labels = selector.labels("labels") if selector is not None else None
    if selector is not None:
        # Without its labels it would be for everybody.
        selector.finish_exactly()
    parsed = Sidecar(
        name=meta.name,
        namespace=meta.namespace,
        selector=labels,
        egress=tuple(_parse_listener(one) for one in spec.children("egress")),
        registry_only=is_registry_only(outbound) if outbound is not None else None,
        age=meta.age,
    )
    spec.ignore("ingress", "inboundConnectionPool")
    spec.finish(("workloadSelector", "egress", "outboundTrafficPolicy"))
    return parsed


def _parse_listener(listener: Fields) -> EgressListener:
    port = listener.child("port")
    number = port.integer("number", low=0, high=65535) if port is not None else None
    if port is not None:
        port.ignore("protocol", "name", "targetPort")
        port.finish()
    hosts = []
    for text in listener.texts("hosts"):
        namespace, slash, host = text.partition("/")
        if not slash or not namespace or not host:
            raise listener.error("hosts", f"must be namespace/host, is {text!r}")
        hosts.append((namespace, host.lower()))
    if not hosts:
        raise listener.error("hosts", "must name at least one host")
    listener.ignore("bind", "captureMode")
    listener.finish(("hosts",))
    return EgressListener(number or None, tuple(hosts))
