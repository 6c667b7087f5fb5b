"""Listeners of clients and of servers, with their connection managers, as data and from protobuf."""

from .listener import Listener, parse_listener
from .outbound import (
    NO_KEYS,
    OutboundChain,
    OutboundKeys,
    OutboundListener,
    is_outbound,
    outbound_keys,
    parse_outbound_listener,
)
from .path_normalization import EscapedSlashes, PathNormalization
from .request_rules import NO_RULES, RequestRules, Underscores, strictest
from .server_listener import (
    FilterChain,
    FilterChainMatch,
    ForwardClientCertificate,
    ServerListener,
    ServerManager,
    SourceType,
    parse_server_listener,
)

__all__ = [
    "NO_KEYS",
    "NO_RULES",
    "EscapedSlashes",
    "FilterChain",
    "FilterChainMatch",
    "ForwardClientCertificate",
    "Listener",
    "OutboundChain",
    "OutboundKeys",
    "OutboundListener",
    "PathNormalization",
    "RequestRules",
    "ServerListener",
    "ServerManager",
    "SourceType",
    "Underscores",
    "is_outbound",
    "outbound_keys",
    "parse_listener",
    "parse_outbound_listener",
    "parse_server_listener",
    "strictest",
]
