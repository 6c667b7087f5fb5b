"""A call that meshsdk decides on, or watches: what sync and async channels share.

`decide` is the decision for httpx, asked for a gRPC request; what is left for grpc-core is one cluster, with the
route's retries, hashing and duration. `OutgoingCall` then tells outlier detection and telemetry how the call ended.
"""

from __future__ import annotations

import base64
import binascii
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import grpc
from msgspec import Struct

from ... import deadline, request_id
from ...balancing import Endpoint
from ...discovery import CLUSTER_ROOT
from ...exchange import Directory, Exchange, LocalReply, Outcome
from ...exchange.directory import begin
from ...exchange.mirror import mirrored
from ...exchange.outcome import http_status_of
from ...http.measured import flags_before
from ...routing.timeouts import format_grpc_timeout
from ..engine import PEER_COOKIE, call_head, cluster_of
from ..message_tally import OF_MESH
from .call_error import MeshRpcError
from .call_plan import CallPlan, shorter
from .measured_calls import CallRecord

__all__ = ["CallObserver", "OutgoingCall", "bounded_timeout", "completion", "copies_of", "decide", "itself"]

Metadata = Sequence[tuple[str, str | bytes]]
RawHeaders = Sequence[tuple[bytes, bytes]]

# What gRPC itself makes of a request; no configuration changes it on the way.
_PROTOCOL_HEADERS = frozenset({b"content-type", b"te", b"host", b"user-agent", b"grpc-timeout"})

_COOKIE_START = f"{PEER_COOKIE}="


