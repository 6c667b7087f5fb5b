"""The engine's own metrics: clusters, configuration, and the process's certificate.

Nothing is counted for them on the way of a request. What is asked for are plain integers that the engine keeps for
itself, read by whoever makes the page: from any thread, without a lock, and without waiting for the control thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import nsmallest

from ..balancing import Cluster
from ..balancing.circuit_breaker import CircuitBreaker
from ..control import Control
from ..errors import IdentityError, ResourceError
from ..log_lines import logger_of
from ..security import Secrets
from ..telemetry.prometheus import Family

__all__ = ["MAX_CLUSTERS", "OTHERS", "OwnCertificate", "engine_families"]

logger = logger_of("meshsdk.telemetry")

# Clusters that are told of one by one, the first by name; what the others have is summed.
MAX_CLUSTERS = 500
OTHERS = "(others)"

# Thresholds are uint32, and the highest of them is what istiod sends for none.
_NO_LIMIT = (1 << 32) - 1

_BY_CLUSTER = ("cluster",)


def engine_families(control: Control, certificate: OwnCertificate) -> Iterator[Family]:
    """All of them, as they are now."""
    yield from _of_clusters(list(control.directory.clusters.values()))
    yield from _of_configuration(control)
    yield from certificate.families()


def _both(count: Callable[[CircuitBreaker], int]) -> Callable[[Cluster], int]:
    """Of both routing priorities."""
    return lambda cluster: count(cluster.breaker) + count(cluster.high_breaker)


_GAUGES: dict[str, Callable[[Cluster], int]] = {
    "requests_active": _both(lambda breaker: breaker.requests),
    "requests_pending": _both(lambda breaker: breaker.pending),
    "connections_active": _both(lambda breaker: breaker.connections),
    "retries_active": _both(lambda breaker: breaker.retries),
}
_COUNTERS: dict[str, Callable[[Cluster], int]] = {
    "connects": _both(lambda breaker: breaker.connects),
    "connect_failures": _both(lambda breaker: breaker.connect_failures),
    "tls_handshakes": _both(lambda breaker: breaker.handshakes),
    "retries": _both(lambda breaker: breaker.retried),
    "overflows": _both(lambda breaker: breaker.overflows),
    "ejections": lambda cluster: outliers.ejections if (outliers := cluster.outliers) is not None else 0,
}
_LIMITS: dict[str, Callable[[CircuitBreaker], float]] = {
    "requests_limit": lambda breaker: breaker.max_requests,
    "requests_pending_limit": lambda breaker: breaker.max_pending,
    "connections_limit": lambda breaker: breaker.max_connections,
    "retries_limit": lambda breaker: breaker.max_retries,
}
_OF_ENDPOINTS = ("endpoints", "endpoints_healthy", "endpoints_ejected")


def _of_clusters(clusters: list[Cluster]) -> Iterator[Family]:
    shown = clusters
    if len(clusters) > MAX_CLUSTERS:
        shown = nsmallest(MAX_CLUSTERS, clusters, key=lambda one: one.name)
    names = {cluster.name for cluster in shown}
    others = [cluster for cluster in clusters if cluster.name not in names]

    def samples(count: Callable[[Cluster], int]) -> list[tuple[tuple[str, ...], float]]:
        told: list[tuple[tuple[str, ...], float]] = [((cluster.name,), count(cluster)) for cluster in shown]
        return [*told, ((OTHERS,), sum(map(count, others)))] if others else told

    yield Family("meshsdk_clusters", "gauge", (), [((), len(clusters))])
    found = {cluster.name: cluster.census() for cluster in clusters}
    for place, name in enumerate(_OF_ENDPOINTS):
        yield Family(f"meshsdk_cluster_{name}", "gauge", _BY_CLUSTER, samples(_at(found, place)))
    for name, count in _GAUGES.items():
        yield Family(f"meshsdk_cluster_{name}", "gauge", _BY_CLUSTER, samples(count))
    for name, count in _COUNTERS.items():
        yield Family(f"meshsdk_cluster_{name}_total", "counter", _BY_CLUSTER, samples(count))
    for name, limit in _LIMITS.items():
        told = [
            ((cluster.name, priority), limit(breaker))
            for cluster in shown
            for priority, breaker in (("default", cluster.breaker), ("high", cluster.high_breaker))
            if limit(breaker) < _NO_LIMIT
        ]
        yield Family(f"meshsdk_cluster_{name}", "gauge", ("cluster", "priority"), told)


def _at(found: Mapping[str, Sequence[int]], place: int) -> Callable[[Cluster], int]:
    return lambda cluster: found[cluster.name][place]


def _of_configuration(control: Control) -> Iterator[Family]:
    source, cache = control.source, control.cache
    if source is None:
        return  # Nobody has asked for anything yet.

    def one(name: str, value: float, kind: str = "gauge") -> Family:
        return Family(f"meshsdk_{name}", kind, (), [((), value)])

    yield one("xds_connected", int(source.is_connected))
    yield one("xds_failures_total", source.failures, "counter")
    by_kind = ("type",)
    resources = [((kind.name.lower(), status.value.lower()), count) for (kind, status), count in cache.counts.items()]
    yield Family("meshsdk_xds_resources", "gauge", (*by_kind, "status"), resources)
    for name, counts in (("updates", cache.updates), ("rejections", cache.rejections)):
        told = [((kind.name.lower(),), count) for kind, count in counts.items()]
        yield Family(f"meshsdk_xds_{name}_total", "counter", by_kind, told)
    yield one("xds_heard_timestamp_seconds", cache.heard_at)
    yield one("configuration_version", control.directory.version)
    yield one("configuration_changed_timestamp_seconds", control.published_at)
    yield one("configuration_problem", int(bool(control.problem)))


class OwnCertificate:
    """Until when the process's own certificate is good.

    Args:
        secrets: That it is found by.
    """

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._has_told = False
        self._read = b""
        self._validity = (0.0, 0.0)

    def families(self) -> Iterator[Family]:
        """What is told of it. An identity that nobody has used yet is not waited for."""
        try:
            problem, begin, end = self._find()
        except Exception as error:  # An identity may be the application's own, and all of the page is not.
            if not self._has_told:
                self._has_told = True
                logger.exception("the identity cannot be asked until when it is good")
            problem, begin, end = repr(error), 0.0, 0.0
        if end:
            yield Family("meshsdk_certificate_expiry_timestamp_seconds", "gauge", (), [((), end)])
            yield Family("meshsdk_certificate_issued_timestamp_seconds", "gauge", (), [((), begin)])
        if end or problem:
            yield Family("meshsdk_certificate_problem", "gauge", (), [((), int(bool(problem)))])

    def _find(self) -> tuple[str, float, float]:
        """What is wrong, and the validity's beginning and end; 0 where it is not known."""
        identity = self._secrets.identity
        if identity is None:
            return self._in_files()
        if getattr(identity, "expires_at", None) is None:
            return identity.problem, 0.0, 0.0
        try:
            credentials = identity.credentials()
        except IdentityError as error:
            return str(error), 0.0, 0.0
        return identity.problem, credentials.issued_at, credentials.expires_at

    def _in_files(self) -> tuple[str, float, float]:
        """Of a bootstrap's certificate provider, whose files an agent writes."""
        try:
            source = self._secrets.own_identity().certificate
        except ResourceError:
            return "", 0.0, 0.0  # There is none.
        try:
            read = source.read()
            if read != self._read:
                from cryptography import x509

                leaf = x509.load_pem_x509_certificates(read)[0]
                self._validity = (leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())
                self._read = read
        except (OSError, ValueError, IndexError) as error:
            return str(error) or "it cannot be read", 0.0, 0.0
        return "", *self._validity
