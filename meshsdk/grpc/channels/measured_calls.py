"""What Istio's metrics and access logs say of a call that goes out.

An answer to a gRPC request is an HTTP 200 even where a sidecar makes it itself, and the call's status says the rest.
Whom a call went to is known as for outlier detection, by the endpoint's cookie. grpc-core tells neither whether retries
ran out nor whose certificate it has verified; where a cluster takes one identity only, that is the peer's.
"""

from __future__ import annotations

import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import grpc

from ...access_log import AccessLogs, Entry
from ...access_log.metric_tags import Seen
from ...balancing import Cluster, Endpoint
from ...exchange import LocalReply
from ...http.endings import flag_of_reply
from ...http.measured import Destination, destination_of, service_without_cluster
from ...resources import Listener, StringMatchKind
from ...routing import RequestHead
from ...telemetry.cells import Rows
from ...telemetry.istio_metrics import IstioMetrics, Outcome
from ...telemetry.label_overrides import Chosen, LabelOverrides
from ...telemetry.service import BLACK_HOLE, PASSTHROUGH, Service, outside
from ...telemetry.workload import NOBODY, Workload, workload_of_endpoint
from ..message_tally import OF_MESH, MessageTally
from .logged_calls import Answer, Tried, WayOfCall, entry_of, refused_entry, size_of_answer

__all__ = ["CallRecord"]

Metadata = Iterable[tuple[str, str | bytes]] | None
FindEndpoint = Callable[[Metadata], Endpoint | None]

# While a stream goes on, its messages are told every five seconds (istio_stats, reporting_interval).
_TELL_SECONDS = 5.0

# An endpoint that could not be reached, as grpc-core names it in a call's status.
_ADDRESS = re.compile(r"(?:ipv4|ipv6):(\S+?): ")

# What gRPC's own libraries say of a call that its caller has cancelled, and of one whose time is over.
_CANCELLED_HERE = "Locally cancelled"
_OUT_OF_TIME = "Deadline Exceeded"
# And of one whose connection was there, and ended.
_BROKEN = ("Socket closed", "Connection reset", "recvmsg:", "GOAWAY", "Stream removed")


