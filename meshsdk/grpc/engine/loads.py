"""Load of calls over gRPC channels: grpc-core counts it, and reports it to its management server, which is the relay.

Source: envoy.service.load_stats.v3, gRFC A27. What grpc-core tells is added to the counters that requests over httpx
have (`balancing.load`), so that the mesh's own server is told of both together. grpc-core tells of localities only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc

from ...balancing import Cluster
from ...balancing.load import ClusterLoad
from ...node import Locality

__all__ = ["LoadService", "add_load"]

# The shortest that grpc-core knows.
_INTERVAL_SECONDS = 1
# A locality whose endpoints have several shares stands in several places (`cluster.write_endpoints`).
_PART = re.compile(r"#[0-9]+$")
_OWN_FIELDS = ("cpu_utilization", "mem_utilization", "application_utilization")


class LoadService(lrs_pb2_grpc.LoadReportingServiceServicer):  # type: ignore[misc]
    """Asks grpc-core for the load of all clusters.

    Args:
        on_stats: Called with each ClusterStats, on the stream's thread.
    """

    def __init__(self, on_stats: Callable[[Any], None]) -> None:
        self._on_stats = on_stats

    def add_to(self, server: Any) -> None:
        """Have a grpc.Server offer this service."""
        lrs_pb2_grpc.add_LoadReportingServiceServicer_to_server(self, server)

    def StreamLoadStats(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        """One process's grpc-core."""
        response = lrs_pb2.LoadStatsResponse(send_all_clusters=True)
        response.load_reporting_interval.seconds = _INTERVAL_SECONDS
        yield response
        for request in request_iterator:
            for stats in request.cluster_stats:
                self._on_stats(stats)


def add_load(cluster: Cluster, load: ClusterLoad, stats: Any) -> None:
    """Add what grpc-core tells of a cluster."""
    dropped = 0
    for drop in stats.dropped_requests:
        dropped += drop.dropped_count
        load.drops[drop.category] = load.drops.get(drop.category, 0) + drop.dropped_count
    load.refused += max(stats.total_dropped_requests - dropped, 0)
    in_progress: dict[tuple[Locality, int], int] = {}
    for one in stats.upstream_locality_stats:
        place = _place_of(cluster, one.locality)
        counts = load.of(load.elsewhere(*place))
        counts.issued += one.total_issued_requests
        counts.succeeded += one.total_successful_requests
        counts.failed += one.total_error_requests
        in_progress[place] = in_progress.get(place, 0) + one.total_requests_in_progress
        for name, count, total in _metrics_of(one):
            if load.wants(name):
                counts.add(name, count, total)
    for place, count in in_progress.items():
        load.elsewhere(*place).active_requests = count


def _place_of(cluster: Cluster, named: Any) -> tuple[Locality, int]:
    """The locality that the relay has told by a name, and the first priority that it stands in."""
    exact = Locality(named.region, named.zone, named.sub_zone)
    whole = Locality(named.region, named.zone, _PART.sub("", named.sub_zone))
    places = [(hosts.locality, priority) for priority, one in enumerate(cluster.host_sets) for hosts in one.localities]
    for wanted in (exact, whole):
        for locality, priority in places:
            if locality == wanted:
                return locality, priority
    return whole, 0


def _metrics_of(stats: Any) -> Iterator[tuple[str, int, float]]:
    for name in _OWN_FIELDS:
        if stats.HasField(name):
            own = getattr(stats, name)
            yield name, own.num_requests_finished_with_metric, own.total_metric_value
    for one in stats.load_metric_stats:
        name = one.metric_name
        # gRFC A64 leaves out what gRFC A85 writes before the names of named_metrics.
        full = name if "." in name else f"named_metrics.{name}"
        yield full, one.num_requests_finished_with_metric, one.total_metric_value
