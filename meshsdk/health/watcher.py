"""Timers of outlier detection and active health checks, for all clusters of a mesh. Control thread only."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import httpx

from ..balancing import Cluster, Endpoint
from ..http.runtime import HasCertificates
from ..http.tls import TlsChooser
from ..log_lines import logger_of
from ..resources import HealthCheck
from ..security import Secrets
from ..xds import ControlLoop, Timer
from .check_state import CheckResult, CheckState
from .probes import Prober

__all__ = ["HealthWatcher"]

logger = logger_of("meshsdk.health")

# Checks block a thread each; many at once are rare, since each endpoint is asked every few seconds at most.
_WORKERS = 16


class HealthWatcher:
    """Keeps endpoints' health current.

    Args:
        loop: The control thread.
        secrets: What names of certificates stand for.
        watch_certificates: Has `_look_at_certificates` called now and then.

    Attributes:
        changes: Counts up whenever the health of some endpoint was found to have changed.
    """

    def __init__(
        self, loop: ControlLoop, secrets: Secrets, watch_certificates: Callable[[HasCertificates], None]
    ) -> None:
        self._loop = loop
        self.changes = 0
        self._clusters: dict[str, Cluster] = {}
        self._intervals: dict[str, Timer] = {}
        self._checkers: dict[str, _Checker] = {}
        self._refreshing: set[str] = set()
        self._executor: ThreadPoolExecutor | None = None
        self._tls = TlsChooser(
            httpx.create_ssl_context, http2=False, secrets=secrets, on_first=lambda: watch_certificates(self)
        )

    def follow(self, changed: Iterable[str], clusters: Mapping[str, Cluster]) -> None:
        """Some clusters have changed, have come or are gone.

        Args:
            changed: Their names.
            clusters: Those to look after, by name.
        """
        for name in changed:
            cluster = clusters.get(name)
            if self._clusters.get(name) is not cluster:
                self._drop(name)
            if cluster is not None:
                self._clusters[name] = cluster
                self._follow(cluster)

    def _look_at_certificates(self) -> None:
        """See `HasCertificates`."""
        if self._tls.refresh():
            for checker in list(self._checkers.values()):
                checker.drop_distrusted()

    def close(self) -> None:
        """Stop all timers and checks."""
        for name in list(self._clusters):
            self._drop(name)
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _drop(self, name: str) -> None:
        self._clusters.pop(name, None)
        timer = self._intervals.pop(name, None)
        if timer is not None:
            timer.cancel()
        checker = self._checkers.pop(name, None)
        if checker is not None:
            checker.close()
            self._tls.forget_retired()

    def _follow(self, cluster: Cluster) -> None:
        name = cluster.name
        if cluster.outliers is not None:
            # Another detector may have come within an interval.
            cluster.outliers.on_change = partial(self._loop.post, partial(self._refresh, cluster))
            if name not in self._intervals:
                self._arm_interval(cluster)
        checker = self._checkers.get(name)
        checks = cluster.config.health_checks
        if checker is not None and checker.check not in checks[:1]:
            if not checks:
                checker.forget()
            checker.close()
            del self._checkers[name]
            checker = None
        if checks:
            if checker is None:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="meshsdk-health")
                checker = _Checker(cluster, checks[0], self._loop, self._executor, self._tls, self._refresh)
                self._checkers[name] = checker
            checker.follow()

    def _arm_interval(self, cluster: Cluster) -> None:
        if cluster.outliers is not None and self._clusters.get(cluster.name) is cluster:
            seconds = cluster.outliers.config.interval_seconds
            self._intervals[cluster.name] = self._loop.call_later(seconds, partial(self._on_interval, cluster))
        else:
            self._intervals.pop(cluster.name, None)

    def _on_interval(self, cluster: Cluster) -> None:
        if cluster.outliers is not None:
            cluster.outliers.on_interval(time.monotonic())
        self._arm_interval(cluster)

    def _refresh(self, cluster: Cluster) -> None:
        """Have a cluster take its endpoints' health into account; many changes at once are one."""
        if cluster.name in self._refreshing or self._clusters.get(cluster.name) is not cluster:
            return
        self._refreshing.add(cluster.name)
        self._loop.post(partial(self._finish_refresh, cluster))

    def _finish_refresh(self, cluster: Cluster) -> None:
        self._refreshing.discard(cluster.name)
        self.changes += 1
        cluster.refresh()
        self._refresh_above(cluster)

    def _refresh_above(self, cluster: Cluster) -> None:
        """Have the aggregates that lead to a cluster, of aggregates too, take its endpoints' health into account."""
        for other in self._clusters.values():
            if other.is_aggregate and any(child is cluster for child in other.children):
                other.refresh_aggregate()
                self._refresh_above(other)


