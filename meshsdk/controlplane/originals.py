"""Clusters of hosts that applications look up themselves, as the routes of other hosts lead there.

A sidecar sends such requests to their original destination (ServiceEntry, `resolution: NONE`): the address that the
application has looked up, which is that of the host in the request, whatever the route names. Policies and TLS are
those of the host that the route names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import Message
from msgspec.structs import replace

from ..errors import ConfigError
from .client import Client
from .clusters import ClusterInputs, make_clusters
from .http_rules import VirtualService
from .names import original_name
from .scope import Scope
from .security_world import MeshConfig
from .traffic_policy import DestinationRule
from .world import EndpointEntry, MeshDefaults, Port, Resolution, Service

__all__ = ["Originals", "make_originals", "originals_of"]


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


def originals_of(scope: Scope, host: str, rules: Iterable[VirtualService]) -> Originals | None:
    """Those that the rules of a host lead to; None where there are none.

    Where the host is a wildcard, it is not known what will be looked up: the host that the route names is.
    """
    if host.startswith("*"):
        return None
    led_to = {one.host for rule in rules for one in rule.every_destination()} - {host}
    every = scope.services
    found = {one: every[one] for one in led_to if one in every and _is_looked_up(every[one])}
    if not found:
        return None
    of_rules = {one: scope.destination_rules.of(one) for one in found}
    known = {one: rule for one, rule in of_rules.items() if rule is not None}
    return Originals(found, known, scope.world.defaults, scope.world.security.mesh)


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
        entries = [EndpointEntry(host, port.number)]
        endpoints = {one.number: entries for one in service.ports}
        looked_up = replace(service, resolution=Resolution.DNS_ROUND_ROBIN, endpoints=endpoints, is_looked_up=True)
        rule = originals.rules.get(service.host)
        if rule is not None and rule.is_broken:
            continue  # It may ask for TLS: requests fail until it can be read.
        made += make_clusters(ClusterInputs(looked_up, rule, client, originals.defaults, originals.mesh, ()), errors)
    for cluster in made:
        cluster.name = original_name(host, port.number, cluster.name)
        cluster.load_assignment.cluster_name = cluster.name
    return made


def _is_looked_up(service: Service) -> bool:
    return service.is_looked_up or service.resolution is Resolution.NONE
