"""Which filter chain a connection has.

The criteria are gone through in a fixed order, and each leaves only the chains that fit it best; there is no way back.

Source: envoy.config.listener.v3.FilterChainMatch ("the following order applies"); gRFC A36.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..resources.listener import FilterChain, FilterChainMatch, ServerListener, SourceType
from ..resources.matching import Network
from .connection import Address, Connection, Fact, parse_address

__all__ = ["ChainFinder"]

# How well a chain fits one criterion; None does not fit.
Fit = Callable[[FilterChainMatch, Connection], int | None]


class ChainFinder:
    """Finds the chain of a connection.

    Args:
        listener: Whose chains.

    Attributes:
        asks: What the choice depends on, and not every server tells.
    """

    def __init__(self, listener: ServerListener) -> None:
        self._chains = listener.chains
        self._default = listener.default_chain
        # A criterion that no chain has set leaves all of them.
        matches = [chain.match for chain in listener.chains]
        asked = [
            (field, fit)
            for field, fit in _CRITERIA
            if any(getattr(one, field) != getattr(_ANY, field) for one in matches)
        ]
        self._criteria = [fit for _, fit in asked]
        self.asks = frozenset(_FACTS[field] for field, _ in asked if field in _FACTS)

    def find(self, connection: Connection) -> FilterChain | None:
        """The chain; None where there is none, and the connection is refused."""
        chains: Sequence[FilterChain] = self._chains
        for fit in self._criteria:
            fits = [(fit(chain.match, connection), chain) for chain in chains]
            best = max([one for one, _ in fits if one is not None], default=None)
            if best is None:
                return self._default
            chains = [chain for one, chain in fits if one == best]
        return chains[0] if chains else self._default


def _destination_port(match: FilterChainMatch, connection: Connection) -> int | None:
    if match.destination_port is None:
        return 0
    return 1 if match.destination_port == connection.destination_port else None


def _destination(match: FilterChainMatch, connection: Connection) -> int | None:
    return _longest(match.destinations, parse_address(connection.destination_ip))


def _direct_source(match: FilterChainMatch, connection: Connection) -> int | None:
    return _longest(match.direct_sources, parse_address(connection.source_ip))


def _source(match: FilterChainMatch, connection: Connection) -> int | None:
    return _longest(match.sources, parse_address(connection.source_ip))


def _longest(networks: tuple[Network, ...], address: Address | None) -> int | None:
    """The longest prefix that holds the address; no prefixes at all fit any, and worst."""
    if not networks:
        return -1
    fitting = [
        network.prefixlen
        for network in networks
        if address is not None and network.version == address.version and address in network
    ]
    return max(fitting, default=None)


def _server_name(match: FilterChainMatch, connection: Connection) -> int | None:
    if not match.server_names:
        return 0
    name = connection.server_name.lower()
    if name and name in match.server_names:
        return 1_000_000
    suffixes = [len(one) for one in match.server_names if one.startswith("*.") and name.endswith(one[1:])]
    return max(suffixes, default=None)


def _transport(match: FilterChainMatch, connection: Connection) -> int | None:
    if not match.transport_protocol:
        return 0
    return 1 if match.transport_protocol == ("tls" if connection.is_tls else "raw_buffer") else None


def _application(match: FilterChainMatch, connection: Connection) -> int | None:
    if not match.application_protocols:
        return 0
    # A plaintext connection that brings HTTP requests speaks HTTP, as Envoy's http_inspector would find out.
    offered = connection.application_protocols if connection.is_tls else _PLAIN_HTTP
    if not set(match.application_protocols).isdisjoint(offered):
        return 1
    # What the client offered is not always told. Istio's own protocols are offered by peers of the mesh, and a
    # certificate that the mesh vouches for says the same.
    is_of_mesh = any(one.startswith("istio") for one in match.application_protocols)
    return 1 if is_of_mesh and connection.peer is not None else None


def _source_type(match: FilterChainMatch, connection: Connection) -> int | None:
    if match.source_type is SourceType.ANY:
        return 0
    address = parse_address(connection.source_ip)
    # Envoy knows one loopback address of each kind (Network::Utility::isLoopbackAddress).
    is_local = address is None or str(address) in _LOOPBACK or address == parse_address(connection.destination_ip)
    return 1 if is_local is (match.source_type is SourceType.SAME_IP_OR_LOOPBACK) else None


def _source_port(match: FilterChainMatch, connection: Connection) -> int | None:
    if not match.source_ports:
        return 0
    return 1 if connection.source_port in match.source_ports else None


_ANY = FilterChainMatch()

_PLAIN_HTTP = ("http/1.0", "http/1.1", "h2c")
_LOOPBACK = ("127.0.0.1", "::1")

_FACTS = {
    "destinations": Fact.DESTINATION_IP,
    "server_names": Fact.SERVER_NAME,
    "transport_protocol": Fact.SECURED,
    "application_protocols": Fact.SECURED,
    **dict.fromkeys(("direct_sources", "source_type", "sources", "source_ports"), Fact.SOURCE),
}

_CRITERIA: tuple[tuple[str, Fit], ...] = (
    ("destination_port", _destination_port),
    ("destinations", _destination),
    ("server_names", _server_name),
    ("transport_protocol", _transport),
    ("application_protocols", _application),
    ("direct_sources", _direct_source),
    ("source_type", _source_type),
    ("sources", _source),
    ("source_ports", _source_port),
)
