"""Which endpoints are near: priorities and weights of localities, as one client has them.

Source: istio/istio pilot/pkg/networking/core/loadbalancer/loadbalancer.go.
"""

from __future__ import annotations

import math
from typing import TypeAlias

from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from .client import Client
from .traffic_policy import LocalitySetting
from .world import EndpointEntry, Service

__all__ = ["EVERYWHERE", "apply_locality", "weighs_localities"]

# MeshConfig.locality_lb_setting, by default: nothing but that failover is on.
EVERYWHERE = LocalitySetting()

_NETWORK, _SUB_ZONE = "topology.istio.io/network", "topology.istio.io/subzone"
_REGION, _ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"
_NODE = "kubernetes.io/hostname"

# Service.spec.trafficDistribution, PreferClose or PreferSameZone, and PreferSameNode (GetEffectiveLbSetting).
_DISTRIBUTIONS = {
    "ZONE": LocalitySetting(failover_priority=(_NETWORK, _REGION, _ZONE)),
    "NODE": LocalitySetting(failover_priority=(_NETWORK, _REGION, _ZONE, _SUB_ZONE, _NODE)),
}

Group: TypeAlias = endpoint_components_pb2.LocalityLbEndpoints
# An address that priorities by labels are worked out for, beside its endpoint.
Members: TypeAlias = list[list[EndpointEntry]]


def apply_locality(
    assignment: endpoint_pb2.ClusterLoadAssignment,
    members: Members,
    client: Client,
    setting: LocalitySetting,
    *,
    fails_over: bool,
) -> None:
    """Say which localities are used first, and how much of each.

    Args:
        assignment: Its localities, in the order of `members`.
        members: Whose endpoints they are.
        client: Who asks.
        setting: Of the rule or the mesh; it is switched on.
        fails_over: There is outlier detection, without which nobody would ever go to a lower priority.
    """
    if setting.distribute:
        _distribute(assignment, client, setting)
    elif fails_over:
        if setting.failover_priority:
            _prefer_labels(assignment, members, client, setting.failover_priority)
        if setting.failover or not setting.failover_priority:
            _fail_over(assignment, client, setting)


def distribution_of(service: Service) -> LocalitySetting | None:
    """What a Service says itself; nearer endpoints come first, and others take their place without more being said."""
    return _DISTRIBUTIONS.get(service.distribution)


def weighs_localities(setting: LocalitySetting, *, fails_over: bool) -> bool:
    """Whether the weights of localities count, which they do not beside every balancing policy."""
    is_explicit = bool(setting.failover or setting.failover_priority)
    return bool(setting.distribute) or (fails_over and is_explicit)


def _distribute(assignment: endpoint_pb2.ClusterLoadAssignment, client: Client, setting: LocalitySetting) -> None:
    """Shares that the first entry for the client's locality gives; what it does not name gets nothing."""
    shares = next((to for source, to in setting.distribute if _is_in(client.locality, source)), None)
    if shares is None:
        return
    left = list(assignment.endpoints)
    for pattern, share in shares.items():
        there = [group for group in left if _is_in(_locality_of(group), pattern)]
        total = sum(group.load_balancing_weight.value or 1 for group in there)
        for group in there:
            weight = (group.load_balancing_weight.value or 1) * share / total
            if weight > 0:
                group.load_balancing_weight.value = math.ceil(weight)
        left = [group for group in left if group not in there]
    for group in left:
        del group.lb_endpoints[:]


def _fail_over(assignment: endpoint_pb2.ClusterLoadAssignment, client: Client, setting: LocalitySetting) -> None:
    """By region, zone and sub-zone; of other regions, the one that stands in for the client's comes first."""
    stand_in = next((to for source, to in setting.failover if source == client.locality[0]), None)
    for group in assignment.endpoints:
        distance = _distance(client.locality, _locality_of(group))
        if distance == _OTHER_REGION and stand_in is not None and group.locality.region != stand_in:
            distance += 1
        group.priority = group.priority * 5 + distance
    _close_gaps(list(assignment.endpoints))


_OTHER_REGION = 3


def _distance(one: tuple[str, str, str], other: tuple[str, str, str]) -> int:
    for place in range(_OTHER_REGION):
        if one[place] != other[place]:
            return _OTHER_REGION - place
    return 0


def _prefer_labels(
    assignment: endpoint_pb2.ClusterLoadAssignment, members: Members, client: Client, wanted: tuple[str, ...]
) -> None:
    """By labels that endpoints share with the client, the first ones counting most."""
    own = {**_places(client.locality), **dict(client.labels)}
    if not own:
        return
    groups: list[Group] = []
    for group, entries in zip(assignment.endpoints, members, strict=True):
        by_priority: dict[int, Group] = {}
        for entry, endpoint in zip(entries, group.lb_endpoints, strict=True):
            priority = _priority(entry, own, wanted)
            part = by_priority.get(priority)
            if part is None:
                part = by_priority[priority] = Group(locality=group.locality, priority=priority)
            part.lb_endpoints.append(endpoint)
            part.load_balancing_weight.value += endpoint.load_balancing_weight.value
        groups += [by_priority[priority] for priority in sorted(by_priority)]
    _close_gaps(groups)
    del assignment.endpoints[:]
    assignment.endpoints.extend(groups)


def _places(locality: tuple[str, str, str]) -> dict[str, str]:
    """A locality as labels, which istiod gives to workloads (pkg/model/proxy.go, AugmentLabels)."""
    return {name: value for name, value in zip((_REGION, _ZONE, _SUB_ZONE), locality, strict=True) if value}


def _priority(entry: EndpointEntry, own: dict[str, str], wanted: tuple[str, ...]) -> int:
    """How many of the labels, from the first one that differs on; 0 is the highest."""
    further = 0
    region, _, rest = entry.locality.partition("/")
    zone, _, sub_zone = rest.partition("/")
    labels = {**_places((region, zone, sub_zone)), **entry.labels}
    for place, label in enumerate(wanted):
        name, is_given, value = label.partition("=")
        if (value if is_given else own.get(name, "")) != labels.get(name, ""):
            if place == 0 and name == _NETWORK:
                further = len(wanted)
                continue
            return len(wanted) - place + further
    return further


def _close_gaps(groups: list[Group]) -> None:
    """Envoy's priorities begin with 0, and none is left out."""
    places = {priority: place for place, priority in enumerate(sorted({group.priority for group in groups}))}
    for group in groups:
        group.priority = places[group.priority]


def _locality_of(group: Group) -> tuple[str, str, str]:
    return group.locality.region, group.locality.zone, group.locality.sub_zone


def _is_in(locality: tuple[str, str, str], pattern: str) -> bool:
    """Whether a locality is in `region`, `region/zone` or `region/zone/sub_zone`, `*` standing for any."""
    parts = pattern.split("/")
    region = parts[0]
    rest = [*parts[1:], "", ""][:2]
    return region in ("*", locality[0]) and all(
        part in ("*", "", own) for part, own in zip(rest, locality[1:], strict=True)
    )
