"""Endpoints by DNS, for STRICT_DNS and LOGICAL_DNS clusters (Envoy docs, upstream/service_discovery).

Look-ups are the system's own (`getaddrinfo`), on a few worker threads since they block. A look-up that fails keeps
the addresses of the last one that did not.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from msgspec.structs import replace

from ..log_lines import logger_of
from ..resources import Address, Cluster, DnsDiscovery, EndpointConfig, Endpoints
from ..xds import ControlLoop, Timer

__all__ = ["DnsResolver", "lookup"]

logger = logger_of("meshsdk.dns")

# Look-ups block a thread each; four names at a time are enough, since each is asked every few seconds at most.
_WORKERS = 4

_FAMILIES = {"V4_ONLY": socket.AF_INET, "V6_ONLY": socket.AF_INET6}


def lookup(host: str, family: str) -> list[str]:
    """The addresses of a host name, in the resolver's order (Cluster.DnsLookupFamily).

    Raises:
        OSError: There are none.
    """
    found = socket.getaddrinfo(host, None, _FAMILIES.get(family, socket.AF_UNSPEC), socket.SOCK_STREAM)
    v4 = list(dict.fromkeys(str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET))
    v6 = list(dict.fromkeys(str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET6))
    if family == "ALL":
        return v6 + v4
    if family == "V4_PREFERRED":
        return v4 or v6
    return v6 or v4 if family == "AUTO" else v4 + v6


class DnsResolver:
    """Keeps the endpoints of DNS clusters current. Control thread only.

    Args:
        loop: The control thread.
        on_change: Called when the endpoints of some cluster changed or became known.
        resolve: Host name and family to addresses; blocking.
    """

    def __init__(
        self,
        loop: ControlLoop,
        on_change: Callable[[], None],
        resolve: Callable[[str, str], list[str]] = lookup,
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._resolve = resolve
        self._clusters: dict[str, Cluster] = {}
        self._endpoints: dict[str, Endpoints] = {}
        self._problems: dict[str, str] = {}
        self._timers: dict[str, Timer] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._changed: set[str] = set()

    def take_changed(self) -> set[str]:
        """The clusters whose endpoints have changed since this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def track(self, clusters: Iterable[Cluster]) -> None:
        """From now on, resolve exactly these DNS clusters."""
        wanted = {cluster.name: cluster for cluster in clusters}
        for name in self._clusters.keys() - wanted.keys():
            self._drop(name)
        for name, cluster in wanted.items():
            known = self._clusters.get(name)
            self._clusters[name] = cluster
            if known is None or known.discovery != cluster.discovery:
                self._start(name)

    def endpoints(self, cluster: str) -> Endpoints | None:
        """The last endpoints found; None where there are none yet."""
        return self._endpoints.get(cluster)

    def problem(self, cluster: str) -> str:
        """Why the last look-up failed; empty where it did not, or none has ended yet."""
        return self._problems.get(cluster, "")

    def close(self) -> None:
        """Stop all look-ups."""
        for name in list(self._clusters):
            self._drop(name)
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _drop(self, name: str) -> None:
        for table in (self._clusters, self._endpoints, self._problems):
            table.pop(name, None)
        self._end_timer(name)

    def _end_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _start(self, name: str) -> None:
        self._end_timer(name)
        cluster = self._clusters.get(name)
        if cluster is None:
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="meshsdk-dns")
        future = self._executor.submit(resolve_endpoints, dns_discovery(cluster), self._resolve)
        future.add_done_callback(lambda done: self._loop.post(partial(self._finish, cluster, done)))

    def _finish(self, cluster: Cluster, done: Future[Endpoints]) -> None:
        name = cluster.name
        known, discovery = self._clusters.get(name), dns_discovery(cluster)
        # Of a cluster that is another in something else, the answer is as good.
        if known is None or known.discovery != discovery or done.cancelled():
            return
        error = done.exception()
        if error is None:
            found = done.result()
            changed = found != self._endpoints.get(name) or name in self._problems
            self._endpoints[name] = found
            self._problems.pop(name, None)
            delay = discovery.refresh_seconds
        else:
            problem = f"DNS look-up failed: {error}"
            changed = problem != self._problems.get(name)
            self._problems[name] = problem
            delay = discovery.failure_refresh_seconds
            if changed:
                logger.warning("cluster %s: %s", name, problem)
        self._end_timer(name)
        self._timers[name] = self._loop.call_later(delay, partial(self._start, name))
        if changed:
            self._changed.add(name)
            self._on_change()


def dns_discovery(cluster: Cluster) -> DnsDiscovery:
    """The DNS settings of a cluster that is known to have some."""
    assert isinstance(cluster.discovery, DnsDiscovery)
    return cluster.discovery


def resolve_endpoints(discovery: DnsDiscovery, resolve: Callable[[str, str], list[str]]) -> Endpoints:
    """The endpoints that stand behind the host names of a DNS cluster. Blocking.

    Raises:
        OSError: No name has an address.
    """
    addresses: dict[str, list[str]] = {}
    errors: list[OSError] = []
    for locality in discovery.endpoints.localities:
        for endpoint in locality.endpoints:
            host = endpoint.address.host
            if host not in addresses:
                try:
                    addresses[host] = resolve(host, discovery.family)
                except (OSError, UnicodeError) as error:
                    addresses[host] = []
                    errors.append(error if isinstance(error, OSError) else OSError(str(error)))
    if errors and not any(addresses.values()):
        raise errors[0]
    return replace(
        discovery.endpoints,
        localities=tuple(
            replace(locality, endpoints=_resolved(locality.endpoints, addresses, discovery.logical))
            for locality in discovery.endpoints.localities
        ),
    )


def _resolved(
    endpoints: Iterable[EndpointConfig], addresses: Mapping[str, list[str]], logical: bool
) -> tuple[EndpointConfig, ...]:
    resolved = []
    for endpoint in endpoints:
        found = addresses[endpoint.address.host]
        for address in found[:1] if logical else found:
            # Envoy: a resolved host keeps the name it was resolved from, for SNI and auto_host_rewrite.
            resolved.append(
                replace(
                    endpoint,
                    address=Address(address, endpoint.address.port),
                    hostname=endpoint.hostname or endpoint.address.host,
                )
            )
    return tuple(resolved)
