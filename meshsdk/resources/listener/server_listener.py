"""Listeners of servers as data: filter chains, each with its TLS and its connection manager.

Sources: envoy.config.listener.v3.Listener, FilterChain and FilterChainMatch; gRFC A36. A server of this process opens
its own socket, so what a listener says of sockets has no meaning here.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..access_log import parse_access_logs
from ..filters.registry import Side
from ..filters.settings import HttpFilter
from ..istio_stats import parse_stats
from ..matching import Network, parse_cidr
from ..notes import Notes
from ..tls import DownstreamTls, parse_downstream_tls, secret_names
from ..tracing import parse_request_ids, parse_tracing
from ..values import config_type, optional, seconds, unpack
from .connection_manager import parse_filters, parse_routes
from .listener import Listener
from .path_normalization import parse_path_normalization
from .request_rules import NO_RULES, RequestRules, parse_request_rules

__all__ = [
    "ClientCertificateDetails",
    "FilterChain",
    "FilterChainMatch",
    "ForwardClientCertificate",
    "ServerListener",
    "ServerManager",
    "SourceType",
    "parse_server_listener",
]


class SourceType(Enum):
    """Whose connections (FilterChainMatch.ConnectionSourceType)."""

    ANY = 0
    SAME_IP_OR_LOOPBACK = 1
    EXTERNAL = 2


class FilterChainMatch(Struct, frozen=True, gc=False):
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


class ClientCertificateDetails(Struct, frozen=True, gc=False):
    """What of the peer's certificate is told (SetCurrentClientCertDetails)."""

    subject: bool = False
    certificate: bool = False
    chain: bool = False
    dns: bool = False
    uri: bool = False


class ServerManager(Struct, frozen=True, gc=False):
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


class FilterChain(Struct, frozen=True, gc=False):
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


class ServerListener(Struct, frozen=True, gc=False):
    """What a server does with its connections and requests.

    Attributes:
        default_chain: For connections that no chain matches; None refuses them.
    """

    name: str
    chains: tuple[FilterChain, ...] = ()
    default_chain: FilterChain | None = None
    notes: tuple[str, ...] = ()

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
        """Clusters that filters ask (authorization and rate limit servers, keys), and that are told of requests."""
        listeners = [chain.manager.listener for chain in self.all_chains if chain.manager is not None]
        asked = (
            cluster
            for listener in listeners
            for http_filter in listener.filters
            for cluster in getattr(http_filter.setting, "asked_clusters", ())
            if cluster
        )
        return frozenset(asked).union(*(listener.log_clusters for listener in listeners))

    @property
    def secret_names(self) -> frozenset[str]:
        """Secrets to ask for."""
        return secret_names(*(chain.tls for chain in self.all_chains))

    @property
    def route_names(self) -> frozenset[str]:
        """RouteConfigurations to ask for."""
        return frozenset(
            chain.manager.listener.route_name
            for chain in self.all_chains
            if chain.manager is not None and chain.manager.listener.route_name
        )


T = TypeVar("T")

_LISTENER_FIELDS = frozenset(
    "name address additional_addresses stat_prefix filter_chains default_filter_chain use_original_dst metadata"
    " traffic_direction listener_filters listener_filters_timeout continue_on_listener_filters_timeout bind_to_port"
    " access_log reuse_port enable_reuse_port tcp_backlog_size per_connection_buffer_limit_bytes transparent freebind"
    " socket_options connection_balance_config drain_type deprecated_v1"
    " max_connections_to_accept_per_socket_event".split()
)
_CHAIN_FIELDS = frozenset(
    "filter_chain_match filters transport_socket transport_socket_connect_timeout name metadata".split()
)
# These change nothing for a server in this process, or only what its own web server does.
_MANAGER_FIELDS = frozenset(
    "codec_type stat_prefix rds route_config http_filters common_http_protocol_options server_name access_log"
    " generate_request_id use_remote_address xff_num_trusted_hops tracing normalize_path merge_slashes"
    " path_with_escaped_slashes_action stream_idle_timeout strip_matching_host_port strip_any_host_port"
    " strip_trailing_host_dot server_header_transformation forward_client_cert_details skip_xff_append"
    " set_current_client_cert_details upgrade_configs proxy_100_continue http_protocol_options http2_protocol_options"
    " preserve_external_request_id max_request_headers_kb request_headers_timeout"
    " access_log_options request_id_extension internal_address_config always_set_request_id_in_response".split()
)

