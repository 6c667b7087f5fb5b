"""Istio's standard metrics, as the filter istio_stats of a sidecar counts them.

A request is counted once, when it is over, in a row that its labels stand for. What the labels are depends on little
(whom it went to, who that is, how it ended), so each engine keeps the row of such a short key in `known`, and makes
labels only where there is none; configuration that changes forgets them all.

Source: Envoy contrib/istio/filters/http/istio_stats/source/istio_stats.cc (populatePeerInfo, reportHelper).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .cells import HTTP, MESSAGES, Cells, Memory, PrivateMemory, Rows
from .label_names import MESSAGE_LABELS, REQUEST_LABELS, STANDARD_LABELS
from .label_overrides import Chosen, LabelOverrides
from .peer_metadata import Peers, own_headers
from .service import Service
from .workload import NOBODY, UNKNOWN, Workload, bounded, namespace_of

__all__ = ["DEFAULT_MAX_SERIES", "MESSAGE_LABELS", "REQUEST_LABELS", "STANDARD_LABELS", "IstioMetrics", "Outcome"]

T = TypeVar("T")

# Sets of labels. A scrape tells about 50 kB of each, a quarter of a millisecond's work.
DEFAULT_MAX_SERIES = 1000

# Sets of labels that peers have named themselves into which have proven nothing; beyond them they are nobody. So
# strangers leave the others room.
_MAX_ROWS_OF_STRANGERS = 300

# Beyond this all is found out anew.
_MAX_KNOWN = 8192

# Hosts outside the mesh that have series of their own: a crawler must not take the room of all others.
_MAX_OUTSIDE_HOSTS = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended.

    Attributes:
        protocol: `http` or `grpc`.
        status: HTTP's; 0 where no response began.
        grpc_status: Its number; empty where none came.
        flags: Envoy's, in the order in which they were set, with commas; empty for none.
    """

    protocol: str
    status: int
    grpc_status: str = ""
    flags: str = ""


