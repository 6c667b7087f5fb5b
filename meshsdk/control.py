"""The control side of one Mesh: the control thread, and what it publishes to the data side.

    source → cache → graph.resolve → Snapshot → Directory → one reference swap

The data side reads `Control.directory` and nothing else. Nothing here starts before it is needed, so that a Mesh may
be made before a fork; in a forked child everything starts afresh at the next use.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from .bootstrap import Bootstrap
from .discovery import SERVER_ROOT, Changes, DnsResolver, Graph, Snapshot
from .errors import RequestError
from .exchange import Directory
from .followed import OpenLogService, Stats, follow_logs, follow_metrics
from .forked import keep
from .http.runtime import HasCertificates, LocalReplies, Transport, UnknownHosts
from .load_reporter import LoadReporters, follow_loads
from .log_lines import logger_of
from .mesh_status import MeshStatus
from .nearby import Nearby
from .rotation import RotationWatch
from .security import Identity, Secrets
from .status import status_of
from .xds import ControlLoop, ResourceCache, ResourceKey, Source, Timer, Wanted

if TYPE_CHECKING:
    from .access_log import AccessLogs
    from .health import HealthWatcher
    from .inbound import InboundPolicy
    from .telemetry.istio_metrics import IstioMetrics
    from .telemetry.span_tags import SpanTags

__all__ = ["Control", "SourceFactory"]

logger = logger_of("meshsdk")

T = TypeVar("T")

SourceFactory = Callable[[ResourceCache, ControlLoop], Source]

# Hosts that requests asked for and that the mesh does not know; beyond this the oldest are forgotten.
_MAX_LISTENERS = 4096

# A source in memory answers while it is asked; configuration deeper than this has a circle in it.
_MAX_ROUNDS = 64


class _Waiter(Struct, eq=False):
    names: tuple[str, ...]
    callback: Callable[[], None]


class Control:
    """Keeps `directory` current. Implements `http.dispatcher.Runtime`.

    Args:
        bootstrap: Node and naming templates.
        make_source: Makes the source of resources, when it is first needed.
        local_replies: `respond` or `raise`.
        unknown_hosts: `allow` or `deny`.
        identity: The process's own, where it has one.

    Attributes:
        metrics: Counts requests; None where nobody asks for it.
        access_logs: Tells of requests; None where nobody asks for it.
        open_log_service: Opens a server that is told of requests.
        keeps_logs: What configuration says of access logs counts.
        published_at: When the directory last changed, in seconds since the epoch; 0 is never.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        make_source: SourceFactory,
        *,
        local_replies: LocalReplies = "respond",
        unknown_hosts: UnknownHosts = "allow",
        identity: Identity | None = None,
    ) -> None:
        self.bootstrap = bootstrap
        self.local_replies: LocalReplies = local_replies
        self.unknown_hosts: UnknownHosts = unknown_hosts
        self._make_source = make_source
        self._secrets = Secrets(bootstrap.certificate_providers, identity, lambda name: self._cache.secret(name))
        self._transports: weakref.WeakSet[Transport] = weakref.WeakSet()
        self._start_lock = threading.Lock()
        self._is_closed = False
        self.metrics: IstioMetrics | None = None
        self.access_logs: AccessLogs | None = None
        self.keeps_logs = True
        self.open_log_service: OpenLogService | None = None
        self._clear()

    def _clear(self) -> None:
        self.directory = Directory()
        self.published_at = 0.0
        self.policies: Mapping[str, InboundPolicy] = MappingProxyType({})
        self._loop: ControlLoop | None = None
        self._rotation = RotationWatch(self.call_later)
        self._cache = ResourceCache()
        self._source: Source | None = None
        self._dns: DnsResolver | None = None
        self._graph: Graph | None = None
        self._health: HealthWatcher | None = None
        self._roots: dict[str, None] = {}
        # Some have come, or something has been learnt of them, since they were last looked through.
        self._may_forget = False
        self._waiters: list[_Waiter] = []
        self._watchers: list[Callable[[], None]] = []
        self._seen_by_watchers = -1
        self._seen_changes = -1
        self._is_dirty = self._is_whole = False
        # What has changed and may have notes that nobody has been told of.
        self._unnoted: set[ResourceKey] = set()
        self._unpublished = Changes()
        self._wanted: Wanted = {}
        self._call_later: Callable[[float, Callable[[], None]], Timer] | None = None
        self._end_of_withdrawn: Timer | None = None
        self._logged_notes: set[str] = set()
        self._stats: Stats = ()
        self._loads: LoadReporters | None = None

    # From any thread.

    @property
    def problem(self) -> str:
        """Why configuration may not be current; empty where all is well."""
        source = self._source
        return source.problem if source is not None else ""

    @property
    def is_closed(self) -> bool:
        """Whether it has been closed."""
        return self._is_closed

    @property
    def source(self) -> Source | None:
        """Where resources come from; None before the first use."""
        return self._source

    @property
    def cache(self) -> ResourceCache:
        """What is known of each resource; on the control thread, but for what it counts."""
        return self._cache

    def hint(self, host: str, port: int) -> str:
        """See `Runtime.hint`."""
        return self._nearby.hint(host, port)

    @cached_property
    def _nearby(self) -> Nearby:
        return Nearby(lambda: getattr(self._source, "hosts", ()), self.bootstrap.node)

    @property
    def secrets(self) -> Secrets:
        """See `Runtime.secrets`."""
        return self._secrets

    @cached_property
    def span_tags(self) -> SpanTags:
        """See `Runtime.span_tags`."""
        from .http.traced import span_tags_of

        return span_tags_of(self.bootstrap.node)

    def listener_names(self, host: str, port: int, **how: Any) -> tuple[str, ...]:
        """See `Bootstrap.listener_names`."""
        return self.bootstrap.listener_names(host, port, **how)

    def when_settled(self, names: Sequence[str], callback: Callable[[], None]) -> Callable[[], None]:
        """See `Runtime.when_settled`."""
        waiter = _Waiter(tuple(names), callback)
        loop = self._started()
        loop.post(lambda: self._add_waiter(waiter))
        return lambda: loop.post(lambda: self._drop_waiter(waiter))

    def start(self) -> None:
        """Start the control thread, where that has not been done.

        Raises:
            RequestError: The Mesh is closed.
        """
        self._started()

    def post(self, callback: Callable[[], None]) -> None:
        """Have `callback` run on the control thread. Never blocks; nothing happens where the Mesh is closed."""
        loop = self._loop
        if loop is not None and not self._is_closed:
            loop.post(callback)

    def call_later(self, delay_seconds: float, callback: Callable[[], None]) -> None:
        """Have `callback` run on the control thread after `delay_seconds`. From any thread."""
        loop = self._loop
        if loop is not None and not self._is_closed:
            loop.post(partial(loop.call_later, delay_seconds, callback))

    def watch(self, callback: Callable[[], None]) -> None:
        """Have `callback` run on the control thread now, and whenever the directory or an endpoint's health changed."""
        self._started().post(lambda: self._add_watcher(callback))

    def register(self, transport: Transport) -> None:
        """See `Runtime.register`."""
        self._transports.add(transport)

    def watch_certificates(self, transport: HasCertificates) -> None:
        """See `Runtime.watch_certificates`."""
        self._rotation.add(transport)

    def call(self, function: Callable[[], T], timeout_seconds: float = 5.0) -> T:
        """Run `function` on the control thread and wait for its result.

        Raises:
            TimeoutError: The control thread is too busy.
        """
        done = threading.Event()
        results: list[T] = []

        def run() -> None:
            try:
                results.append(function())
            finally:
                done.set()

        self._started().post(run)
        if not done.wait(timeout_seconds) or not results:
            raise TimeoutError("the control thread did not answer")
        return results[0]

    def status(self) -> MeshStatus:
        """Resources with their versions and errors, and clusters with their endpoints."""
        return self.call(self._status)

    def close(self) -> None:
        """Stop the control thread. Safe to call again; the directory stays readable."""
        with self._start_lock:
            self._is_closed = True
            loop = self._loop
        if loop is not None:
            loop.post(self._shut_down)
            loop.stop()

    def after_fork(self) -> None:
        """In a forked child: start afresh at the next use."""
        self._start_lock = threading.Lock()
        keep(self._source)
        keep(self._health)
        keep(self._loads)
        self._clear()
        for transport in list(self._transports):
            transport._after_fork()

    def _started(self) -> ControlLoop:
        loop = self._loop
        if loop is not None and not self._is_closed:
            return loop
        with self._start_lock:
            if self._is_closed:
                raise RequestError("the Mesh is closed")
            if self._loop is None:
                loop = ControlLoop("meshsdk-control", self._after_batch)
                self._call_later = loop.call_later
                self._source = self._make_source(self._cache, loop)
                self._dns = DnsResolver(loop, self._mark_dirty)
                self._graph = Graph(self._cache, self._dns, complete=self.bootstrap.node.complete)
                from .health import HealthWatcher  # When traffic begins: importing meshsdk stays quick.

                self._health = HealthWatcher(loop, self._secrets, self.watch_certificates)
                for note in self.bootstrap.notes:
                    self._log_once(note)
                loop.start()
                self._loop = loop
            return self._loop

    # On the control thread.

    def _mark_dirty(self) -> None:
        self._is_dirty = True

    def _add_waiter(self, waiter: _Waiter) -> None:
        self._waiters.append(waiter)
        for name in waiter.names:
            # Asked for again: the last to be forgotten.
            self._roots.pop(name, None)
            self._roots[name] = None
        self._is_dirty = self._may_forget = True

    def _add_watcher(self, callback: Callable[[], None]) -> None:
        self._watchers.append(callback)
        callback()

    def _drop_waiter(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def _after_batch(self) -> None:
        self._forget_unknown_hosts()
        for _ in range(_MAX_ROUNDS):
            if not self._is_dirty and self._cache.changes == self._seen_changes:
                break
            self._seen_changes = self._cache.changes
            self._resolve()
        self._tell_watchers()
        self._tell_waiters()

    def _resolve(self) -> None:
        assert self._graph is not None
        assert self._dns is not None
        assert self._source is not None
        assert self._call_later is not None
        now = time.monotonic()
        changed = self._cache.take_changed()
        self._unnoted |= changed
        # Until it is done: after a failure all is looked for again.
        is_whole, self._is_whole = self._is_whole, False
        roots = self._roots if self._is_dirty or not is_whole else None
        self._is_dirty = False
        resolution = self._graph.resolve(roots, now, changed if is_whole else None)
        self._is_whole = True
        if self._end_of_withdrawn is not None:
            self._end_of_withdrawn.cancel()
            self._end_of_withdrawn = None
        if resolution.ends_at is not None:
            self._end_of_withdrawn = self._call_later(resolution.ends_at - now, self._mark_dirty)
        if resolution.snapshot.version != self.directory.version:
            self._publish(resolution.snapshot)
        self._dns.track(resolution.dns_clusters)
        if resolution.wanted is not self._wanted:
            self._source.subscribe(resolution.wanted)
            self._wanted = resolution.wanted

    def _publish(self, snapshot: Snapshot) -> None:
        assert self._health is not None
        # Kept until all have followed: a failure on the way leaves the rest to the next snapshot.
        self._unpublished |= self.directory.changes_to(snapshot)
        changes = self._unpublished
        if changes.listeners or changes.servers:
            self._publish_logs(snapshot)  # Before anybody sees the new directory.
        elif self.access_logs is not None:
            self.access_logs.forget()
        self.directory = self.directory.advance(snapshot, time.monotonic())
        self.published_at = time.time()
        self.directory.retire_those_that_left()
        if changes.servers:
            self._publish_policies(snapshot)
        self._health.follow(changes.clusters, self.directory.clusters)
        self._loads = follow_loads(self._loads, changes.clusters, self.bootstrap, self._loop, lambda: self.directory)
        for name in changes.listeners:
            self._may_forget = True
            target = self.directory.targets.get(name)
            if target is not None and target.problem and not (target.view.does_not_exist or target.view.passes_through):
                self._log_once(target.problem)
        for transport in list(self._transports):
            transport._drop_removed()
        self._log_notes()
        self._unpublished = Changes()

    def _log_notes(self) -> None:
        unnoted, self._unnoted = self._unnoted, set()
        for kind, name in unnoted:
            entry = self._cache.get(kind, name)
            for note in getattr(entry.resource, "notes", ()) if entry is not None else ():
                self._log_once(f"{name}: {note}")

    def _publish_policies(self, snapshot: Snapshot) -> None:
        before, policies = self.policies, {}
        for name, view in snapshot.servers.items():
            known = before.get(name)
            if known is None or known.view is not view:
                from .inbound import compile_policy  # Nobody pays for servers who runs none.

                policies[name] = compile_policy(view, known, self.bootstrap.node.cluster)
                if policies[name].problem:
                    self._log_once(policies[name].problem)
            else:
                policies[name] = known
        self.policies = policies

    def _publish_logs(self, snapshot: Snapshot) -> None:
        configs = snapshot.access_logs if self.keeps_logs else []
        self.access_logs, problems = follow_logs(self.access_logs, configs, self.open_log_service)
        self._stats = snapshot.stats
        self.follow_metrics(problems)

    def follow_metrics(self, problems: Sequence[str] = ()) -> None:
        """Have metrics labelled as configuration says; tell what is wrong with that, and else. From any thread."""
        for problem in (*problems, *follow_metrics(self.metrics, self._stats, self.bootstrap.node)):
            self._log_once(problem)

    def _log_once(self, message: str) -> None:
        if message not in self._logged_notes and len(self._logged_notes) < 10_000:
            self._logged_notes.add(message)
            logger.warning("%s", message)

    def _tell_waiters(self) -> None:
        servers = {f"{SERVER_ROOT}{name}" for name in self.policies}
        settled: list[_Waiter] = []
        waiting: list[_Waiter] = []
        for waiter in self._waiters:
            is_known = servers.issuperset(waiter.names) or self.directory.find(waiter.names) is not None
            (settled if is_known else waiting).append(waiter)
        self._waiters = waiting
        for waiter in settled:
            waiter.callback()

    def _tell_watchers(self) -> None:
        assert self._health is not None
        seen = self.directory.version + self._health.changes
        if seen != self._seen_by_watchers:
            self._seen_by_watchers = seen
            for watcher in self._watchers:
                watcher()

    def _forget_unknown_hosts(self) -> None:
        if len(self._roots) <= _MAX_LISTENERS or not self._may_forget:
            return
        self._may_forget = False
        targets = self.directory.targets
        for name in list(self._roots):
            if len(self._roots) <= _MAX_LISTENERS:
                break
            if name in targets and targets[name].view.does_not_exist:
                del self._roots[name]
                self._is_dirty = True

    def _shut_down(self) -> None:
        for part in (self._loads, self._source, self._dns, self._health):
            if part is not None:
                part.close()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback()

    def _status(self) -> MeshStatus:
        failures = self._loop.failures if self._loop is not None else 0
        return status_of(self.directory, self._cache, self._source, self._loads, self.bootstrap.notes, failures)
