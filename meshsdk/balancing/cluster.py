"""A cluster as it lives: endpoints come and go, and each request picks one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from .. import resources
from ..resources import EndpointConfig, Endpoints, HealthStatus
from ..resources.cluster import ClientSideWeightedRoundRobin, Maglev, OverrideHost, RingHash, Subset
from ..routing import RequestHead
from ..routing.hash_key import HashKey, compile_hash_policies, new_cookie_value
from .circuit_breaker import CircuitBreaker
from .context import PickContext
from .endpoint import Endpoint
from .host_set import HostSet, HostSetSettings, LocalityHosts
from .load import ClusterLoad
from .outlier_detection import OutlierDetector
from .policies import is_hashed
from .priority import PriorityPicker
from .subset import SubsetPicker

__all__ = ["Cluster"]

RandomFraction = Callable[[], float]
Clock = Callable[[], float]


_NOTHING_NAMED: tuple[Mapping[resources.Address, Endpoint], Mapping[str, Endpoint]] = ({}, {})


class Cluster:
    """Endpoints of one service, and the choice among them.

    Updates come from the control thread and end in one reference swap, so that requests never wait and never see half
    an update. Endpoints are recognised by address: those that stay keep their identity and their statistics.

    Args:
        config: The cluster's configuration.
        random_fraction: Uniform in [0, 1).
        clock: In seconds, only ever forward.

    Attributes:
        pick: From a request to an endpoint, or None where none may be picked.
        breaker, high_breaker: Limits of the two routing priorities.
        outliers: Takes out endpoints that fail; None where none is configured.
        drop_share: Share of requests to refuse at once, between 0 and 1 (ClusterLoadAssignment.Policy.drop_overloads).
        membership: Counts up when endpoints come or go.
        children: Of an aggregate cluster, in order of preference.
        is_retired: No route leads here any more.
        hash_key: From a request to its hash, in place of the route's; None leaves the route's.
        wants_reports: Whether somebody wants to know how requests end.
        load_reports: The policy that weighs endpoints by their own reports; None where none does.
        load: Counts for load reports; None where nobody wants any.
        advice: What to say besides where it cannot be reached; None is nothing.
        last_used_at: When a request last picked here, on `clock`; only kept up where there are health checks.
    """

    __slots__ = (
        "_by_name",
        "_clock",
        "_endpoints",
        "_overridable",
        "_priorities",
        "_random_fraction",
        "advice",
        "breaker",
        "children",
        "config",
        "drop_share",
        "endpoints_config",
        "hash_key",
        "high_breaker",
        "host_sets",
        "is_aggregate",
        "is_retired",
        "last_used_at",
        "load",
        "load_reports",
        "membership",
        "name",
        "outliers",
        "pick",
        "problem",
        "wants_reports",
    )

    def __init__(
        self,
        config: resources.Cluster,
        random_fraction: RandomFraction = random.random,
        clock: Clock = time.monotonic,
    ) -> None:
        self.name = config.name
        self.config = config
        self.problem = ""
        self.host_sets: tuple[HostSet, ...] = ()
        self.breaker = CircuitBreaker(config.circuit_breakers.default)
        self.high_breaker = CircuitBreaker(config.circuit_breakers.high)
        self.outliers: OutlierDetector | None = None
        self.drop_share = 0.0
        self.membership = 0
        self.last_used_at: float | None = None
        self.hash_key: Callable[[RequestHead], HashKey | None] | None = None
        self.load_reports: ClientSideWeightedRoundRobin | None = None
        self.load: ClusterLoad | None = None
        self.is_aggregate = False
        self.is_retired = False
        self.wants_reports = False
        self.children: tuple[Cluster, ...] = ()
        self.endpoints_config: Endpoints | None = None
        self._endpoints: dict[resources.Address, Endpoint] = {}
        self.advice: Callable[[], str] | None = None
        # By name, and what it was made of: it is made when a request first names its endpoint.
        self._by_name = _NOTHING_NAMED
        self._overridable: frozenset[HealthStatus] = frozenset()
        self._priorities: PriorityPicker | None = None
        self.pick: Callable[[PickContext], Endpoint | None] = _nobody
        self._random_fraction = random_fraction
        self._clock = clock

    def update(self, config: resources.Cluster, endpoints: Endpoints | None, problem: str = "") -> None:
        """Take new configuration. Control thread only.

        Args:
            config: The cluster's configuration.
            endpoints: All its endpoints; None where they are not known.
            problem: Why they are not, for messages.
        """
        self.problem = problem
        self.is_aggregate, self.children = False, ()
        self.endpoints_config = endpoints
        self._configure(config)
        known, now = self._endpoints, self._clock()
        current: dict[resources.Address, Endpoint] = {}
        priorities: dict[int, list[LocalityHosts]] = {}
        for locality in endpoints.localities if endpoints is not None else ():
            hosts = tuple(
                self._endpoint(one, locality, known, current, now)
                for one in locality.endpoints
                if one.address not in current
            )
            group = LocalityHosts(locality.locality, locality.weight, hosts)
            priorities.setdefault(locality.priority, []).append(group)
        for address in known.keys() - current.keys():
            known[address].is_removed = True
        if known.keys() != current.keys():
            self.membership += 1
        self._endpoints = current
        self.drop_share = endpoints.drop_share if endpoints is not None else 0.0
        settings = self._settings(endpoints)
        self.host_sets = tuple(
            HostSet(priorities.get(index, ()), settings) for index in range(max(priorities, default=-1) + 1)
        )
        self._publish()

    def retire(self) -> None:
        """The cluster is gone: so are its endpoints, once the requests under way are over."""
        self.is_retired = True
        self._let_go_of_endpoints()

    def _let_go_of_endpoints(self) -> None:
        for endpoint in self._endpoints.values():
            endpoint.is_removed = True

    def refresh(self) -> None:
        """Take the present health of the endpoints into account. Control thread only."""
        self.host_sets = tuple(HostSet(hosts.localities, hosts.settings) for hosts in self.host_sets)
        self._publish()

    def update_aggregate(self, config: resources.Cluster, children: Sequence[Cluster]) -> None:
        """Become the priorities of other clusters, one after the other (Envoy docs, upstream/aggregate_cluster)."""
        self.problem = ""
        self.is_aggregate, self.children = True, tuple(children)
        if self._endpoints:
            self._let_go_of_endpoints()
            self._endpoints, self.endpoints_config = {}, None
            self.membership += 1
        self._configure(config)
        self.refresh_aggregate()

    def refresh_aggregate(self) -> None:
        """Take the present endpoints of the clusters below into account. Control thread only."""
        self.host_sets = tuple(hosts for child in self.children for hosts in child.host_sets)
        self._publish()

    def override(self, names: str) -> Endpoint | None:
        """The first endpoint of a list of addresses, separated by commas, that may be used against the policy.

        Common_lb_config.override_host_status says in which health (Envoy docs, load_balancing/override_host).
        """
        for name in names.split(","):
            endpoint = self.endpoint(name.strip())
            if endpoint is not None and endpoint.health in self._overridable:
                return endpoint
        return None

    def endpoint(self, name: str) -> Endpoint | None:
        """The endpoint of an address as text, or None."""
        endpoints = self._endpoints
        made_of, by_name = self._by_name
        if made_of is not endpoints:
            by_name = {endpoint.name: endpoint for endpoint in endpoints.values()}
            self._by_name = endpoints, by_name
        return by_name.get(name)

    def pick_elsewhere(self, context: PickContext, tried: Sequence[Endpoint]) -> Endpoint | None:
        """Pick from a priority that none of some endpoints is of, where there is one."""
        if self._priorities is None:
            return self.pick(context)
        return self._priorities.pick_elsewhere(context, {endpoint.priority for endpoint in tried})

    def _configure(self, config: resources.Cluster) -> None:
        self.config = config
        self.breaker.configure(config.circuit_breakers.default)
        self.high_breaker.configure(config.circuit_breakers.high)
        self._overridable = config.override_host_status
        policy = config.lb_policy.inner if isinstance(config.lb_policy, Subset) else config.lb_policy
        self.load_reports = policy if isinstance(policy, ClientSideWeightedRoundRobin) else None
        hashes = policy.common.hash_policies if isinstance(policy, (RingHash, Maglev)) else ()
        self.hash_key = compile_hash_policies(hashes, new_cookie_value)
        if config.outlier_detection is None:
            if self.outliers is not None:
                self.outliers.stop(self._endpoints.values())
                self.outliers = None
        elif self.outliers is None:
            self.outliers = OutlierDetector(config.outlier_detection, self._random_fraction)
        else:
            self.outliers.configure(config.outlier_detection)
        self._count_load()
        reports = (self.outliers, self.load_reports, self.load)
        self.wants_reports = self.is_aggregate or any(one is not None for one in reports)

    def _count_load(self) -> None:
        reporting = self.config.load_reporting
        if reporting is None:
            self.load = None
        elif self.load is None:
            self.load = ClusterLoad(reporting, self._clock())
        else:
            self.load.reporting = reporting

    def _settings(self, endpoints: Endpoints | None) -> HostSetSettings:
        config = self.config
        return HostSetSettings(
            policy=config.lb_policy,
            overprovisioning_factor=endpoints.overprovisioning_factor if endpoints is not None else 140,
            locality_weighted=config.locality_weighted,
            weighted_health=endpoints.weighted_priority_health if endpoints is not None else False,
            fail_traffic_on_panic=config.fail_traffic_on_panic,
            only_healthy=config.only_healthy,
            ignore_unchecked=config.ignore_new_hosts_until_first_hc,
            random_fraction=self._random_fraction,
            clock=self._clock,
        )

    def _publish(self) -> None:
        policy = self.config.lb_policy
        self._priorities = None
        if not self.host_sets:
            self.pick = _nobody
        elif isinstance(policy, Subset):
            self.pick = SubsetPicker(policy, self.host_sets, self._make_pick).pick
        else:
            self._priorities = PriorityPicker(
                self.host_sets, self.config.healthy_panic_threshold, hashed=is_hashed(policy)
            )
            self.pick = self._priorities.pick
        if isinstance(policy, OverrideHost):
            self.pick = _by_header(self, policy, self.pick)

    def _make_pick(self, host_sets: Sequence[HostSet]) -> Callable[[PickContext], Endpoint | None]:
        hashed = is_hashed(self.config.lb_policy)
        return PriorityPicker(host_sets, self.config.healthy_panic_threshold, hashed=hashed).pick

    def _endpoint(
        self,
        config: EndpointConfig,
        locality: resources.LocalityEndpoints,
        known: dict[resources.Address, Endpoint],
        current: dict[resources.Address, Endpoint],
        now: float,
    ) -> Endpoint:
        endpoint = known.get(config.address)
        if endpoint is None:
            endpoint = Endpoint(self, config, locality.locality)
            endpoint.available_since = now
            endpoint.is_checked = not self.config.health_checks or endpoint.skips_checks
        else:
            if endpoint.config.health is not config.health and config.health in (
                HealthStatus.HEALTHY,
                HealthStatus.UNKNOWN,
            ):
                endpoint.available_since = now
            endpoint.config, endpoint.locality = config, locality.locality
        endpoint.priority = locality.priority
        if self.outliers is not None and endpoint.monitor is None:
            endpoint.monitor = self.outliers.monitor(endpoint)
        current[config.address] = endpoint
        return endpoint

    def __iter__(self) -> Iterator[tuple[int, Endpoint]]:
        """Priority and endpoint of every endpoint."""
        for priority, hosts in enumerate(self.host_sets):
            for locality in hosts.localities:
                for endpoint in locality.endpoints:
                    yield priority, endpoint

    def census(self) -> tuple[int, int, int]:
        """How many endpoints there are, how many are healthy, and how many are ejected."""
        total = healthy = ejected = 0
        for _, endpoint in self:
            total += 1
            healthy += endpoint.is_healthy
            ejected += endpoint.is_ejected
        return total, healthy, ejected


def _by_header(
    cluster: Cluster, policy: OverrideHost, fallback: Callable[[PickContext], Endpoint | None]
) -> Callable[[PickContext], Endpoint | None]:
    def pick(context: PickContext) -> Endpoint | None:
        if not context.pick_number:
            for name in policy.headers:
                value = context.header(name)
                endpoint = cluster.override(value) if value else None
                if endpoint is not None:
                    return endpoint
        return fallback(context)

    return pick


def _nobody(context: PickContext) -> None:
    """Picks nobody: there are no endpoints."""