class CallRecord:
    """One call while it lasts.

    Args:
        metrics: Where it is counted; None where it is not.
        logs: Where it is told; None where it is not.
        head: Of the call, as it goes out.
        way: What it was decided by.
        cluster: That it goes to, as far as that is known; None is outside the mesh.
        size: Of its head, in bytes.
        denies: Hosts outside the mesh are denied.

    Attributes:
        tally: Of its messages.
        is_limited: Its time is not its caller's, but the route's.
        reads: The caller reads responses, and has not come to their end: grpc tells of that as it comes, and of the
            last messages when they are read.
    """

    __slots__ = (
        "_authority",
        "_chosen_of_messages",
        "_cluster",
        "_denies",
        "_head",
        "_head_size",
        "_key_at_end",
        "_listener",
        "_lock",
        "_logs",
        "_metrics",
        "_pending",
        "_responded",
        "_started",
        "_tell_at",
        "_told",
        "_way",
        "is_limited",
        "reads",
        "tally",
    )

    def __init__(
        self,
        metrics: IstioMetrics | None,
        logs: AccessLogs | None,
        head: RequestHead,
        way: WayOfCall,
        cluster: Cluster | None,
        *,
        size: int,
        denies: bool,
    ) -> None:
        self._metrics = metrics
        self._logs = logs
        self._head = head
        self._head_size = size
        self._way = way
        self._listener: Listener | None = None
        if (logs is not None and logs.follows) or (metrics is not None and metrics.overrides):
            self._listener = way.listener
        self._responded: float | None = None
        self._chosen_of_messages: Chosen | None = None
        self._key_at_end: tuple[Any, ...] | None = None
        self._lock = threading.RLock()  # See `telemetry.cells`.
        self._cluster = cluster
        self._authority = head.authority
        self._denies = denies
        self._started = time.monotonic()
        self._tell_at = self._started + _TELL_SECONDS
        self._told = (0, 0)
        self.tally = MessageTally()
        self.is_limited = self.reads = False
        self._pending: Callable[[], None] | None = None

    def add_response(self, message: Any, initial: Callable[[], Metadata] | None, find: FindEndpoint) -> None:
        """A response has come.

        Args:
            message: It.
            initial: Gives the metadata that came before it, of a stream.
            find: Finds who answers by these.
        """
        self.tally.add_response(message)
        if self._responded is None:
            self._responded = time.monotonic()
        if self._metrics is None:
            return
        if self._key_at_end is not None:
            # grpc tells of a stream's end as it comes, and its last messages when they are read.
            self._count_messages(self._key_at_end)
        elif initial is not None and self.is_due:
            metadata = initial()
            self.tell(find(metadata), metadata)

    @property
    def is_due(self) -> bool:
        """Whether messages of a long stream should be told of."""
        return time.monotonic() >= self._tell_at

    def tell(self, endpoint: Endpoint | None, initial: Metadata) -> None:
        """Count the messages until now."""
        self._tell_at = time.monotonic() + _TELL_SECONDS
        self._count_messages(self._key(endpoint, initial))

    def end(
        self,
        code: grpc.StatusCode,
        details: str,
        endpoint: Endpoint | None,
        initial: Metadata,
        trailing: Metadata,
        *,
        before: str,
    ) -> None:
        """The call is over.

        Args:
            code, details: Its status.
            endpoint: That answered, as far as it is known.
            initial, trailing: The response's metadata as they came.
            before: Flags that it got on its way.
        """
        is_answered = endpoint is not None or bool(initial) or bool(trailing)
        if _is_ended_here(code, details):
            status, flag = self._given_up(code)
        else:
            status, flag = 200, "" if is_answered else self._failure(code, details)
        if endpoint is None and flag in ("UF", "UC"):
            endpoint = self._named_in(details)
        flags = ",".join(filter(None, (before, flag)))
        grpc_status = "" if flag == "DC" else str(code.value[0])
        outcome = Outcome("grpc", status, grpc_status, flags)
        cluster = self._way.clusters.get(endpoint.cluster.name) if endpoint is not None else self._cluster
        tried = Tried(self._way, endpoint, cluster)
        answer = Answer(initial, trailing, is_answered, flag, details, code)
        key = self._key_at_end = self._key(endpoint, initial) if self._metrics is not None else None
        entry = None
        if self._needs_entry:
            # What has no endpoint is answered before its messages are read.
            sizes = self._sizes() if flag != "UH" else (0, 0)
            entry = entry_of(self._head, tried, outcome, answer, sizes, self._timing(is_answered))
        peer = (key[2] if key is not None else None) or _workload_of(endpoint)
        size = size_of_answer(initial, trailing)
        self._keep(endpoint, outcome, details)
        tell = partial(self._tell_all, outcome, key, entry, peer, size)
        with self._lock:
            if self.reads and code is grpc.StatusCode.OK:
                self._pending = partial(self._tell_late, entry, tell)
                return
        tell()

    def read_to_end(self) -> None:
        """The caller has read all responses."""
        with self._lock:
            self.reads = False
            pending, self._pending = self._pending, None
        if pending is not None:
            pending()

    def _tell_late(self, entry: Entry | None, tell: Callable[[], None]) -> None:
        if entry is not None:
            entry.sent = self.tally.response_bytes
        tell()

    def __del__(self) -> None:
        # Whoever leaves the last responses unread has had the call all the same.
        if getattr(self, "_pending", None) is not None:
            self.read_to_end()

    def refused(self, reply: LocalReply, code: grpc.StatusCode) -> None:
        """It is answered in a server's place."""
        delay = "DI" if reply.delay_seconds else ""
        flags = ",".join(filter(None, (delay, flag_of_reply(reply))))
        outcome = Outcome("grpc", 200, str(code.value[0]), flags)
        entry = refused_entry(self._head, reply, outcome, self._timing(False)) if self._needs_entry else None
        if self._metrics is not None:
            service = service_without_cluster(reply, self._authority)
            if service.is_outside and reply.flag == "NC" and self._denies:
                service = outside(self._authority, BLACK_HOLE)
            chosen = self._chosen(entry, NOBODY)
            row = self._metrics.sent(service, NOBODY, "", outcome, chosen=chosen)
            sent = self._head_size + self.tally.request_bytes
            self._metrics.cells.count_request(row, self._milliseconds(), sent, 0)
        self._log(entry)
        self._keep(None, outcome, reply.details, reply)

    @property
    def _needs_entry(self) -> bool:
        return self._logs is not None or self._overrides is not None

    @property
    def _overrides(self) -> LabelOverrides | None:
        metrics, listener = self._metrics, self._listener
        return metrics.overrides_of(listener.stats) if metrics is not None and listener is not None else None

    def _chosen(self, entry: Entry | None, peer: Workload | None) -> Chosen | None:
        overrides = self._overrides
        return overrides.chosen(Seen(entry, peer)) if overrides is not None and entry is not None else None

    def _tell_all(
        self, outcome: Outcome, key: tuple[Any, ...] | None, entry: Entry | None, peer: Workload, received: int
    ) -> None:
        if key is not None:
            self._count(key, outcome, self._chosen(entry, peer), received)
        self._log(entry)

    def _log(self, entry: Entry | None) -> None:
        if self._logs is not None and entry is not None:
            self._logs.write(entry, self._listener.access_logs if self._listener is not None else ())

    def _sizes(self) -> tuple[int, int]:
        return self.tally.request_bytes, self.tally.response_bytes

    def _timing(self, is_answered: bool) -> tuple[float, float, float | None]:
        now = time.monotonic()
        to_head = (self._responded or now) - self._started if is_answered else None
        return time.time(), now - self._started, to_head

    def _named_in(self, details: str) -> Endpoint | None:
        """The endpoint that grpc-core says it could not reach."""
        found = _ADDRESS.search(details)
        if found is None or self._cluster is None:
            return None
        return self._cluster.endpoint(urllib.parse.unquote(found[1]))

    def _keep(self, endpoint: Endpoint | None, outcome: Outcome, details: str, reply: LocalReply | None = None) -> None:
        recent = self._metrics.recent if self._metrics is not None else None
        if recent is not None:
            ending = (outcome.status, outcome.grpc_status, outcome.flags)
            begun = reply or self._way.exchange or self._way.considered(self._head)
            recent.sent(self._head, begun, endpoint, ending, details, self._milliseconds())

    def _given_up(self, code: grpc.StatusCode) -> tuple[int, str]:
        """Status and flag of a call that this side has ended."""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and self.is_limited:
            return 200, "UT"
        return (200 if self.tally.responses else 0), "DC"

    def _failure(self, code: grpc.StatusCode, details: str) -> str:
        """The flag of a call that no server has answered; a status alone may be a server's, too."""
        if code is not grpc.StatusCode.UNAVAILABLE:
            return ""
        cluster = self._cluster
        if cluster is not None and not any(part.endpoints for hosts in cluster.host_sets for part in hosts.usable):
            return "UH"
        return "UC" if any(said in details for said in _BROKEN) else "UF"

    def _key(self, endpoint: Endpoint | None, initial: Metadata) -> tuple[Any, ...]:
        """Whom it went to: the cluster, the endpoint, and who the peer says it is."""
        assert self._metrics is not None
        told = {entry[0]: str(entry[1]).encode("latin-1", "replace") for entry in initial or () if entry[0] in OF_MESH}
        metadata = told.get(OF_MESH[2]) or told.get(OF_MESH[1], b"")
        peer = (
            self._metrics.servers.find(_principal_of(endpoint), told.get(OF_MESH[0], b""), metadata) if told else None
        )
        return (endpoint.cluster if endpoint is not None else self._cluster), endpoint, peer

    def _count(self, key: tuple[Any, ...], outcome: Outcome, chosen: Chosen | None, received: int) -> None:
        metrics, tally = self._metrics, self.tally
        assert metrics is not None
        whole = (*key, "" if key[0] is not None else self._authority, outcome)
        if chosen is not None:
            whole = (*whole, chosen)
        row: Rows | None = metrics.known.get(whole)
        if row is None:
            row = metrics.remember(whole, metrics.sent(*self._labels(key), outcome, chosen=chosen))
        sent, received = self._head_size + tally.request_bytes, received + tally.response_bytes
        metrics.cells.count_request(row, self._milliseconds(), sent, received)
        self._count_messages(key)

    def _count_messages(self, key: tuple[Any, ...]) -> None:
        metrics, tally = self._metrics, self.tally
        assert metrics is not None
        with self._lock:  # Of a sync call, grpc's thread tells the end while the caller's reads messages.
            told, self._told = self._told, (tally.requests, tally.responses)
            requests, responses = self._told
        whole = (*key, "" if key[0] is not None else self._authority, "messages")
        if self._chosen_of_messages is None and self._overrides is not None:
            # As the call's beginning has them, so that all of its messages are in one row.
            nothing = Outcome("grpc", 0)
            tried = Tried(self._way, key[1], key[0])
            entry = entry_of(self._head, tried, nothing, Answer(), (0, 0), (time.time(), 0.0, None))
            self._chosen_of_messages = self._chosen(entry, key[2] or _workload_of(key[1]))
        chosen = self._chosen_of_messages
        if chosen is not None:
            whole = (*whole, chosen)
        row: Rows | None = metrics.known.get(whole)
        if row is None:
            row = metrics.sent(*self._labels(key), Outcome("grpc", 0), of_messages=True, chosen=chosen)
            metrics.remember(whole, row)
        metrics.cells.count_messages(row, requests - told[0], responses - told[1])

    def _labels(self, key: tuple[Any, ...]) -> tuple[Service, Workload, str]:
        cluster, endpoint, told = key
        principal = _principal_of(endpoint)
        peer = _workload_of(endpoint)
        if cluster is None:
            return outside(self._authority, PASSTHROUGH), told or peer, principal
        assert self._metrics is not None
        destination: Destination = destination_of(self._metrics, cluster)
        return destination.service_at(cluster, self._authority), told or peer, principal

    def _milliseconds(self) -> int:
        return int((time.monotonic() - self._started) * 1000)


def _workload_of(endpoint: Endpoint | None) -> Workload:
    return workload_of_endpoint(endpoint.config.metadata) if endpoint is not None else NOBODY


def _principal_of(endpoint: Endpoint | None) -> str:
    """The one identity that the endpoint must have proven, if there is one."""
    settings = endpoint.cluster.config.tls_of(endpoint.config) if endpoint is not None else None
    matchers = settings.trust.san_matchers if settings is not None else ()
    if len(matchers) != 1 or matchers[0].value.kind is not StringMatchKind.EXACT:
        return ""
    name = matchers[0].value.value
    return name if name.startswith("spiffe://") else ""


def _is_ended_here(code: grpc.StatusCode, details: str) -> bool:
    if code is grpc.StatusCode.CANCELLED:
        return details.startswith(_CANCELLED_HERE)
    return code is grpc.StatusCode.DEADLINE_EXCEEDED and details == _OUT_OF_TIME