class CallObserver(Protocol):
    """What watches one call (`telemetry.grpc_calls.CallObservation`)."""

    def injected(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
        """The metadata with the trace's fields."""

    @property
    def wants_tags(self) -> bool:
        """Whether the span records what it is told."""

    def end(
        self,
        code: str,
        details: str,
        cluster: str = "",
        endpoint: str = "",
        flag: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """The call is over."""


class OutgoingCall(Struct):
    """One call while it lasts.

    Attributes:
        directory: What it was decided by.
        metadata: To send.
        timeout: In seconds; None is no limit.
        exchange: The decision; None where grpc-core makes it.
        observation: Its span and metrics; None where nobody watches.
        tags: Makes more tags of its span, of the name and message of its status, its cluster and its flag.
        record: Counts it for Istio's metrics, where that is asked for.
    """

    directory: Directory
    metadata: Metadata | None
    timeout: float | None
    exchange: Exchange | None = None
    observation: CallObserver | None = None
    tags: Callable[[str, str, str, str], Mapping[str, str]] | None = None
    record: CallRecord | None = None
    _is_over: bool = False

    def observe(self, observation: CallObserver | None) -> None:
        """Have the call watched: its metadata carries the trace on."""
        if observation is not None:
            self.observation = observation
            self.metadata = observation.injected(self.metadata)

    @property
    def cluster(self) -> str:
        """The cluster that was chosen; empty where grpc-core chooses."""
        return self.exchange.cluster.name if self.exchange is not None else ""

    def changed_metadata(
        self, metadata: Iterable[tuple[str, str | bytes]] | None, endpoint: Endpoint | None
    ) -> Metadata:
        """Response metadata as the caller gets it: without the peer's cookie, with the route's changes."""
        visible = self.visible(metadata)
        exchange = self.exchange
        if exchange is None or not self.changes:
            return visible
        headers = to_headers(visible)
        return to_metadata(exchange.changed_response(endpoint, 200, headers), headers, visible)

    def visible(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
        """Metadata without the peer's cookie, and without what the meshes tell each other."""
        if self.record is not None:
            metadata = [entry for entry in metadata or () if entry[0] not in OF_MESH]
        return tuple(entry for entry in metadata or () if not _is_peer_cookie(entry))

    @property
    def changes(self) -> bool:
        """Whether the route changes the response's metadata."""
        destination = self.exchange.destination if self.exchange is not None else None
        return destination is not None and bool(destination.response_levels)

    def end(
        self,
        code: grpc.StatusCode,
        details: str,
        initial: Iterable[tuple[str, str | bytes]] | None,
        trailing: Iterable[tuple[str, str | bytes]] | None,
    ) -> Endpoint | None:
        """The call is over; returns the endpoint that answered, as far as it is known. Calling again does nothing."""
        endpoint = self._endpoint(initial) or self._endpoint(trailing)
        if self._is_over:
            return endpoint
        self._is_over = True
        monitor = endpoint.monitor if endpoint is not None else None
        # That a caller gives up says nothing about the endpoint.
        if monitor is not None and code is not grpc.StatusCode.CANCELLED:
            monitor.responded(http_status_of(_outcome(code)), time.monotonic())
        if self.observation is not None:
            cluster = endpoint.cluster.name if endpoint is not None else self.cluster
            name = endpoint.name if endpoint is not None else ""
            self.observation.end(code.name, details, cluster, name, "", self._tags(code.name, details, cluster, ""))
        if self.record is not None:
            self.record.end(
                code,
                details,
                endpoint,
                initial,
                trailing,
                before=flags_before(self.exchange) if self.exchange is not None else "",
            )
        return endpoint

    def _tags(self, code: str, details: str, cluster: str, flag: str) -> Mapping[str, str] | None:
        if self.tags is None or self.observation is None or not self.observation.wants_tags:
            return None
        return self.tags(code, details, cluster, flag)

    def requests_of(self, given: Any, *, is_stream: bool) -> Any:
        """The requests of the call, counted as they go where that is asked for."""
        return given if self.record is None else self.record.tally.requests_of(given, is_stream=is_stream)

    def add_response(self, message: Any, initial: Callable[[], Any] | None = None) -> None:
        """A response has come; `initial` gives the metadata before it, of a stream."""
        if self.record is not None:
            self.record.add_response(message, initial, self._endpoint)

    def reads(self) -> None:
        """The caller reads responses until there are no more."""
        if self.record is not None:
            self.record.reads = True

    def read_to_end(self) -> None:
        """It has."""
        if self.record is not None:
            self.record.read_to_end()

    def refused(self, reply: LocalReply) -> MeshRpcError:
        """The call ends with a local reply."""
        error = MeshRpcError.of_reply(reply)
        self._is_over = True
        if self.observation is not None:
            code, details = error.code().name, error.details()
            tags = self._tags(code, details, self.cluster, reply.flag)
            self.observation.end(code, details, self.cluster, "", reply.flag, tags)
        if self.record is not None:
            self.record.refused(reply, error.code())
        return error

    def out_of_time(self) -> MeshRpcError:
        """The call's time is over before it was sent."""
        error = MeshRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", flag="DI")
        self.end(error.code(), error.details(), (), ())
        return error

    def _endpoint(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> Endpoint | None:
        for entry in metadata or ():
            if _is_peer_cookie(entry):
                address, cluster = _peer_of(str(entry[1]))
                found = self.directory.clusters.get(cluster)
                return found.endpoint(address) if found is not None else None
        return None


def _outcome(code: grpc.StatusCode) -> Outcome:
    status = str(code.value[0])
    return Outcome(200, header=lambda name: status if name == "grpc-status" else None)


def decide(
    plan: CallPlan,
    authority: str,
    method: str,
    metadata: Iterable[tuple[str, str | bytes]] | None,
    timeout: float | None,
) -> OutgoingCall | LocalReply | str:
    """The decision on one call.

    Args:
        plan: Of its method; it has routes.
        authority: Of the channel.
        method: `/package.Service/Method`.
        metadata: The caller's.
        timeout: The caller's, in seconds; routes may bound it.

    Returns:
        The call, a reply in its place, or the name of what must be settled first (a cluster that the call itself
        names).
    """
    assert plan.table is not None
    entries = tuple(metadata or ())
    headers = to_headers(entries)
    seen = headers if timeout is None else (*headers, (b"grpc-timeout", format_grpc_timeout(timeout)))
    begun = begin(plan.table, plan.directory.clusters, call_head(authority, method, seen))
    if isinstance(begun, LocalReply):
        root = f"{CLUSTER_ROOT}{begun.missing_cluster}"
        if begun.missing_cluster and root not in plan.directory.targets:
            return root
        return begun
    entries = to_metadata(begun.outgoing_head.raw_headers, headers, entries)
    if begun.forward is not None and begun.forward.include_request_attempt_count:
        entries = with_attempt_count(entries)
    return OutgoingCall(plan.directory, entries or None, None, begun)


# VirtualHost.include_request_attempt_count; grpc-core counts further tries in grpc-previous-rpc-attempts (gRFC A6).
_FIRST_ATTEMPT = (("x-envoy-attempt-count", "1"),)


def with_attempt_count(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata that say that this is the first try."""
    return (*metadata, *_FIRST_ATTEMPT) if metadata else _FIRST_ATTEMPT


def itself(metadata: Any) -> Any:
    """Metadata as they are."""
    return metadata


def completion(plan: CallPlan) -> Callable[[Any], Any]:
    """What adds to the metadata of native calls what a connection manager and a virtual host would."""
    generates = plan.table is not None and plan.table.listener.request_ids.generates
    counts = plan.counts_attempts

    def completed(metadata: Any) -> Any:
        known = request_id.current.get()
        if (known is not None or generates) and not any(entry[0] == _REQUEST_ID for entry in metadata or ()):
            metadata = (*(metadata or ()), (_REQUEST_ID, (known or request_id.make_request_id()).decode()))
        return with_attempt_count(metadata) if counts else metadata

    return completed


_REQUEST_ID = request_id.NAME.decode()


def copies_of(call: OutgoingCall) -> list[Exchange]:
    """The mirrored copies of a call."""
    return mirrored(call.exchange, call.directory.clusters) if call.exchange is not None else []


def bounded_timeout(timeout: float | None, route_timeout: float | None) -> float | None:
    """A call's own timeout, the route's, and what is left of the inbound request's time: the shortest."""
    shortest = deadline.bounded(shorter(timeout, route_timeout))
    # grpc-core takes a deadline of this very moment for one that is still to come.
    return -1.0 if shortest is not None and shortest <= 0.0 else shortest


def to_headers(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Metadata as it goes over the wire (gRPC PROTOCOL-HTTP2: binary values in base 64)."""
    return tuple((str(entry[0]).encode("latin-1", "replace"), _wire_value(entry[0], entry[1])) for entry in metadata)


def _wire_value(name: str, value: Any) -> bytes:
    if isinstance(value, bytes):
        return base64.b64encode(value).rstrip(b"=") if name.endswith("-bin") else value
    return str(value).encode("latin-1", "replace")


def to_metadata(headers: RawHeaders, before: RawHeaders, metadata: Metadata) -> tuple[tuple[str, str | bytes], ...]:
    """Headers as metadata again; those that did not change are the very entries that the caller gave.

    Args:
        headers: As they are now.
        before: As `to_headers` made them.
        metadata: Of which it made them.
    """
    known = {id(header): entry for header, entry in zip(before, metadata, strict=True)}
    entries: list[tuple[str, str | bytes]] = []
    for header in headers:
        entry = known.get(id(header))
        if entry is not None:
            entries.append(entry)
        elif header[0].lower() not in _PROTOCOL_HEADERS:
            entries.append(_entry(header[0].decode("latin-1").lower(), header[1]))
    return tuple(entries)


def _entry(name: str, value: bytes) -> tuple[str, str | bytes]:
    if not name.endswith("-bin"):
        return name, value.decode("latin-1")
    try:
        return name, base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return name, value


def _is_peer_cookie(entry: tuple[str, str | bytes]) -> bool:
    return entry[0] == "set-cookie" and isinstance(entry[1], str) and entry[1].startswith(_COOKIE_START)


@functools.lru_cache(4096)
def _peer_of(cookie: str) -> tuple[str, str]:
    """Address and cluster that grpc-core has written down (gRFC A60: `address;cluster`, the address first)."""
    encoded = cookie[len(_COOKIE_START) :].partition(";")[0]
    try:
        text = base64.b64decode(encoded).decode("utf-8")
    except (binascii.Error, ValueError):
        return "", ""
    addresses, _, cluster = text.partition(";")
    return addresses.partition(",")[0], cluster_of(cluster)
