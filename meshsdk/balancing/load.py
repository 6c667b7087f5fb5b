"""How much load a cluster's endpoints get, counted for load reports (LRS).

Source: envoy.config.endpoint.v3.ClusterStats; gRFC A64 and A85 for what endpoints report themselves.

A cluster has one of these only while its configuration names a server for reports, so that others pay one look. All
counters only grow: whoever reports remembers what it has told, and nothing is lost between a look and a reset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..node import Locality
from ..resources import Address
from ..resources.cluster import LoadReporting

__all__ = ["NO_ADDRESS", "ClusterLoad", "Elsewhere", "EndpointLoad", "Loaded"]

# Of what is told of a locality as a whole.
NO_ADDRESS = Address("", 0)

# Of one endpoint, which may name what it likes.
_MAX_METRICS = 100


class Loaded(Protocol):
    """What is asked of an endpoint that is counted."""

    address: Address
    locality: Locality
    priority: int
    active_requests: int
    is_removed: bool


class EndpointLoad:
    """What became of the requests to one endpoint.

    Attributes:
        issued, succeeded, failed: Attempts that were begun, and how they ended; those given up here ended in neither.
        metrics: Of its own reports: how many had one of a name, and the sum of their values.
    """

    __slots__ = ("failed", "issued", "metrics", "succeeded")

    def __init__(self) -> None:
        self.issued = self.succeeded = self.failed = 0
        self.metrics: dict[str, tuple[int, float]] = {}

    def add(self, name: str, count: int, total: float) -> None:
        """So many requests had a metric, with this sum."""
        counted, summed = self.metrics.get(name, (0, 0.0))
        if counted or len(self.metrics) < _MAX_METRICS:
            self.metrics[name] = counted + count, summed + total


class Elsewhere:
    """Stands for the endpoints of one locality, whose requests are counted by others: gRPC channels.

    Attributes:
        active_requests: As it was told last.
    """

    __slots__ = ("active_requests", "address", "is_removed", "locality", "priority")

    def __init__(self, locality: Locality, priority: int) -> None:
        self.address = NO_ADDRESS
        self.locality = locality
        self.priority = priority
        self.active_requests = 0
        self.is_removed = False


class ClusterLoad:
    """Counters of one cluster.

    Args:
        reporting: What its configuration wants reported.
        since: When counting began, on the cluster's clock.

    Attributes:
        endpoints: Those that were sent to, removed ones as well, until they are told.
        drops: Requests refused at once by drop_overloads, by category.
        refused: Requests refused by a circuit breaker.
    """

    __slots__ = ("_elsewhere", "drops", "endpoints", "refused", "reporting", "since")

    def __init__(self, reporting: LoadReporting, since: float) -> None:
        self.reporting = reporting
        self.since = since
        self.endpoints: dict[Loaded, EndpointLoad] = {}
        self.drops: dict[str, int] = {}
        self.refused = 0
        self._elsewhere: dict[tuple[Locality, int], Elsewhere] = {}

    def elsewhere(self, locality: Locality, priority: int) -> Elsewhere:
        """Who stands for a locality whose requests are counted by others."""
        return self._elsewhere.setdefault((locality, priority), Elsewhere(locality, priority))

    def wants(self, name: str) -> bool:
        """Whether a metric is to be reported."""
        wanted = self.reporting.metrics
        return name in wanted or f"{name.partition('.')[0]}.*" in wanted

    def of(self, endpoint: Loaded) -> EndpointLoad:
        """The counters of an endpoint."""
        load = self.endpoints.get(endpoint)
        return load if load is not None else self.endpoints.setdefault(endpoint, EndpointLoad())

    def forget_removed(self) -> None:
        """Endpoints that are gone, and whose requests are over, are nothing that anybody is told."""
        for endpoint in [one for one in list(self.endpoints) if one.is_removed and not one.active_requests]:
            self.endpoints.pop(endpoint, None)

    def dropped(self, drawn: float, categories: Sequence[tuple[str, float]]) -> None:
        """A request was refused by drop_overloads.

        Args:
            drawn: The random number that decided it.
            categories: Each with the share that it and those before it refuse.
        """
        for category, share in categories:
            if drawn < share:
                self.drops[category] = self.drops.get(category, 0) + 1
                return

    def take(self, endpoint: Loaded, report: Mapping[str, Any]) -> None:
        """Add what an endpoint says of one request, as far as it is to be reported (lrs_report_endpoint_metrics)."""
        counts = self.of(endpoint)
        for wanted in self.reporting.metrics:
            section, _, key = wanted.partition(".")
            value = report.get(section)
            if not key:
                _add(counts, wanted, value)
            elif isinstance(value, Mapping):
                if key == "*":
                    for name, one in list(value.items())[:_MAX_METRICS]:
                        _add(counts, f"{section}.{name}", one)
                else:
                    _add(counts, wanted, value.get(key))


def _add(counts: EndpointLoad, name: str, value: object) -> None:
    if not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value):
        counts.add(name, 1, value)