# Network filters that only record, or that tell peers of bytes about this side.
HARMLESS_NETWORK_FILTERS = frozenset(
    {
        "envoy.tcp.metadataexchange.config.MetadataExchange",
        "stats.PluginConfig",
        "io.istio.http.peer_metadata.Config",
    }
)


def parse_server_listener(message: Any, where: str = "Listener") -> ServerListener:
    """A Listener without api_listener, already checked against Envoy's rules.

    Raises:
        ResourceError: A rule does not hold, two chains match the same, or something is not known.
    """
    notes = Notes()
    notes.unless_acted_on(message, where, _LISTENER_FIELDS)
    if message.HasField("filter_chain_matcher"):
        raise ResourceError(f"{where}.filter_chain_matcher", "matcher trees are refused; use filter_chain_match")
    _check_listener_filters(message, where, notes)
    chains: list[FilterChain] = []
    seen: dict[FilterChainMatch, int] = {}
    for index, chain in enumerate(message.filter_chains):
        path = f"{where}.filter_chains[{index}]"
        parsed = _parse_chain(chain, path, notes)
        if parsed.match in seen:
            # gRFC A36, and Envoy: each connection must have one chain.
            raise ResourceError(f"{path}.filter_chain_match", f"is the same as that of chain {seen[parsed.match]}")
        seen[parsed.match] = index
        chains.append(parsed)
    _note_bytes(message, chains, where, notes)
    default = None
    if message.HasField("default_filter_chain"):
        default = _parse_chain(message.default_filter_chain, f"{where}.default_filter_chain", notes)
    if not chains and default is None:
        raise ResourceError(f"{where}.filter_chains", "there is neither a chain nor a default_filter_chain")
    return ServerListener(message.name, tuple(chains), default, tuple(notes))


# They look at a connection's beginning, which the server does itself.
_LOOKING_LISTENER_FILTERS = ("tls_inspector.", "http_inspector.", "original_dst.")
_PEER_CHANGING_LISTENER_FILTERS = ("proxy_protocol.", "original_src.")


def _check_listener_filters(message: Any, where: str, notes: Notes) -> None:
    """Refuse those that say who the peer is: a server of this process knows the one of its socket only."""
    for index, listener_filter in enumerate(message.listener_filters):
        path = f"{where}.listener_filters[{index}]"
        kind = listener_filter.typed_config.type_url.rpartition("/")[2].removeprefix(
            "envoy.extensions.filters.listener."
        )
        if not kind or kind.startswith(_PEER_CHANGING_LISTENER_FILTERS):
            raise ResourceError(path, f"{listener_filter.name!r} is refused: who the peer is would depend on it")
        if not kind.startswith(_LOOKING_LISTENER_FILTERS):
            notes.add(path, f"{listener_filter.name!r} is not acted on")


def _parse_chain(message: Any, where: str, notes: Notes) -> FilterChain:
    notes.unless_acted_on(message, where, _CHAIN_FIELDS)
    if message.use_proxy_proto.value:
        raise ResourceError(f"{where}.use_proxy_proto", "is refused: who the peer is would depend on it")
    tls = None
    if message.HasField("transport_socket"):
        tls = parse_downstream_tls(message.transport_socket, f"{where}.transport_socket", notes)
    return FilterChain(
        name=message.name,
        match=parse_match(message.filter_chain_match, f"{where}.filter_chain_match"),
        tls=tls,
        manager=_parse_filters(message, where, notes),
        connect_timeout_seconds=seconds(message, "transport_socket_connect_timeout") or None,
    )


def parse_match(message: Any, where: str) -> FilterChainMatch:
    for name in ("address_suffix", "suffix_len"):
        if any(one.name == name for one, _ in message.ListFields()):
            raise ResourceError(f"{where}.{name}", "is not implemented, in Envoy neither")
    for name in message.server_names:
        if "*" in name and not (name.startswith("*.") and "*" not in name[1:]):
            raise ResourceError(f"{where}.server_names", f"{name!r}: only a whole first label may be a wildcard")
    return FilterChainMatch(
        destination_port=optional(message, "destination_port"),
        destinations=_each(message.prefix_ranges, f"{where}.prefix_ranges", parse_cidr),
        server_names=tuple(name.lower() for name in message.server_names),
        transport_protocol=message.transport_protocol,
        application_protocols=tuple(message.application_protocols),
        direct_sources=_each(message.direct_source_prefix_ranges, f"{where}.direct_source_prefix_ranges", parse_cidr),
        source_type=SourceType(message.source_type),
        sources=_each(message.source_prefix_ranges, f"{where}.source_prefix_ranges", parse_cidr),
        source_ports=frozenset(message.source_ports),
    )


