"""LRS on the wire: one stream on which a management server says whose load it wants to know, and is told.

Source: envoy.service.load_stats.v3.LoadReportingService, gRFC A27. The first message has the node and no load; it waits
for a response. Each response says anew which clusters, how often, and whether each endpoint by itself.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from envoy.config.endpoint.v3 import load_report_pb2
from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc
from msgspec import Struct

from ..bootstrap import XdsServer
from ..node import Locality, Node
from ..resources import Address
from .ads_client import node_message
from .stream import open_channel

__all__ = ["ClusterReport", "EndpointReport", "LoadStream", "LocalityReport", "WantedLoad"]

# Envoy's name for a client that knows send_all_clusters.
_KNOWS_ALL_CLUSTERS = "envoy.lrs.supports_send_all_clusters"

# As gRPC's: a server may ask for more, and is told once a second.
_SHORTEST_INTERVAL_SECONDS = 1.0
_LONGEST_INTERVAL_SECONDS = 86_400.0

# Responses that may wait for the control thread.
_MAX_RESPONSES_WAITING = 2

# gRFC A85: these have fields of their own in a locality's report.
_OWN_FIELDS = ("cpu_utilization", "mem_utilization", "application_utilization")

# By name: how many requests had one, and the sum.
Metrics = Mapping[str, tuple[int, float]]


class WantedLoad(Struct, frozen=True):
    """What a server asks for (LoadStatsResponse).

    Attributes:
        clusters: By name; None is all of them.
        by_endpoint: Each endpoint is told by itself, too.
    """

    clusters: frozenset[str] | None
    interval_seconds: float
    by_endpoint: bool


class EndpointReport(Struct, frozen=True):
    """What became of the requests to one endpoint since the last report; `in_progress` is of now.

    An address without a host is that of a whole locality, of whose endpoints nothing is known by itself.
    """

    address: Address
    issued: int
    succeeded: int
    failed: int
    in_progress: int
    metrics: Metrics


class LocalityReport(Struct, frozen=True):
    """The endpoints of one locality at one priority."""

    locality: Locality
    priority: int
    endpoints: Sequence[EndpointReport]


class ClusterReport(Struct, frozen=True):
    """A cluster since the last report.

    Attributes:
        service_name: Of its endpoints by EDS; empty where they come otherwise.
        drops: Requests that drop_overloads has refused, by category.
        refused: Requests that a circuit breaker has refused.
    """

    name: str
    service_name: str
    localities: Sequence[LocalityReport]
    drops: Mapping[str, int]
    refused: int
    interval_seconds: float


class LoadStream:
    """An open stream to one server.

    Args:
        server: Whom to connect to.
        node: Who reports.
        on_wanted: Called with this stream and what the server asks for, on the stream's thread.
        on_end: Called once with this stream and why it is over, on the stream's thread.

    Raises:
        BootstrapError: A certificate file cannot be read.
    """

    def __init__(
        self,
        server: XdsServer,
        node: Node,
        on_wanted: Callable[[LoadStream, WantedLoad], None],
        on_end: Callable[[LoadStream, str], None],
    ) -> None:
        self._on_wanted = on_wanted
        self._on_end = on_end
        self._is_closed = False
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(_MAX_RESPONSES_WAITING)
        first = lrs_pb2.LoadStatsRequest(node=node_message(node))
        first.node.client_features.append(_KNOWS_ALL_CLUSTERS)
        self._outbox.put(first)
        self._channel = open_channel(server)
        stub = lrs_pb2_grpc.LoadReportingServiceStub(self._channel)
        self._call = stub.StreamLoadStats(iter(self._outbox.get, None))
        self._reader = threading.Thread(target=self._read, name=f"meshsdk-lrs {server.uri}", daemon=True)
        self._reader.start()

    def send(self, reports: Sequence[ClusterReport], *, by_endpoint: bool) -> None:
        """Queue a report, unless the last one is still waiting for its peer."""
        if self._outbox.empty():
            stats = [_cluster_stats(report, by_endpoint) for report in reports]
            self._outbox.put(lrs_pb2.LoadStatsRequest(cluster_stats=stats))

    def processed(self) -> None:
        """A response has been dealt with; the next may be read."""
        self._room.release()

    @property
    def is_clogged(self) -> bool:
        """The peer has not taken the last report yet."""
        return not self._outbox.empty()

    def close(self) -> None:
        """Cancel the stream; `on_end` is not called for it."""
        self._is_closed = True
        self._outbox.put(None)
        self._room.release()
        self._call.cancel()
        self._channel.close()
        self._reader.join(5.0)

    def _read(self) -> None:
        reason = "the server closed the stream"
        try:
            for response in self._call:
                self._on_wanted(self, _wanted(response))
                self._room.acquire()
                if self._is_closed:
                    return
        except grpc.RpcError as error:
            reason = str(error)
            if isinstance(error, grpc.Call):
                reason = f"{error.code().name}: {error.details()}"
        self._outbox.put(None)
        if not self._is_closed:
            self._on_end(self, reason)


def _wanted(response: Any) -> WantedLoad:
    interval = response.load_reporting_interval
    seconds = interval.seconds + interval.nanos / 1e9
    return WantedLoad(
        clusters=None if response.send_all_clusters else frozenset(response.clusters),
        interval_seconds=min(max(seconds, _SHORTEST_INTERVAL_SECONDS), _LONGEST_INTERVAL_SECONDS),
        by_endpoint=response.report_endpoint_granularity,
    )


def _cluster_stats(report: ClusterReport, by_endpoint: bool) -> Any:
    stats = load_report_pb2.ClusterStats(
        cluster_name=report.name,
        cluster_service_name=report.service_name,
        upstream_locality_stats=[_locality_stats(one, by_endpoint) for one in report.localities],
        # "This covers requests deliberately dropped by the drop_overload policy and circuit breaking."
        total_dropped_requests=report.refused + sum(report.drops.values()),
    )
    for category, count in report.drops.items():
        stats.dropped_requests.add(category=category, dropped_count=count)
    stats.load_report_interval.FromMicroseconds(round(report.interval_seconds * 1e6))
    return stats


def _locality_stats(report: LocalityReport, by_endpoint: bool) -> Any:
    place, endpoints = report.locality, report.endpoints
    stats = load_report_pb2.UpstreamLocalityStats(
        priority=report.priority,
        total_issued_requests=sum(one.issued for one in endpoints),
        total_successful_requests=sum(one.succeeded for one in endpoints),
        total_error_requests=sum(one.failed for one in endpoints),
        total_requests_in_progress=sum(one.in_progress for one in endpoints),
    )
    stats.locality.region, stats.locality.zone, stats.locality.sub_zone = place.region, place.zone, place.sub_zone
    metrics: dict[str, tuple[int, float]] = {}
    for one in endpoints:
        for name, (count, total) in one.metrics.items():
            counted, summed = metrics.get(name, (0, 0.0))
            metrics[name] = counted + count, summed + total
    for name, (count, total) in metrics.items():
        if name in _OWN_FIELDS:
            own = getattr(stats, name)
            own.num_requests_finished_with_metric, own.total_metric_value = count, total
        else:
            _add_metric(stats, name, count, total)
    if by_endpoint:
        stats.upstream_endpoint_stats.extend(_endpoint_stats(one) for one in endpoints if one.address.host)
    return stats


def _endpoint_stats(report: EndpointReport) -> Any:
    stats = load_report_pb2.UpstreamEndpointStats(
        total_issued_requests=report.issued,
        total_successful_requests=report.succeeded,
        total_error_requests=report.failed,
        total_requests_in_progress=report.in_progress,
    )
    if report.address.is_unix:
        stats.address.pipe.path = report.address.host
    else:
        address = stats.address.socket_address
        address.address, address.port_value = report.address.host, report.address.port
    for name, (count, total) in report.metrics.items():
        _add_metric(stats, name, count, total)
    return stats


def _add_metric(stats: Any, name: str, count: int, total: float) -> None:
    stats.load_metric_stats.add(metric_name=name, num_requests_finished_with_metric=count, total_metric_value=total)