class _Checker:
    """The active health checks of one cluster."""

    def __init__(
        self,
        cluster: Cluster,
        check: HealthCheck,
        loop: ControlLoop,
        executor: ThreadPoolExecutor,
        tls: TlsChooser,
        refresh: Callable[[Cluster], None],
    ) -> None:
        self.check = check
        self._cluster = cluster
        self._loop = loop
        self._executor = executor
        self._refresh = refresh
        self._prober = Prober(cluster, check, tls)
        self._states: dict[Endpoint, CheckState] = {}
        self._timers: dict[Endpoint, Timer] = {}
        self._is_closed = False

    def follow(self) -> None:
        """Check the cluster's present endpoints, and no others."""
        present = {endpoint for _, endpoint in self._cluster if not endpoint.skips_checks}
        self._forget(self._states.keys() - present)
        for endpoint in present - self._states.keys():
            self._states[endpoint] = CheckState(endpoint, self.check)
            self._arm(endpoint, random.random() * self.check.initial_jitter)

    def forget(self) -> None:
        """Nothing is checked any more, and what was found is held against nobody."""
        self._forget(set(self._states))

    def _forget(self, endpoints: set[Endpoint]) -> None:
        for endpoint in endpoints:
            self._states.pop(endpoint).forget()
            timer = self._timers.pop(endpoint, None)
            if timer is not None:
                timer.cancel()
            self._prober.forget(endpoint)
        if any(not endpoint.is_removed for endpoint in endpoints):
            self._refresh(self._cluster)

    def drop_distrusted(self) -> None:
        """Close connections to peers that are trusted no more."""
        self._prober.drop_distrusted()

    def close(self) -> None:
        """Stop; endpoints keep the health that was found last."""
        self._is_closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._prober.close()

    def _arm(self, endpoint: Endpoint, delay: float) -> None:
        self._timers[endpoint] = self._loop.call_later(delay, partial(self._start, endpoint))

    def _start(self, endpoint: Endpoint) -> None:
        if self._is_closed or endpoint not in self._states:
            return
        future = self._executor.submit(self._prober.probe, endpoint)
        future.add_done_callback(lambda done: self._loop.post(partial(self._finish, endpoint, done)))

    def _finish(self, endpoint: Endpoint, done: Future[CheckResult]) -> None:
        state = self._states.get(endpoint)
        if state is None or self._is_closed or done.cancelled():
            return
        error = done.exception()
        if error is not None:
            logger.error("health check of %s failed to run: %s", endpoint, error)
        result = CheckResult.NETWORK_FAILURE if error is not None else done.result()
        cluster, now = self._cluster, time.monotonic()
        changed = state.take(result, now)
        outliers = cluster.outliers
        is_well = result in (CheckResult.HEALTHY, CheckResult.DEGRADED)
        if is_well and outliers is not None and outliers.config.successful_active_health_check_uneject_host:
            outliers.let_back(endpoint, now)
        if changed:
            logger.info("%s is %s", endpoint, "unhealthy" if endpoint.fails_checks else "healthy")
            self._refresh(cluster)
        self._arm(endpoint, state.next_delay(cluster.last_used_at is not None, random.random))
