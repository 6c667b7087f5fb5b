"""Whom a request comes from: the connection's peer, or whom X-Forwarded-For names where proxies are believed.

Source: Envoy docs, http_conn_man/headers, x-forwarded-for; source/common/http/conn_manager_utility.cc and
source/common/http/utility.cc (getLastAddressFromXFF).
"""

from __future__ import annotations

from ...resources.listener import ServerManager
from ..connection import Address, parse_address
from ..request import InboundRequest

__all__ = ["remote_address"]


def remote_address(manager: ServerManager, request: InboundRequest) -> Address | None:
    """The address that remote_ip is compared with."""
    peer = parse_address(request.connection.source_ip)
    if manager.use_remote_address:
        # The peer is the client, unless proxies before it are trusted; its own address is then no entry of the header.
        return _entry(request, manager.trusted_hops - 1) or peer if manager.trusted_hops else peer
    return _entry(request, manager.trusted_hops) or peer


def _entry(request: InboundRequest, from_the_end: int) -> Address | None:
    """An entry of X-Forwarded-For, counted from its end; None where it is not there, or no address."""
    header = request.arrived.header("x-forwarded-for")
    if not header:
        return None
    entries = header.split(",")
    if from_the_end >= len(entries):
        return None
    return parse_address(entries[-1 - from_the_end].strip())
