"""Who gets how much of a cluster's traffic, said as data: for engines that pick for themselves.

Theory of operation. meshsdk's own picks go by priorities' loads, localities' weights, endpoints' weights, health and
panic. An engine that knows only "localities with weights, endpoints in turn, and the next tier when a whole tier
fails" gets the same shares when they are written down as such localities: endpoints of one weight form a share, whose
weight is what they get together; all that gets traffic now is the first tier, whatever its priority; priorities that
would get traffic only if others failed are the tiers after it, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from ..node import Locality
from ..resources import LbPolicy
from ..resources.cluster import ClientSideWeightedRoundRobin, OverrideHost, PickFirst, Random, Subset
from .cluster import Cluster
from .endpoint import Endpoint
from .host_set import HostSet
from .policies import is_hashed
from .priority import PriorityPicker

__all__ = ["Share", "Tier", "allocate", "innermost"]


class Share(Struct, frozen=True):
    """Endpoints that take turns.

    Attributes:
        weight: What they get together, relative to the other shares of the tier; above 0.
    """

    locality: Locality
    weight: float
    endpoints: tuple[Endpoint, ...]


Tier = tuple[Share, ...]
Available = Callable[[Endpoint], bool]

# Policies that give every endpoint the same chance, or that weigh endpoints by themselves.
_BLIND_TO_WEIGHTS = (Random, PickFirst, ClientSideWeightedRoundRobin)


def allocate(cluster: Cluster) -> tuple[Tier, ...]:
    """The tiers of a cluster's endpoints as they are now; none where nobody may be picked."""
    host_sets = cluster.host_sets
    if not host_sets:
        return ()
    picker = PriorityPicker(host_sets, cluster.config.healthy_panic_threshold)
    first: list[Share] = []
    later: list[Tier] = []
    for hosts, load, degraded_load, panic in zip(
        host_sets, picker.healthy_loads, picker.degraded_loads, picker.in_panic, strict=True
    ):
        if load:
            first += _normalized(_in_panic(hosts) if panic else _shares(hosts, lambda one: one.is_healthy), load)
        else:
            later.append(tuple(_shares(hosts, lambda one: one.is_healthy)))
        if degraded_load:
            first += _normalized(_shares(hosts, lambda one: one.is_degraded), degraded_load)
    return tuple(tier for tier in (tuple(first), *later) if tier)


def innermost(policy: LbPolicy) -> LbPolicy:
    """The policy that chooses among endpoints, without those around it that narrow the choice first."""
    while isinstance(policy, (Subset, OverrideHost)):
        policy = policy.inner if isinstance(policy, Subset) else policy.fallback
    return policy


def _in_panic(hosts: HostSet) -> list[Share]:
    """Envoy: in panic localities do not count, it balances over all hosts of the priority."""
    if hosts.settings.fail_traffic_on_panic:
        return []
    return _by_weight([one for locality in hosts.usable for one in locality.endpoints], 1.0, hosts)


def _shares(hosts: HostSet, available: Available) -> list[Share]:
    settings = hosts.settings
    if not (settings.locality_weighted and any(locality.weight for locality in hosts.usable)):
        chosen = [one for locality in hosts.usable for one in locality.endpoints if available(one)]
        return _by_weight(chosen, 1.0, hosts)
    shares: list[Share] = []
    for locality in hosts.usable:
        chosen = [one for one in locality.endpoints if available(one)]
        if chosen and locality.weight:
            # A locality keeps its full weight as long as overprovisioning makes up for those that are not available.
            kept = min(1.0, settings.overprovisioning_factor / 100 * len(chosen) / len(locality.endpoints))
            shares += _by_weight(chosen, locality.weight * kept, hosts)
    return shares


def _by_weight(endpoints: Sequence[Endpoint], weight: float, hosts: HostSet) -> list[Share]:
    """Endpoints as shares, which together weigh `weight`: one share for each weight that endpoints have."""
    if not endpoints:
        return []
    policy = innermost(hosts.settings.policy)
    if is_hashed(policy) or isinstance(policy, _BLIND_TO_WEIGHTS):
        # A ring takes the endpoints' own weights into account.
        return [Share(endpoints[0].locality, weight, tuple(endpoints))]
    groups: dict[int, list[Endpoint]] = {}
    for endpoint in endpoints:
        groups.setdefault(endpoint.weight, []).append(endpoint)
    total = sum(endpoint.weight for endpoint in endpoints)
    return [
        Share(group[0].locality, weight * each * len(group) / total, tuple(group)) for each, group in groups.items()
    ]


def _normalized(shares: Sequence[Share], load: int) -> list[Share]:
    """Shares that together weigh `load`."""
    total = sum(share.weight for share in shares)
    return [Share(share.locality, share.weight * load / total, share.endpoints) for share in shares]
