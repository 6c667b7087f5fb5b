"""A server of load reports (LRS) that a test scripts: it shows each report, and asks for what the test says."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc

from .patience import PATIENCE

__all__ = ["LoadReports", "Totals"]


class LoadReports(lrs_pb2_grpc.LoadReportingServiceServicer):  # type: ignore[misc]
    """Of all streams together.

    Attributes:
        firsts: The first request of each stream.
        reports: All other requests, in order.
        streams: How many are open.
        asks_nothing: Streams that begin are left without a word.
    """

    def __init__(self, **asked: Any) -> None:
        """`asked`: the fields of the response that each stream gets at its beginning; none is none."""
        self._asked = asked
        self._outboxes: list[queue.Queue[Any]] = []
        self.firsts: list[Any] = []
        self.reports: list[Any] = []
        self.streams = 0
        self.asks_nothing = False

    def add_to(self, server: grpc.Server) -> None:
        """Have a server offer this."""
        lrs_pb2_grpc.add_LoadReportingServiceServicer_to_server(self, server)

    def StreamLoadStats(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        outbox: queue.Queue[Any] = queue.Queue()
        self._outboxes.append(outbox)
        self.streams += 1

        def read() -> None:
            try:
                self.firsts.append(next(request_iterator))
                for request in request_iterator:
                    self.reports.append(request)
            except (grpc.RpcError, StopIteration):
                pass
            self.streams -= 1
            outbox.put(None)

        threading.Thread(target=read, daemon=True).start()
        if self._asked and not self.asks_nothing:
            yield response(**self._asked)
        while (item := outbox.get()) is not None:
            yield item

    def ask(self, **asked: Any) -> None:
        """Ask each open stream anew."""
        for outbox in self._outboxes:
            outbox.put(response(**asked))

    def end(self) -> None:
        """End each stream."""
        for outbox in self._outboxes:
            outbox.put(None)
        self._outboxes.clear()

    def totals(self, cluster: str) -> Totals:
        """All that was told of a cluster."""
        return Totals(
            one for report in list(self.reports) for one in report.cluster_stats if one.cluster_name == cluster
        )

    def wait_for(self, cluster: str, **expected: int) -> Totals:
        """Its totals, once they have these values."""
        deadline = time.monotonic() + PATIENCE
        while True:
            totals = self.totals(cluster)
            found = {name: getattr(totals, name) for name in expected}
            if found == expected:
                return totals
            assert time.monotonic() < deadline, f"{found} where {expected} was expected"
            time.sleep(0.02)


class Totals:
    """The sums of some ClusterStats.

    Attributes:
        places: Successes, errors and requests issued by zone and priority.
    """

    def __init__(self, stats: Iterator[Any]) -> None:
        self.all = list(stats)
        localities = [(one, each) for one in self.all for each in one.upstream_locality_stats]
        self.succeeded = sum(each.total_successful_requests for _, each in localities)
        self.failed = sum(each.total_error_requests for _, each in localities)
        self.issued = sum(each.total_issued_requests for _, each in localities)
        self.dropped = sum(one.total_dropped_requests for one in self.all)
        self.categories: dict[str, int] = {}
        for one in self.all:
            for drop in one.dropped_requests:
                self.categories[drop.category] = self.categories.get(drop.category, 0) + drop.dropped_count
        self.places: dict[tuple[str, int], tuple[int, int, int]] = {}
        self.metrics: dict[str, tuple[int, float]] = {}
        for _, each in localities:
            key = (each.locality.zone, each.priority)
            counts = (each.total_successful_requests, each.total_error_requests, each.total_issued_requests)
            before = self.places.get(key, (0, 0, 0))
            self.places[key] = (before[0] + counts[0], before[1] + counts[1], before[2] + counts[2])
            for metric in each.load_metric_stats:
                self._add(metric.metric_name, metric)
            for name in ("cpu_utilization", "mem_utilization", "application_utilization"):
                if each.HasField(name):
                    self._add(f"own {name}", getattr(each, name))

    def _add(self, name: str, metric: Any) -> None:
        count, total = self.metrics.get(name, (0, 0.0))
        count, total = count + metric.num_requests_finished_with_metric, total + metric.total_metric_value
        self.metrics[name] = count, total


def response(*, interval: float = 1.0, **fields: Any) -> Any:
    """A LoadStatsResponse."""
    made = lrs_pb2.LoadStatsResponse(**fields)
    made.load_reporting_interval.FromMilliseconds(round(interval * 1000))
    return made
