"""What of a connection a decision may depend on."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

from ..security.peer_identity import PeerCertificate

__all__ = ["Connection", "parse_address"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of a server; made when it is accepted, or as far as the server tells.

    Attributes:
        is_tls: Whether it is secured.
        peer: The peer's verified certificate; None where it showed none.
        source_ip, source_port: Of the peer; empty and 0 where it has none, as on a unix socket.
        destination_ip, destination_port: Of this side.
        server_name: That the peer asked for in its TLS hello.
        application_protocols: That it offered there, or the one that was chosen.
        own_uri: The URI of this side's certificate, for X-Forwarded-Client-Cert.
    """

    is_tls: bool = False
    peer: PeerCertificate | None = None
    source_ip: str = ""
    source_port: int = 0
    destination_ip: str = ""
    destination_port: int = 0
    server_name: str = ""
    application_protocols: tuple[str, ...] = ()
    own_uri: str = ""

    @property
    def principal(self) -> str:
        """The peer's SPIFFE ID; empty where it proved none."""
        return self.peer.spiffe_id if self.peer is not None else ""


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """An IP address; None where the text is none. An IPv4 address mapped into IPv6 is the IPv4 one."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
