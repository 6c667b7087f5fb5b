"""Sidecar (istio.networking.v1.Sidecar), as far as it is about what a workload calls."""

from __future__ import annotations

from ..errors import ConfigError
from .checks import is_label
from .fields import Fields
from .kubernetes import Meta
from .mesh_config import is_registry_only
from .world import EgressListener, Sidecar

__all__ = ["parse_sidecar"]


_SAID = ("egress", "ingress", "inboundConnectionPool")


def parse_sidecar(spec: Fields, meta: Meta) -> Sidecar:
    """A Sidecar. What it says of inbound connections is for those who intercept them."""
    if not any(spec.raw(name) for name in _SAID) and "outboundTrafficPolicy" not in spec:
        # validation.go, ValidateSidecar.
        raise ConfigError(spec.where, f"must have one of {', '.join(_SAID)}, outboundTrafficPolicy")
    selector, outbound = spec.child("workloadSelector"), spec.child("outboundTrafficPolicy")
    labels = selector.labels("labels") if selector is not None else None
    if selector is not None:
        # Without its labels it would be for everybody.
        selector.finish_exactly()
    parsed = Sidecar(
        name=meta.name,
        namespace=meta.namespace,
        selector=labels,
        egress=_parse_egress(spec),
        registry_only=is_registry_only(outbound) if outbound is not None else None,
        age=meta.age,
    )
    spec.ignore("ingress", "inboundConnectionPool")
    spec.finish(("workloadSelector", "egress", "outboundTrafficPolicy"))
    return parsed


def _parse_egress(spec: Fields) -> tuple[EgressListener, ...]:
    found = tuple(_parse_listener(one) for one in spec.children("egress"))
    ports = [one.port for one in found]
    if None in ports[:-1]:
        raise spec.error("egress", "a listener without a port must be the last one")
    own = [number for number in ports if number]
    if len(own) != len(set(own)):
        raise spec.error("egress", "has two listeners of one port")
    return found


def _parse_listener(listener: Fields) -> EgressListener:
    port = listener.child("port")
    number = port.integer("number", low=0, high=65535) or 0 if port is not None else None
    protocol = port.text("protocol") if port is not None else ""
    if port is not None:
        port.ignore("name", "targetPort")
        port.finish()
    hosts, left_out = [], []
    for text in listener.texts("hosts"):
        namespace, slash, host = text.partition("/")
        if not slash or not namespace or not host:
            raise listener.error("hosts", f"must be namespace/host, is {text!r}")
        name = namespace.removeprefix("~")
        if name not in ("", "*", ".") and not is_label(name):
            raise listener.error("hosts", f"{namespace!r} is no namespace, and neither '.', '*' nor '~'")
        if namespace.startswith("~"):
            left_out.append((name or "*", host.lower()))
        else:
            hosts.append((name, host.lower()))
    if not hosts and not left_out:
        raise listener.error("hosts", "must name at least one host")
    # Whether it is reached by redirection or by its own address: clients of ours name the host that they want.
    listener.ignore("bind", "captureMode")
    listener.finish(("hosts",))
    return EgressListener(number, tuple(hosts), tuple(left_out), protocol.upper() == "HTTP_PROXY")
