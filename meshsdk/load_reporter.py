"""Load reports (LRS): a management server is told how much its clusters' endpoints get, as often as it wants.

Source: envoy.service.load_stats.v3, Envoy's source/common/upstream/load_stats_reporter.cc, gRFC A27, A64 and A85.

The stream is open as long as some cluster's configuration asks for reports (Cluster.lrs_server, `self`), to the server
that configuration comes from. What a server names is told from then on; a cluster that comes later, where all are asked
for, from its beginning. A cluster that leaves is told once more. Counters only grow, and what was told is remembered
here, so that nothing is counted twice or lost when a report is put off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from .balancing import Cluster
from .balancing.load import ClusterLoad, EndpointLoad, Loaded
from .bootstrap import Bootstrap, XdsServer
from .errors import BootstrapError
from .exchange import Directory
from .log_lines import logger_of
from .mesh_status import LoadReportStatus
from .node import Node
from .resources import EdsDiscovery
from .xds import ControlLoop, Timer
from .xds.backoff import Backoff
from .xdstp import authority_of

if TYPE_CHECKING:
    from .xds.load_reports import ClusterReport, EndpointReport, LoadStream, LocalityReport, WantedLoad

__all__ = ["LoadReporter", "LoadReporters", "follow_loads"]

logger = logger_of("meshsdk.load_reports")

# How long a stream stays open for a report that is the last one.
_LAST_WORD_SECONDS = 2.0


def follow_loads(
    reporters: LoadReporters | None,
    changed: Collection[str],
    bootstrap: Bootstrap,
    loop: ControlLoop | None,
    directory: Callable[[], Directory],
) -> LoadReporters | None:
    """Who reports, now that some clusters have changed; None as long as nothing was ever to be reported.

    Args:
        reporters: Who has reported until now.
        changed: Their names.
    """
    if reporters is None:
        clusters = directory().clusters
        if loop is None or not any(name in clusters and clusters[name].load is not None for name in changed):
            return None
        reporters = LoadReporters(bootstrap, loop, directory)
    reporters.follow(changed)
    return reporters


class LoadReporters:
    """One reporter for each list of servers that some counted cluster comes from. Control thread only."""

    def __init__(self, bootstrap: Bootstrap, loop: ControlLoop, directory: Callable[[], Directory]) -> None:
        self._bootstrap = bootstrap
        self._loop = loop
        self._directory = directory
        self._by_servers: dict[tuple[XdsServer, ...], LoadReporter] = {}
        self._ending: list[LoadReporter] = []

    def follow(self, changed: Collection[str]) -> None:
        """Some clusters have changed, have come or are gone."""
        clusters = self._directory().clusters
        for reporter in self._by_servers.values():
            reporter.counted.difference_update(changed)
        for name in changed:
            cluster = clusters.get(name)
            if cluster is None or cluster.load is None:
                continue
            servers = self._servers_of(name)
            if servers:
                if servers not in self._by_servers:
                    node = self._bootstrap.node
                    self._by_servers[servers] = LoadReporter(servers, node, self._loop, self._directory)
                self._by_servers[servers].counted.add(name)
        for servers, reporter in list(self._by_servers.items()):
            if not reporter.counted:
                del self._by_servers[servers]
                self._end(reporter)
        for name in changed:
            self._forget_removed(name)

    def _forget_removed(self, name: str) -> None:
        """Endpoints that are gone are kept until they are told; of a cluster of which nobody is told, not."""
        cluster = self._directory().clusters.get(name)
        load = cluster.load if cluster is not None else None
        if load is not None and not any(reporter.tells(name) for reporter in self._by_servers.values()):
            load.forget_removed()

    def _end(self, reporter: LoadReporter) -> None:
        """Nothing is counted for it any more: it tells what is left to tell, and is closed when that is on its way."""
        reporter.tell()
        self._ending.append(reporter)
        self._loop.call_later(_LAST_WORD_SECONDS, self._close_first)

    def _close_first(self) -> None:
        if self._ending:
            self._ending.pop(0).close()

    def _servers_of(self, name: str) -> tuple[XdsServer, ...]:
        """gRFC A47: what is of another authority is no business of these servers. Of a folder there are none."""
        try:
            return self._bootstrap.servers_of(authority_of(name))
        except BootstrapError:
            return ()

    def status(self) -> list[LoadReportStatus]:
        """What is reported to whom, as `Mesh.status` says it."""
        return [reporter.status() for reporter in self._by_servers.values()]

    def close(self) -> None:
        """Stop reporting."""
        for reporter in (*self._by_servers.values(), *self._ending):
            reporter.close()
        self._ending.clear()


class _Told(Struct):
    """What a server was told of one cluster.

    Attributes:
        since: When the report that comes next begins.
        endpoints: Of each: issued, succeeded, failed, and its metrics.
    """

    cluster: Cluster
    load: ClusterLoad
    since: float
    endpoints: dict[Loaded, tuple[int, int, int, dict[str, tuple[int, float]]]] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    refused: int = 0


class LoadReporter:
    """Keeps one stream open and reports. Control thread only.

    Args:
        servers: In order of preference.
        node: Who reports.
        loop: The control thread.
        directory: The clusters of now.
        backoff: Delays between connection attempts.

    Attributes:
        counted: The clusters whose configuration asks for reports.
    """

    def __init__(
        self,
        servers: Sequence[XdsServer],
        node: Node,
        loop: ControlLoop,
        directory: Callable[[], Directory],
        backoff: Backoff | None = None,
    ) -> None:
        self._servers = servers
        self._node = node
        self._loop = loop
        self._directory = directory
        self._backoff = backoff or Backoff()
        self.counted: set[str] = set()
        self._server_index = 0
        self._stream: LoadStream | None = None
        self._wanted: WantedLoad | None = None
        self._told: dict[str, _Told] = {}
        self._timer: Timer | None = None
        self._is_closed = False
        self._problem = ""
        self._reports = 0
        loop.post(self._connect)

    def status(self) -> LoadReportStatus:
        """What is reported to whom."""
        wanted = self._wanted
        return {
            "server": self._servers[self._server_index].uri,
            "clusters": sorted(self._told),
            "interval_seconds": wanted.interval_seconds if wanted is not None else None,
            "reports": self._reports,
            "problem": self._problem,
        }

    def close(self) -> None:
        """Stop reporting."""
        self._is_closed = True
        self._drop()

    def tell(self) -> None:
        """Report now, and not only when it is time."""
        self._report()

    def tells(self, name: str) -> bool:
        """Whether a cluster is one of those that are told."""
        return name in self._told

    def _connect(self) -> None:
        self._timer = None
        if self._is_closed:
            return
        from .xds.load_reports import LoadStream  # gRPC's stubs are loaded where somebody wants reports.

        post = self._loop.post
        try:
            self._stream = LoadStream(
                self._servers[self._server_index],
                self._node,
                lambda stream, wanted: post(partial(self._on_wanted, stream, wanted)),
                lambda stream, reason: post(partial(self._on_end, stream, reason)),
            )
        except BootstrapError as error:
            self._fail(str(error))

    def _on_wanted(self, stream: LoadStream, wanted: WantedLoad) -> None:
        stream.processed()
        if stream is not self._stream:
            return
        self._backoff.reset()
        self._wanted, self._problem = wanted, ""
        # What is told already goes on, also of what has left while no server was to be had; what is new begins now.
        current, named = self._current(), wanted.clusters
        left = {name: told for name, told in self._told.items() if named is None or name in named}
        new = {name: _from_now(cluster, load) for name, (cluster, load) in current.items() if name not in left}
        self._told = {**left, **new}
        self._schedule()

    def _on_end(self, stream: LoadStream, reason: str) -> None:
        if stream is self._stream:
            was_heard = self._wanted is not None
            self._drop()
            self._fail(reason)
            if not was_heard:
                self._server_index = (self._server_index + 1) % len(self._servers)

    def _fail(self, reason: str) -> None:
        problem = f"load reports to {self._servers[self._server_index].uri}: {reason}"
        if problem != self._problem:
            logger.warning("%s; they are tried again", problem)
        self._problem = problem
        self._timer = self._loop.call_later(self._backoff.next_seconds(), self._connect)

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        stream, self._stream, self._wanted = self._stream, None, None
        if stream is not None:
            stream.close()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._wanted is not None:
            self._timer = self._loop.call_later(self._wanted.interval_seconds, self._report)

    def _current(self) -> dict[str, tuple[Cluster, ClusterLoad]]:
        """The clusters that are to be told."""
        named = self._wanted.clusters if self._wanted is not None else frozenset()
        clusters = self._directory().clusters
        found = (clusters.get(name) for name in (self.counted if named is None else self.counted & named))
        return {one.name: (one, one.load) for one in found if one is not None and one.load is not None}

    def _report(self) -> None:
        stream, wanted = self._stream, self._wanted
        if stream is None or wanted is None:
            return
        if not stream.is_clogged:
            current = self._current()
            for name, (cluster, load) in current.items():
                told = self._told.get(name)
                if told is None or told.load is not load:
                    # It came meanwhile; one that it may have been before has been told but for its last moments.
                    self._told[name] = _Told(cluster, load, load.since)
            stream.send([_report_of(told) for told in self._told.values()], by_endpoint=wanted.by_endpoint)
            self._told = {name: told for name, told in self._told.items() if name in current}
            self._reports += 1
        self._schedule()


def _from_now(cluster: Cluster, load: ClusterLoad) -> _Told:
    """A cluster of which nothing that has been is told."""
    told = _Told(cluster, load, load.since)
    _report_of(told)
    return told


def _report_of(told: _Told) -> ClusterReport:
    """What has happened since the last report, which from now on is this one."""
    from .xds.load_reports import ClusterReport, LocalityReport

    load, now = told.load, time.monotonic()
    places: dict[tuple[int, Any], list[EndpointReport]] = {}
    for endpoint, counts in list(load.endpoints.items()):
        one = _endpoint_report(told, endpoint, counts)
        if one.issued or one.succeeded or one.failed or one.in_progress or one.metrics:
            places.setdefault((endpoint.priority, endpoint.locality), []).append(one)
        elif endpoint.is_removed:
            load.endpoints.pop(endpoint, None)
            told.endpoints.pop(endpoint, None)
    localities: list[LocalityReport] = [
        LocalityReport(locality, priority, endpoints) for (priority, locality), endpoints in places.items()
    ]
    drops = {name: count - told.drops.get(name, 0) for name, count in list(load.drops.items())}
    refused, interval = load.refused - told.refused, now - told.since
    told.drops = {name: told.drops.get(name, 0) + count for name, count in drops.items()}
    told.refused, told.since = told.refused + refused, now
    discovery = told.cluster.config.discovery
    service_name = discovery.service_name if isinstance(discovery, EdsDiscovery) else ""
    seen = {name: count for name, count in drops.items() if count}
    return ClusterReport(told.cluster.name, service_name, localities, seen, refused, interval)


def _endpoint_report(told: _Told, endpoint: Loaded, counts: EndpointLoad) -> EndpointReport:
    from .xds.load_reports import EndpointReport

    issued, succeeded, failed, metrics = told.endpoints.get(endpoint, (0, 0, 0, {}))
    # An attempt may turn out never to have been (a limit refused it) after it was told: the next one stands for it.
    now = (max(counts.issued, issued), counts.succeeded, counts.failed, dict(counts.metrics))
    told.endpoints[endpoint] = now
    grown = {}
    for name, (count, total) in now[3].items():
        before = metrics.get(name, (0, 0.0))
        if count != before[0]:
            grown[name] = count - before[0], total - before[1]
    in_progress = endpoint.active_requests
    return EndpointReport(endpoint.address, now[0] - issued, now[1] - succeeded, now[2] - failed, in_progress, grown)
