"""Listeners of servers as data: filter chains, each with its TLS and its connection manager.

Sources: envoy.config.listener.v3.Listener, FilterChain and FilterChainMatch; gRFC A36. A server of this process opens
its own socket, so what a listener says of sockets has no meaning here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from .downstream_tls import DownstreamTls
from .listener import Listener
from .network import Network
from .request_rules import NO_RULES, RequestRules

__all__ = [
    "ClientCertificateDetails",
    "FilterChain",
    "FilterChainMatch",
    "ForwardClientCertificate",
    "ServerListener",
    "ServerManager",
    "SourceType",
]


class SourceType(Enum):
    """Whose connections (FilterChainMatch.ConnectionSourceType)."""

    ANY = 0
    SAME_IP_OR_LOOPBACK = 1
    EXTERNAL = 2


@dataclass(frozen=True, slots=True)
class FilterChainMatch:
    """Which connections a chain is for; what is empty takes any (FilterChainMatch)."""

    destination_port: int | None = None
    destinations: tuple[Network, ...] = ()
    server_names: tuple[str, ...] = ()
    transport_protocol: str = ""
    application_protocols: tuple[str, ...] = ()
    direct_sources: tuple[Network, ...] = ()
    source_type: SourceType = SourceType.ANY
    sources: tuple[Network, ...] = ()
    source_ports: frozenset[int] = frozenset()


class ForwardClientCertificate(Enum):
    """What becomes of X-Forwarded-Client-Cert (HttpConnectionManager.ForwardClientCertDetails)."""

    SANITIZE = 0
    FORWARD_ONLY = 1
    APPEND_FORWARD = 2
    SANITIZE_SET = 3
    ALWAYS_FORWARD_ONLY = 4


@dataclass(frozen=True, slots=True)
class ClientCertificateDetails:
    """What of the peer's certificate is told (SetCurrentClientCertDetails)."""

    subject: bool = False
    certificate: bool = False
    chain: bool = False
    dns: bool = False
    uri: bool = False


@dataclass(frozen=True, slots=True)
class ServerManager:
    """A connection manager of a server: routes and filters as a client's listener has them, and what only servers do.

    Attributes:
        listener: Routes, filters and normalization.
        forward_certificate, certificate_details: What becomes of X-Forwarded-Client-Cert.
        use_remote_address: The connection's peer is the client, and X-Forwarded-For is not believed.
        trusted_hops: How many proxies at the end of X-Forwarded-For are believed (xff_num_trusted_hops).
        skip_xff_append: With use_remote_address: the peer is not added to X-Forwarded-For.
        internal_networks, internal_unix_sockets: Whose requests are internal ones (internal_address_config).
        rules: What is a request at all.
    """

    listener: Listener
    forward_certificate: ForwardClientCertificate = ForwardClientCertificate.SANITIZE
    certificate_details: ClientCertificateDetails = ClientCertificateDetails()
    use_remote_address: bool = False
    trusted_hops: int = 0
    skip_xff_append: bool = False
    internal_networks: tuple[Network, ...] = ()
    internal_unix_sockets: bool = False
    rules: RequestRules = NO_RULES


@dataclass(frozen=True, slots=True)
class FilterChain:
    """What is done with one kind of connection.

    Attributes:
        tls: None is plaintext.
        manager: None where the chain carries bytes and not HTTP.
        connect_timeout_seconds: For the handshake (transport_socket_connect_timeout); None is the server's own.
    """

    name: str
    match: FilterChainMatch
    tls: DownstreamTls | None
    manager: ServerManager | None
    connect_timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ServerListener:
    """What a server does with its connections and requests.

    Attributes:
        default_chain: For connections that no chain matches; None refuses them.
    """

    name: str
    chains: tuple[FilterChain, ...] = ()
    default_chain: FilterChain | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def all_chains(self) -> tuple[FilterChain, ...]:
        """The chains with the default one."""
        return self.chains if self.default_chain is None else (*self.chains, self.default_chain)

    def chains_of(self, port: int) -> tuple[FilterChain, ...]:
        """The chains that connections to a port may have: its own, or where it has none those of any port."""
        own = tuple(one for one in self.chains if one.match.destination_port == port)
        chains = own or tuple(one for one in self.chains if one.match.destination_port is None)
        return chains if self.default_chain is None else (*chains, self.default_chain)

    @property
    def cluster_names(self) -> frozenset[str]:
        """Clusters that filters ask: authorization and rate limit servers, and where keys are fetched from."""
        return frozenset(
            cluster
            for chain in self.all_chains
            for http_filter in (chain.manager.listener.filters if chain.manager is not None else ())
            for cluster in getattr(http_filter.setting, "asked_clusters", ())
            if cluster
        )

    @property
    def route_names(self) -> frozenset[str]:
        """RouteConfigurations to ask for."""
        return frozenset(
            chain.manager.listener.route_name
            for chain in self.all_chains
            if chain.manager is not None and chain.manager.listener.route_name
        )
