"""What of a connection a decision may depend on."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache

from msgspec import Struct

from ..resources.matching import Network
from ..security.peer_identity import PeerCertificate

__all__ = ["Connection", "Fact", "address_text", "is_within", "parse_address"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Fact(Enum):
    """What not every server tells of a connection or request, and policy may ask for."""

    AUTHORITY = "the host that a request is for"
    DESTINATION_IP = "the address that a connection came to"
    SERVER_NAME = "the server name of a TLS hello"
    SOURCE = "the address that a connection came from"
    SECURED = "whether a connection is secured"
    PEER = "the certificate of a peer"
    OWN_CERTIFICATE = "the certificate of this side"
    TLS_PARAMETERS = "version and cipher of TLS"
    GRPC_HEADERS = "the headers that gRPC keeps to itself (content-type, te, grpc-timeout and the like)"


class Connection(Struct, frozen=True):
    """One connection of a server; made when it is accepted, or as far as the server tells.

    Attributes:
        is_tls: Whether it is secured.
        peer: The peer's verified certificate; None where it showed none.
        source_ip, source_port: Of the peer; empty and 0 where it has none, as on a unix socket.
        destination_ip, destination_port: Of this side.
        server_name: That the peer asked for in its TLS hello.
        application_protocols: That it offered there, or the one that was chosen.
        own_uri: The URI of this side's certificate, for X-Forwarded-Client-Cert.
        peer_certificates: What the peer has sent, its own certificate first, as DER; empty where that is not told.
        protocol: HTTP's version, as Envoy writes it.
        tls_version, tls_cipher: As OpenSSL names them; empty where there is no TLS, or the server does not tell.
        is_watched: Whoever accepted it closes it when its peer is trusted no more.
        hang_up: Ends it, from any thread; None where that cannot be done from here.
        untold: What this server does not tell. A rule that asks for it lets nobody in: a DENY that cannot match would
            let in everybody.
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
    peer_certificates: tuple[bytes, ...] = ()
    protocol: str = "HTTP/1.1"
    tls_version: str = ""
    tls_cipher: str = ""
    is_watched: bool = False
    hang_up: Callable[[], object] | None = None
    untold: frozenset[Fact] = frozenset()

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


def is_within(address: Address | None, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of some ranges."""
    return address is not None and any(one.version == address.version and address in one for one in networks)


def address_text(ip: str, port: int) -> str:
    """Both in one, as Envoy writes them; empty where there is no address."""
    return (f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}") if ip else ""
