"""What is spoken on a port (istio/istio pkg/config/kube/conversion.go, pkg/config/protocol/instance.go)."""

from __future__ import annotations

__all__ = ["BYTES", "HTTP2", "UNTOLD", "protocol_of", "protocol_of_kubernetes"]

# Nobody says: it is found out from what comes, and here that is HTTP.
UNTOLD = ""
_HTTP = frozenset(["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY"])
HTTP2 = frozenset(["HTTP2", "GRPC", "GRPC-WEB"])
# Passed on as they are: rules about requests are not for them.
BYTES = frozenset(["TCP", "TLS", "HTTPS", "MONGO", "MYSQL", "REDIS", "UDP"])

_GRPC_WEB = "grpc-web"
_OF_KUBERNETES = {"kubernetes.io/h2c": "HTTP2", "kubernetes.io/ws": "HTTP", "kubernetes.io/wss": "HTTPS"}
# Of mail, DNS, MySQL and MongoDB, where nothing could be found out: the server speaks first.
_WELL_KNOWN = frozenset([25, 53, 3306, 27017])


def protocol_of(name: str) -> str:
    """The protocol of a name, in capitals; `UNTOLD` where it is none."""
    upper = name.upper()
    return upper if upper in _HTTP or upper in BYTES else UNTOLD


def protocol_of_kubernetes(number: int, port_name: str, app_protocol: str) -> str:
    """The protocol of a Service's port: appProtocol, or its name up to a dash."""
    if app_protocol in _OF_KUBERNETES:
        return _OF_KUBERNETES[app_protocol]
    name = app_protocol or port_name
    if name.lower().startswith(_GRPC_WEB):
        return "GRPC-WEB"
    found = protocol_of(name.partition("-")[0])
    return "TCP" if not found and number in _WELL_KNOWN else found
