"""Clusters of hosts that applications look up themselves, as the routes of other hosts lead there.

A sidecar sends such requests to their original destination: the address that the application has looked up, which is
that of the host in the request, whatever the route names. Such hosts are ServiceEntries with `resolution: NONE`, and
headless Services, of which an application may look up one pod by its name. Policies and TLS are those of the host that
the route names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from envoy.config.endpoint.v3 import endpoint_pb2
from google.protobuf.message import Message
from msgspec.structs import replace

from ..errors import ConfigError
from .client import Client
from .clusters import ClusterInputs, make_clusters
from .http_rules import VirtualService
from .names import original_name
from .scope import Scope
from .security_world import MeshConfig, PeerAuthentication
from .traffic_policy import DestinationRule
from .world import EndpointEntry, MeshDefaults, Port, Resolution, Service

__all__ = ["Originals", "PodHost", "make_originals", "originals_of", "pod_hosts"]


class PodHost(NamedTuple):
    """One pod of a headless service, by its own name.

    Attributes:
        host: `db-0.db.default.svc.cluster.local`.
        name: `db-0`.
        service: With that pod's endpoints alone.
    """

    host: str
    name: str
    service: Service


def pod_hosts(service: Service) -> Iterator[PodHost]:
    """The pods of a service that may be asked for by name; of one that is not headless, none."""
    if not service.is_headless:
        return
    names = {one.hostname: None for entries in service.endpoints.values() for one in entries if one.hostname}
    for name in names:
        own = {port: [one for one in entries if one.hostname == name] for port, entries in service.endpoints.items()}
        yield PodHost(f"{name}.{service.host}", name, replace(service, endpoints=own))


class Originals(NamedTuple):
    """Hosts that the routes of one host lead to, and that are looked up.

    Attributes:
        services: By host.
        rules: The DestinationRules of those that have one.
    """

    services: Mapping[str, Service]
    rules: Mapping[str, DestinationRule]
    defaults: MeshDefaults
    mesh: MeshConfig
    peers: Sequence[PeerAuthentication]


def originals_of(
    scope: Scope, host: str, rules: Iterable[VirtualService], pod: PodHost | None = None
) -> Originals | None:
    """Those that the rules of a host lead to, and of a pod's host that pod; None where there are none.

    Where the host is a wildcard, it is not known what will be looked up: the host that the route names is.
    """
    if host.startswith("*"):
        return None
    led_to = {one.host for rule in rules for one in rule.every_destination()} - {host}
    every = scope.services
    found = {one: every[one] for one in led_to if one in every and _is_looked_up(every[one])}
    if pod is not None:
        found[pod.service.host] = pod.service
    if not found:
        return None
    of_rules = {one: scope.destination_rules.of(one) for one in found}
    known = {one: rule for one, rule in of_rules.items() if rule is not None}
    security = scope.world.security
    return Originals(found, known, scope.world.defaults, security.mesh, security.peers if pod is not None else ())


def make_originals(
    originals: Originals | None, host: str, port: Port, client: Client, errors: list[ConfigError]
) -> list[Message]:
    """The clusters of those, for requests to a host on a port.

    Args:
        originals: Where its routes lead.
        host: That is looked up.
        port: That it is asked for.
        client: Who asks.
        errors: Where it is told that some cannot be made.
    """
    if originals is None:
        return []
    made: list[Any] = []
    for service in originals.services.values():
        if _is_looked_up(service):
            endpoints = {one.number: [EndpointEntry(host, port.number)] for one in service.ports}
            service = replace(service, resolution=Resolution.DNS_ROUND_ROBIN, endpoints=endpoints, is_looked_up=True)
        rule = originals.rules.get(service.host)
        if rule is not None and rule.is_broken:
            continue  # It may ask for TLS: requests fail until it can be read.
        of_all = client, originals.defaults, originals.mesh, originals.peers
        made += make_clusters(ClusterInputs(service, rule, *of_all), errors)
    for message in made:
        _rename(message, host, port.number)
    return made


def _rename(message: Any, host: str, number: int) -> None:
    """Give a cluster, or the endpoints of one, the name under which the routes of a host lead there."""
    if isinstance(message, endpoint_pb2.ClusterLoadAssignment):
        message.cluster_name = original_name(host, number, message.cluster_name)
        return
    message.name = original_name(host, number, message.name)
    if message.HasField("eds_cluster_config"):
        message.eds_cluster_config.service_name = message.name
    else:
        message.load_assignment.cluster_name = message.name


def _is_looked_up(service: Service) -> bool:
    return service.is_looked_up or service.resolution is Resolution.NONE
