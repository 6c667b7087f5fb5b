"""Outbound listeners of a sidecar: where connections go that the application opens by itself.

A sidecar has a listener for each port, and for some services' addresses one of their own. Each has chains: of HTTP, of
bytes, and of TLS by the name that is asked for. A client in this process intercepts nothing, so it looks up what a
sidecar would have done with its request; the listener's sockets have no meaning here.

Source: istio/istio pilot/pkg/networking/core/listener.go, listener_builder.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from msgspec import Struct

from ...bootstrap import VIRTUAL_INBOUND
from ...errors import ResourceError
from .. import constraints, protos
from ..notes import Notes
from ..route import WeightedCluster
from ..values import config_type, port_of, unpack
from .listener import Listener, parse_manager
from .server_listener import HARMLESS_NETWORK_FILTERS, MANAGER_TYPE, TCP_PROXY_TYPE, FilterChainMatch, parse_match

__all__ = [
    "NO_KEYS",
    "OutboundChain",
    "OutboundKeys",
    "OutboundListener",
    "is_outbound",
    "outbound_keys",
    "parse_outbound_listener",
]


class OutboundChain(Struct, frozen=True, gc=False):
    """What becomes of one kind of connection: `listener` decides on its requests, or its bytes go to `clusters`."""

    match: FilterChainMatch
    listener: Listener | None = None
    clusters: tuple[WeightedCluster, ...] = ()


class OutboundListener(Struct, frozen=True, gc=False):
    """A listener of a sidecar for what goes out.

    Attributes:
        is_virtual: It is for all connections that no other listener is for.
    """

    name: str
    chains: tuple[OutboundChain, ...] = ()
    default_chain: OutboundChain | None = None
    is_virtual: bool = False
    notes: tuple[str, ...] = ()

    @property
    def all_chains(self) -> tuple[OutboundChain, ...]:
        """The chains with the default one."""
        return self.chains if self.default_chain is None else (*self.chains, self.default_chain)


def is_outbound(message: Any) -> bool:
    """Whether a sidecar's Listener is for what goes out; Envoys have others that say nothing of it."""
    is_inbound = message.traffic_direction == protos.base_pb2.INBOUND or message.name == VIRTUAL_INBOUND
    return not (is_inbound or message.HasField("api_listener"))


_FIELDS = frozenset(
    "name address additional_addresses stat_prefix filter_chains default_filter_chain use_original_dst metadata"
    " traffic_direction listener_filters listener_filters_timeout continue_on_listener_filters_timeout bind_to_port"
    " access_log reuse_port enable_reuse_port tcp_backlog_size per_connection_buffer_limit_bytes transparent freebind"
    " socket_options connection_balance_config drain_type deprecated_v1"
    " max_connections_to_accept_per_socket_event".split()
)
# What is counted, told and timed of connections that carry bytes is not HTTP's.
_TCP_FIELDS = frozenset("stat_prefix cluster weighted_clusters access_log idle_timeout max_connect_attempts".split())


def parse_outbound_listener(message: Any, where: str = "Listener") -> OutboundListener:
    """A sidecar's Listener for what goes out.

    Raises:
        ResourceError: A rule does not hold, or something of HTTP is not known.
    """
    constraints.check(message)
    notes = Notes()
    notes.unless_acted_on(message, where, _FIELDS)
    default = None
    if message.HasField("default_filter_chain"):
        default = _parse_chain(message.name, message.default_filter_chain, f"{where}.default_filter_chain", notes)
    return OutboundListener(
        name=message.name,
        chains=tuple(
            _parse_chain(message.name, chain, f"{where}.filter_chains[{index}]", notes)
            for index, chain in enumerate(message.filter_chains)
        ),
        default_chain=default,
        is_virtual=message.use_original_dst.value,
        notes=tuple(notes),
    )


def _parse_chain(name: str, message: Any, where: str, notes: Notes) -> OutboundChain:
    match = parse_match(message.filter_chain_match, f"{where}.filter_chain_match")
    for index, network_filter in enumerate(message.filters):
        path = f"{where}.filters[{index}]"
        kind = config_type(network_filter.typed_config)
        if kind == MANAGER_TYPE:
            return OutboundChain(match, parse_manager(name, network_filter.typed_config, f"{path}.typed_config", notes))
        if kind == TCP_PROXY_TYPE:
            return OutboundChain(match, clusters=_parse_proxy(network_filter, f"{path}.typed_config", notes))
        if kind not in HARMLESS_NETWORK_FILTERS:
            notes.add(path, f"{network_filter.name!r} is not acted on")
    raise ResourceError(f"{where}.filters", "there is neither a connection manager nor a tcp_proxy")


def _parse_proxy(message: Any, where: str, notes: Notes) -> tuple[WeightedCluster, ...]:
    proxy = unpack(message.typed_config, protos.tcp_proxy_pb2.TcpProxy, where)
    notes.unless_acted_on(proxy, where, _TCP_FIELDS)
    if proxy.cluster:
        return (WeightedCluster(proxy.cluster, 1),)
    return tuple(WeightedCluster(one.name, one.weight) for one in proxy.weighted_clusters.clusters)


class OutboundKeys(Struct, frozen=True, gc=False):
    """What a listener is found by, without looking into what it does.

    Attributes:
        addresses: Address and port; the address is empty where it is for any.
        hosts: Of listeners that have a service's own address: the hosts and ports that they lead to.
        is_virtual: See `OutboundListener.is_virtual`.
    """

    addresses: tuple[tuple[str, int], ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()
    is_virtual: bool = False


NO_KEYS = OutboundKeys()


def outbound_keys(packed: bytes) -> OutboundKeys:
    """What a packed Listener is found by; nothing where it is another's, or does not parse."""
    message = protos.listener_pb2.Listener()
    try:
        message.ParseFromString(packed)
    except DecodeError:
        return NO_KEYS
    if not is_outbound(message):
        return NO_KEYS
    if message.use_original_dst.value:
        return OutboundKeys(is_virtual=True)
    addresses = tuple(_addresses(message))
    if not any(address for address, _ in addresses):
        return OutboundKeys(addresses)
    try:
        found = (host for chain in (*message.filter_chains, message.default_filter_chain) for host in _hosts_of(chain))
        return OutboundKeys(addresses, tuple(dict.fromkeys(found)))
    except DecodeError:
        return OutboundKeys(addresses)


def _addresses(message: Any) -> Iterator[tuple[str, int]]:
    for one in (message.address, *(more.address for more in message.additional_addresses)):
        yield _of_service(one.socket_address.address), one.socket_address.port_value


def _of_service(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    # On the loopback, applications name a port of their proxy's instead of being intercepted.
    return "" if parsed.is_unspecified or parsed.is_loopback else str(parsed)


def _hosts_of(chain: Any) -> Iterator[tuple[str, int]]:
    """By istiod's names of routes, HOST:PORT, and of clusters, outbound|PORT|SUBSET|HOST."""
    for network_filter in chain.filters:
        container = network_filter.typed_config
        if container.type_url.endswith(MANAGER_TYPE):
            manager = protos.http_connection_manager_pb2.HttpConnectionManager.FromString(container.value)
            host, _, port = manager.rds.route_config_name.rpartition(":")
        elif container.type_url.endswith(TCP_PROXY_TYPE):
            proxy = protos.tcp_proxy_pb2.TcpProxy.FromString(container.value)
            _, port, _, host = (*proxy.cluster.split("|"), "", "", "")[:4]
        else:
            continue
        number = port_of(port)
        if host and number is not None:
            yield host, number
