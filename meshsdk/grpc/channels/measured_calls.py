"""What Istio's metrics say of a call that goes out.

An answer to a gRPC request is an HTTP 200 even where a sidecar makes it itself, and the call's status says the rest.
Whom a call went to is known as for outlier detection, by the endpoint's cookie. grpc-core tells neither whether retries
ran out nor whose certificate it has verified; where a cluster takes one identity only, that is the peer's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from ...balancing import Cluster, Endpoint
from ...exchange import LocalReply
from ...http.endings import flag_of_reply
from ...http.measured import Destination, destination_of, service_without_cluster
from ...resources import StringMatchKind
from ...routing import RequestHead
from ...telemetry.istio_metrics import IstioMetrics, Outcome
from ...telemetry.service import BLACK_HOLE, PASSTHROUGH, Service, outside
from ...telemetry.workload import NOBODY, Workload, workload_of_endpoint
from ..message_tally import OF_MESH, STATUS_LINE, MessageTally, size_of_metadata

__all__ = ["CallRecord"]

Metadata = Iterable[tuple[str, str | bytes]] | None
FindEndpoint = Callable[[Metadata], Endpoint | None]

# While a stream goes on, its messages are told every five seconds (istio_stats, reporting_interval).
_TELL_SECONDS = 5.0

# What gRPC's own libraries say of a call that its caller has cancelled, and of one whose time is over.
_CANCELLED_HERE = "Locally cancelled"
_OUT_OF_TIME = "Deadline Exceeded"
# And of one whose connection was there, and ended.
_BROKEN = ("Socket closed", "Connection reset", "recvmsg:", "GOAWAY", "Stream removed")


class CallRecord:
    """One call while it lasts.

    Args:
        metrics: Where it is counted.
        cluster: That it goes to, as far as that is known; None is outside the mesh.
        authority: Of the channel.
        method: `/package.Service/Method`, or without the slash.
        denies: Hosts outside the mesh are denied.

    Attributes:
        tally: Of its messages.
        is_limited: Its time is not its caller's, but the route's.
    """

    __slots__ = (
        "_authority",
        "_cluster",
        "_denies",
        "_key_at_end",
        "_lock",
        "_method",
        "_metrics",
        "_started",
        "_tell_at",
        "_told",
        "is_limited",
        "tally",
    )

    def __init__(
        self, metrics: IstioMetrics, cluster: Cluster | None, authority: str, method: str, *, denies: bool
    ) -> None:
        self._metrics = metrics
        self._key_at_end: tuple[Any, ...] | None = None
        self._lock = threading.RLock()  # See `telemetry.cells`.
        self._cluster = cluster
        self._authority = authority
        self._method = method
        self._denies = denies
        self._started = time.monotonic()
        self._tell_at = self._started + _TELL_SECONDS
        self._told = (0, 0)
        self.tally = MessageTally()
        self.is_limited = False

    def add_response(self, message: Any, initial: Callable[[], Metadata] | None, find: FindEndpoint) -> None:
        """A response has come.

        Args:
            message: It.
            initial: Gives the metadata that came before it, of a stream.
            find: Finds who answers by these.
        """
        self.tally.add_response(message)
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
        flags = ",".join(filter(None, (before, flag)))
        self.tally.response_bytes += STATUS_LINE + size_of_metadata(initial) + size_of_metadata(trailing)
        grpc_status = "" if flag == "DC" else str(code.value[0])
        key = self._key_at_end = self._key(endpoint, initial)
        outcome = Outcome("grpc", status, grpc_status, flags)
        self._count(key, outcome)
        self._keep(endpoint, outcome, details)

    def refused(self, reply: LocalReply, code: grpc.StatusCode) -> None:
        """It is answered in a server's place."""
        delay = "DI" if reply.delay_seconds else ""
        flags = ",".join(filter(None, (delay, flag_of_reply(reply))))
        service = service_without_cluster(reply, self._authority)
        if service.is_outside and reply.flag == "NC" and self._denies:
            service = outside(self._authority, BLACK_HOLE)
        outcome = Outcome("grpc", 200, str(code.value[0]), flags)
        row = self._metrics.sent(service, NOBODY, "", outcome)
        self._metrics.cells.count_request(row, self._milliseconds(), self.tally.request_bytes, 0)
        self._keep(None, outcome, reply.details)

    def _keep(self, endpoint: Endpoint | None, outcome: Outcome, details: str) -> None:
        recent = self._metrics.recent
        if recent is not None:
            head = RequestHead("POST", "http", self._authority, f"/{self._method.removeprefix('/')}")
            ending = (outcome.status, outcome.grpc_status, outcome.flags)
            recent.sent(head, None, endpoint, ending, details, self._milliseconds())

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
        if cluster is not None and not any(hosts.usable for hosts in cluster.host_sets):
            return "UH"
        return "UC" if any(said in details for said in _BROKEN) else "UF"

    def _key(self, endpoint: Endpoint | None, initial: Metadata) -> tuple[Any, ...]:
        """Whom it went to: the cluster, the endpoint, and who the peer says it is."""
        told = {entry[0]: str(entry[1]).encode("latin-1", "replace") for entry in initial or () if entry[0] in OF_MESH}
        metadata = told.get(OF_MESH[2]) or told.get(OF_MESH[1], b"")
        peer = (
            self._metrics.servers.find(_principal_of(endpoint), told.get(OF_MESH[0], b""), metadata) if told else None
        )
        return (endpoint.cluster if endpoint is not None else self._cluster), endpoint, peer

    def _count(self, key: tuple[Any, ...], outcome: Outcome) -> None:
        metrics = self._metrics
        whole = (*key, "" if key[0] is not None else self._authority, outcome)
        row: int | None = metrics.known.get(whole)
        if row is None:
            row = metrics.remember(whole, metrics.sent(*self._labels(key), outcome))
        metrics.cells.count_request(row, self._milliseconds(), self.tally.request_bytes, self.tally.response_bytes)
        self._count_messages(key)

    def _count_messages(self, key: tuple[Any, ...]) -> None:
        metrics, tally = self._metrics, self.tally
        with self._lock:  # Of a sync call, grpc's thread tells the end while the caller's reads messages.
            told, self._told = self._told, (tally.requests, tally.responses)
            requests, responses = self._told
        whole = (*key, "" if key[0] is not None else self._authority, "messages")
        row: int | None = metrics.known.get(whole)
        if row is None:
            row = metrics.sent(*self._labels(key), Outcome("grpc", 0), of_messages=True)
            metrics.remember(whole, row)
        metrics.cells.count_messages(row, requests - told[0], responses - told[1])

    def _labels(self, key: tuple[Any, ...]) -> tuple[Service, Workload, str]:
        cluster, endpoint, told = key
        principal = _principal_of(endpoint)
        peer = workload_of_endpoint(endpoint.config.metadata) if endpoint is not None else NOBODY
        if cluster is None:
            return outside(self._authority, PASSTHROUGH), told or peer, principal
        destination: Destination = destination_of(self._metrics, cluster)
        return destination.service_at(cluster, self._authority), told or peer, principal

    def _milliseconds(self) -> int:
        return int((time.monotonic() - self._started) * 1000)


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