class IstioMetrics:
    """What one process counts.

    Args:
        own: The process.
        service: That its servers are.
        begin_http: Begins the record of a request that httpx sends.
        domain: Of the names of the mesh's services.
        node_id, metadata: Of the bootstrap, for peers.
        own_principal: Gives its SPIFFE ID; empty where it has none.
        make_memory: Makes where the numbers are, when the first is counted in this process.
        on_first: Told then.

    Attributes:
        known: What engines have found out before, by keys of their own: rows, and what depends on configuration.
        own_headers: What peers of the mesh are told.
        callers, servers: What peers of either kind have told.
        recent: What keeps the last requests; None where nobody looks at them.
        overrides: Of the labels, by the identity of what configuration says, which is kept beside them; mostly none.
    """

    def __init__(
        self,
        own: Workload,
        service: Service,
        begin_http: Callable[..., Any],
        domain: str = "cluster.local",
        node_id: str = "",
        metadata: Mapping[str, Any] | None = None,
        own_principal: Callable[[], str] = str,
        make_memory: Callable[[], Memory] = lambda: PrivateMemory(DEFAULT_MAX_SERIES + 1),
        on_first: Callable[[], None] = lambda: None,
    ) -> None:
        self.begin_http = begin_http
        self.own = own
        self.service = service
        self.domain = domain
        self.own_headers = own_headers(node_id, metadata or {}, own)
        self.own_principal = own_principal
        self.recent: Any = None
        self.overrides: Mapping[int, tuple[object, LabelOverrides | None]] = {}
        self._make_memory = make_memory
        self._on_first = on_first
        self._make_recorder: Callable[[Cells], Callable[[int, int, int, int], None]] | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: what the parent has counted is the parent's."""
        self.known: dict[Any, Any] = {}
        self.callers = Peers()
        self.servers = Peers()
        self._rows_of_strangers: set[tuple[object, ...]] = set()
        self._cells: Cells | None = None
        self._lock = threading.RLock()  # See `cells`.
        self._outside: set[str] = set()
        if self.recent is not None:
            self.recent.after_fork()

    def drop_removed(self) -> None:
        """Configuration has changed, and so may have what an endpoint or a cluster is."""
        self.known = {}

    @property
    def cells(self) -> Cells:
        """Where it is counted."""
        cells = self._cells
        if cells is None:
            with self._lock:
                cells = self._cells
                if cells is None:
                    cells = Cells(self._make_memory())
                    if self._make_recorder is not None:
                        cells.recorder = self._make_recorder(cells)
                    self._cells = cells
            self._on_first()
        return cells

    def record_by(self, make: Callable[[Cells], Callable[[int, int, int, int], None]]) -> None:
        """Have each request recorded elsewhere, too; once and for all."""
        with self._lock:
            if self._make_recorder is None:
                self._make_recorder = make
                if self._cells is not None:
                    self._cells.recorder = make(self._cells)

    def overrides_of(self, config: object) -> LabelOverrides | None:
        """What a listener makes of the labels; None leaves them as they are.

        Args:
            config: What it says; None is nothing.
        """
        found = self.overrides.get(id(config))
        return found[1] if found is not None else None

    def remember(self, key: Any, found: T) -> T:
        """Know something by a key."""
        if len(self.known) >= _MAX_KNOWN:
            self.known = {}
        self.known[key] = found
        return found

    def sent(
        self,
        service: Service,
        peer: Workload,
        principal: str,
        outcome: Outcome,
        *,
        of_messages: bool = False,
        chosen: Chosen | None = None,
    ) -> Rows:
        """The row of a request that this process has sent.

        Args:
            service: That it was for.
            peer: Who got it.
            principal: The peer's SPIFFE ID; empty where it has proven none, and then we to it neither.
            outcome: How it ended.
            of_messages: The row of the call's messages.
            chosen: What configuration makes of the labels; None leaves them as Istio has them.
        """
        if service.is_outside:
            service = self._bounded_outside(service)
        peer = self._bounded_stranger(peer, principal, (service, outcome, of_messages))
        namespace = namespace_of(principal) or peer.namespace
        source = _side(self.own, self.own.namespace, self.own_principal() if principal else "")
        destination = _side(peer, namespace, principal)
        labels = (
            "source",
            *source,
            *destination,
            service.host,
            service.name,
            service.namespace or (UNKNOWN if service.is_outside else namespace),
        )
        # A client does not say how it was secured: istio_stats leaves that to whoever it came to.
        return self._row(labels, outcome, UNKNOWN, of_messages, chosen)

    def received(
        self,
        peer: Workload | None,
        principal: str,
        own_principal: str,
        outcome: Outcome,
        *,
        of_messages: bool = False,
        chosen: Chosen | None = None,
    ) -> Rows:
        """The row of a request that has come.

        Args:
            peer: Who sent it; None is not known.
            principal: Its SPIFFE ID; empty where it has proven none.
            own_principal: Ours, as the connection shows it; empty where it is plaintext.
            outcome: How it ended.
            of_messages: The row of the call's messages.
            chosen: See `sent`.
        """
        peer = self._bounded_stranger(peer or NOBODY, principal, (outcome, of_messages))
        source = _side(peer, namespace_of(principal) or peer.namespace, principal)
        destination = _side(self.own, self.own.namespace, own_principal)
        service = self.service
        labels = (
            "destination",
            *source,
            *destination,
            service.host,
            service.name,
            service.namespace or self.own.namespace,
        )
        policy = "mutual_tls" if principal and own_principal else "none"
        return self._row(labels, outcome, policy, of_messages, chosen)

    def _row(
        self, labels: tuple[str, ...], outcome: Outcome, policy: str, of_messages: bool, chosen: Chosen | None
    ) -> Rows:
        kind = MESSAGES if of_messages else HTTP
        if not of_messages:
            ending = (outcome.protocol, str(outcome.status), outcome.grpc_status, outcome.flags or "-", policy)
            labels = (*labels, *ending)
        if chosen is None:
            return self.cells.row(kind, labels)
        overrides, values = chosen
        return tuple([self.cells.row(*row) for row in overrides.rows(kind, labels, values)])

    def _bounded_stranger(self, peer: Workload, principal: str, labels: tuple[object, ...]) -> Workload:
        if principal or peer is NOBODY or (peer, labels) in self._rows_of_strangers:
            return peer
        if len(self._rows_of_strangers) >= _MAX_ROWS_OF_STRANGERS:
            return NOBODY
        self._rows_of_strangers.add((peer, labels))
        return peer

    def _bounded_outside(self, service: Service) -> Service:
        if service.host not in self._outside:
            if len(self._outside) >= _MAX_OUTSIDE_HOSTS:
                name = service.name if service.name != service.host else UNKNOWN
                return Service(UNKNOWN, name, is_outside=True)
            self._outside.add(service.host)
        return service


def _side(one: Workload, namespace: str, principal: str) -> tuple[str, ...]:
    """The labels of one side, in the order of `_SIDE`."""
    return (
        one.name,
        namespace,
        bounded(principal),
        one.app,
        one.version,
        one.canonical_service,
        one.canonical_revision,
        one.cluster,
    )