def _each(messages: Any, where: str, parse: Callable[[Any, str], T]) -> tuple[T, ...]:
    return tuple(parse(message, f"{where}[{index}]") for index, message in enumerate(messages))


MANAGER_TYPE = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
TCP_PROXY_TYPE = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def _note_bytes(message: Any, chains: list[FilterChain], where: str, notes: Notes) -> None:
    """Tell of ports that carry nothing but bytes. Istio's virtualInbound has such chains beside those of HTTP, too."""
    of_http = {chain.match.destination_port for chain in chains if chain.manager is not None}
    own = message.address.socket_address.port_value
    for index, chain in enumerate(chains):
        port = chain.match.destination_port
        is_beside = of_http and (port is None or port == own)
        if chain.manager is None and port not in of_http and not is_beside:
            notes.add(
                f"{where}.filter_chains[{index}]", "carries bytes, not HTTP: requests on its connections are refused"
            )


def _parse_filters(message: Any, where: str, notes: Notes) -> ServerManager | None:
    """The connection manager of a chain; None for a chain that carries bytes, on which no request gets in."""
    kinds = [config_type(network_filter.typed_config) for network_filter in message.filters]
    if MANAGER_TYPE not in kinds and TCP_PROXY_TYPE in kinds:
        return None
    for index, (network_filter, kind) in enumerate(zip(message.filters, kinds, strict=True)):
        path = f"{where}.filters[{index}]"
        if kind == MANAGER_TYPE:
            manager = unpack(
                network_filter.typed_config,
                protos.http_connection_manager_pb2.HttpConnectionManager,
                f"{path}.typed_config",
            )
            return _parse_manager(manager, f"{path}.typed_config", notes)
        if kind == TCP_PROXY_TYPE:
            return None
        if kind not in HARMLESS_NETWORK_FILTERS:
            raise ResourceError(
                path, f"{network_filter.name!r} ({kind}) is a network filter that meshsdk does not know"
            )
    raise ResourceError(f"{where}.filters", "there is no connection manager")


def _parse_manager(manager: Any, where: str, notes: Notes) -> ServerManager:
    notes.unless_acted_on(manager, where, _MANAGER_FIELDS)
    for name in ("original_ip_detection_extensions", "early_header_mutation_extensions"):
        if getattr(manager, name):
            raise ResourceError(f"{where}.{name}", "is refused: what policy sees would depend on it")
    route_name, configuration = parse_routes(manager, where)
    filters: tuple[HttpFilter, ...] = parse_filters(manager, where, notes, Side.SERVER)
    if configuration is not None:
        for note in configuration.notes:
            notes.add(f"{where}.route_config", note)
    details = manager.set_current_client_cert_details
    return ServerManager(
        listener=Listener(
            name=where,
            route_name=route_name,
            route_configuration=configuration,
            filters=filters,
            paths=parse_path_normalization(manager, where),
            strip_port="any" if manager.strip_any_host_port else "matching" if manager.strip_matching_host_port else "",
            strip_trailing_dot=manager.strip_trailing_host_dot,
            access_logs=parse_access_logs(manager.access_log, f"{where}.access_log", notes),
            request_ids=parse_request_ids(manager, where, notes),
            tracing=parse_tracing(manager, where, notes),
            stats=parse_stats(manager.http_filters, f"{where}.http_filters", notes),
        ),
        forward_certificate=ForwardClientCertificate(manager.forward_client_cert_details),
        certificate_details=ClientCertificateDetails(
            subject=details.subject.value,
            certificate=details.cert,
            chain=details.chain,
            dns=details.dns,
            uri=details.uri,
        ),
        use_remote_address=manager.use_remote_address.value,
        trusted_hops=manager.xff_num_trusted_hops,
        skip_xff_append=manager.skip_xff_append,
        internal_networks=tuple(
            parse_cidr(one, f"{where}.internal_address_config.cidr_ranges[{index}]")
            for index, one in enumerate(manager.internal_address_config.cidr_ranges)
        ),
        internal_unix_sockets=manager.internal_address_config.unix_sockets,
        rules=parse_request_rules(manager, where, notes),
    )
