"""A cluster as it lives: endpoints come and go, and each request picks one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from .. import resources
from ..resources import EndpointConfig, Endpoints
from .endpoint import Endpoint
from .host_set import HostSet, LocalityHosts
from .priority import PriorityPicker

__all__ = ["Cluster"]

RandomFraction = Callable[[], float]


class Cluster:
    """Endpoints of one service, and the choice among them.

    Updates come from the control thread and end in one reference swap, so that requests never wait and never see half
    an update. Endpoints are recognised by address: those that stay keep their identity and their statistics.

    Args:
        config: The cluster's configuration.
        random_fraction: Uniform in [0, 1).

    Attributes:
        pick: From a random number in [0, 1) to an endpoint for one request, or None where none may be picked.
    """

    __slots__ = (
        "_endpoints",
        "_random_fraction",
        "config",
        "host_sets",
        "name",
        "overprovisioning",
        "pick",
        "problem",
    )

    def __init__(self, config: resources.Cluster, random_fraction: RandomFraction = random.random) -> None:
        self.name = config.name
        self.config = config
        self.problem = ""
        self.host_sets: tuple[HostSet, ...] = ()
        self.overprovisioning: tuple[int, ...] = ()
        self._endpoints: dict[resources.Address, Endpoint] = {}
        self.pick: Callable[[RandomFraction], Endpoint | None] = _nobody
        self._random_fraction = random_fraction

    def update(self, config: resources.Cluster, endpoints: Endpoints | None, problem: str = "") -> None:
        """Take new configuration. Control thread only.

        Args:
            config: The cluster's configuration.
            endpoints: All its endpoints; None where they are not known.
            problem: Why they are not, for messages.
        """
        self.problem = problem
        localities = endpoints.localities if endpoints is not None else ()
        known = self._endpoints
        current: dict[resources.Address, Endpoint] = {}
        priorities: dict[int, list[LocalityHosts]] = {}
        for locality in localities:
            hosts = tuple(
                self._endpoint(config_of_one, locality, known, current)
                for config_of_one in locality.endpoints
                if config_of_one.address not in current
            )
            priorities.setdefault(locality.priority, []).append(
                LocalityHosts(locality.locality, locality.weight, hosts)
            )
        factor = endpoints.overprovisioning_factor if endpoints is not None else 140
        host_sets = tuple(
            HostSet(
                priorities.get(index, ()), config.lb_policy, factor, config.locality_weighted, self._random_fraction
            )
            for index in range(max(priorities, default=-1) + 1)
        )
        for address in known.keys() - current.keys():
            known[address].is_removed = True
        self._endpoints = current
        self._publish(config, host_sets, (factor,) * len(host_sets))

    def update_aggregate(self, config: resources.Cluster, children: Sequence[Cluster]) -> None:
        """Become the priorities of other clusters, one after the other (Envoy docs, upstream/aggregate_cluster)."""
        self.problem = ""
        host_sets = tuple(hosts for child in children for hosts in child.host_sets)
        factors = tuple(factor for child in children for factor in child.overprovisioning)
        self._publish(config, host_sets, factors)

    def _publish(
        self, config: resources.Cluster, host_sets: tuple[HostSet, ...], overprovisioning: tuple[int, ...]
    ) -> None:
        self.config = config
        self.host_sets = host_sets
        self.overprovisioning = overprovisioning
        if host_sets:
            self.pick = PriorityPicker(host_sets, overprovisioning, config.healthy_panic_threshold).pick
        else:
            self.pick = _nobody

    def _endpoint(
        self,
        config: EndpointConfig,
        locality: resources.LocalityEndpoints,
        known: dict[resources.Address, Endpoint],
        current: dict[resources.Address, Endpoint],
    ) -> Endpoint:
        endpoint = known.get(config.address)
        if endpoint is None:
            endpoint = Endpoint(self, config, locality.locality)
        else:
            endpoint.config, endpoint.locality = config, locality.locality
        current[config.address] = endpoint
        return endpoint

    def __iter__(self) -> Iterator[tuple[int, Endpoint]]:
        """Priority and endpoint of every endpoint."""
        for priority, hosts in enumerate(self.host_sets):
            for locality in hosts.localities:
                for endpoint in locality.endpoints:
                    yield priority, endpoint


def _nobody(random_fraction: RandomFraction) -> None:
    """Picks nobody: there are no endpoints."""
