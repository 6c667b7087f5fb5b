"""What metrics and access logs say of a call that has come to a server of this process."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...access_log import AccessLogs, Entry, RemembersSteady
from ...access_log.metric_tags import Seen
from ...exchange import LocalReply
from ...inbound import Connection, InboundPolicy, InboundRequest
from ...inbound.request import ROUTER
from ...resources import Listener
from ...routing import RequestHead
from ...server.logged import entry_of, listener_of
from ...telemetry.cells import Rows
from ...telemetry.istio_metrics import IstioMetrics, Outcome
from ...telemetry.label_overrides import Chosen
from ...telemetry.peer_metadata import METADATA_HEADER, METADATA_ID_HEADER, OVER_GRPC_HEADER
from ...telemetry.workload import Workload
from ..message_tally import OF_MESH, REQUEST_LINE, STATUS_LINE, MessageTally, size_of_metadata

if TYPE_CHECKING:
    from ...control import Control

__all__ = ["InboundCallRecord", "record_of"]

Metadata = Iterable[tuple[str, str | bytes]] | None
Headers = list[tuple[bytes, bytes]]

_TELL_SECONDS = 5.0

_HEADERS = (METADATA_ID_HEADER, METADATA_HEADER, OVER_GRPC_HEADER)

_URIS = "x509_subject_alternative_name"
_SECURITY = "transport_security_type"


def record_of(control: Control | None, method: str, context: Any) -> InboundCallRecord | None:
    """The record of a call; None where nothing is counted or told."""
    if control is None or (control.metrics is None and control.access_logs is None):
        return None
    return InboundCallRecord(control.metrics, control.access_logs, method, context)


class InboundCallRecord:
    """One call while its handler runs.

    Args:
        metrics: Where it is counted; None where it is not.
        logs: Where it is told; None where it is not.
        method: `/package.Service/Method`.
        context: grpc's.

    Attributes:
        tally: Of its messages.
        reply: The answer in the handler's place, if there is one.
        request, policy: What was decided on, and by; None where there is no policy.
    """

    __slots__ = (
        "_answer",
        "_chosen_of_messages",
        "_context",
        "_head_size",
        "_is_chosen",
        "_is_told",
        "_logs",
        "_method",
        "_metrics",
        "_peer",
        "_principal",
        "_responded",
        "_started",
        "_tell_at",
        "_told",
        "policy",
        "reply",
        "request",
        "tally",
    )

    def __init__(self, metrics: IstioMetrics | None, logs: AccessLogs | None, method: str, context: Any) -> None:
        self._started = time.monotonic()
        self._tell_at = self._started + _TELL_SECONDS
        self._told = (0, 0)
        self._metrics = metrics
        self._logs = logs
        self._method = method
        self._context = context
        self._responded: float | None = None
        self.reply: LocalReply | None = None
        self.request: InboundRequest | None = None
        self.policy: InboundPolicy | None = None
        self.tally = MessageTally()
        metadata = tuple(context.invocation_metadata() or ())
        self._head_size = REQUEST_LINE + len(method) + size_of_metadata(metadata)
        self._principal = _peer_of(context)
        self._is_told = self._is_chosen = False
        self._chosen_of_messages: Chosen | None = None
        self._peer: Workload | None = None
        self._answer: list[tuple[bytes, bytes]] = []
        if metrics is not None:
            self._read_peer(metrics, metadata)

    def _read_peer(self, metrics: IstioMetrics, metadata: tuple[Any, ...]) -> None:
        """What the peer says of itself."""
        found = {name: value for name, value in metadata if name in OF_MESH}
        told = [_raw(found.get(name, b"")) for name in OF_MESH]
        self._is_told = bool(found)
        if self._is_told:
            self._peer = metrics.callers.find(self._principal, told[0], told[2] or told[1])
        # Each of them is answered where it came; grpc-core does not tell of the second, which comes with the first.
        (_, own_id), (_, own) = metrics.own_headers
        answers = zip(told, _HEADERS, (own_id, own, own), strict=True)
        self._answer = [(name, value) for came, name, value in answers if came or (told[0] and name == METADATA_HEADER)]

    def seen(self, method: str, context: Any, request: InboundRequest | None) -> InboundRequest | None:
        """The call as its handler gets it: what the meshes tell each other is not for it.

        Args:
            method: `/package.Service/Method`.
            context: grpc's.
            request: As policy has left it; None where there is no policy.
        """
        if not self._is_told:
            return request
        if request is None:
            request = _request_of(method, context)
        for name in _HEADERS:
            request.remove_header(name)
        if self._answer:
            request.response_changes.append((ROUTER, self._answered))
        return request

    def _answered(self, headers: Headers, status: int) -> Headers:
        return [*headers, *self._answer]

    def add_response(self, message: Any) -> None:
        """A response goes."""
        self.tally.add_response(message)
        if self._responded is None:
            self._responded = time.monotonic()
        if self._metrics is not None and time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + _TELL_SECONDS
            self._count_messages(self._metrics)

    def end(self, code: int, is_cancelled: bool) -> None:
        """The call is over.

        Args:
            code: Number of its status.
            is_cancelled: The caller has left.
        """
        tally = self.tally
        if is_cancelled:
            outcome = Outcome("grpc", 200 if tally.responses else 0, "", "DC")
        else:
            outcome = Outcome("grpc", 200, str(code), self.reply.flag if self.reply is not None else "")
        seconds = time.monotonic() - self._started
        metrics, logs = self._metrics, self._logs
        listener = None
        if (logs is not None and logs.follows) or (metrics is not None and metrics.overrides):
            listener = self._listener()
        overrides = metrics.overrides_of(listener.stats) if metrics is not None and listener is not None else None
        keeper: RemembersSteady | None = logs or (metrics if overrides is not None else None)
        entry = self._entry(keeper, outcome, seconds) if keeper is not None else None
        if metrics is not None:
            chosen = None
            if overrides is not None and entry is not None:
                chosen = overrides.chosen(Seen(entry, self._peer))
            self._count(metrics, outcome, int(seconds * 1000), chosen)
        if logs is not None and entry is not None:
            logs.write(entry, listener.access_logs if listener is not None else ())

    def _listener(self) -> Listener | None:
        return listener_of(self.policy, self.request.connection) if self.request is not None else None

    def _count(self, metrics: IstioMetrics, outcome: Outcome, milliseconds: int, chosen: Chosen | None) -> None:
        tally = self.tally
        key: tuple[object, ...] = (self._principal, self._peer, outcome)
        if chosen is not None:
            key = (*key, chosen)
        row: Rows | None = metrics.known.get(key)
        if row is None:
            row = metrics.remember(key, self._row(metrics, outcome, chosen))
        received = self._head_size + tally.request_bytes
        metrics.cells.count_request(row, milliseconds, received, tally.response_bytes + STATUS_LINE)
        if metrics.recent is not None:
            head = RequestHead("POST", "http", "", self._method)
            ending = (outcome.status, outcome.grpc_status, outcome.flags)
            metrics.recent.received(head, self._principal, self._peer, ending, milliseconds)
        self._count_messages(metrics)

    def _entry(self, keeper: RemembersSteady, outcome: Outcome, seconds: float) -> Entry:
        request = self.request or _request_of(self._method, self._context)
        to_head = None
        if self.reply is None and outcome.status:
            to_head = self._responded - self._started if self._responded is not None else seconds
        sizes = (self.tally.request_bytes, self.tally.response_bytes)
        timing = (time.time(), seconds, to_head)
        entry = entry_of(keeper, request, (), self.reply, outcome.status, outcome.flags, sizes, timing)
        if outcome.grpc_status:
            entry.trailers = ((b"grpc-status", outcome.grpc_status.encode()),)
        return entry

    def _count_messages(self, metrics: IstioMetrics) -> None:
        tally, told = self.tally, self._told
        self._told = (tally.requests, tally.responses)
        if metrics.overrides and not self._is_chosen:
            self._is_chosen = True
            self._chosen_of_messages = self._choose_of_messages(metrics)
        chosen = self._chosen_of_messages
        key: tuple[object, ...] = (self._principal, self._peer, "messages")
        if chosen is not None:
            key = (*key, chosen)
        row: Rows | None = metrics.known.get(key)
        if row is None:
            row = metrics.remember(key, self._row(metrics, Outcome("grpc", 0), chosen, of_messages=True))
        metrics.cells.count_messages(row, tally.requests - told[0], tally.responses - told[1])

    def _choose_of_messages(self, metrics: IstioMetrics) -> Chosen | None:
        """Labels of messages are as the call's beginning has them, so that all of its messages are in one row."""
        listener = self._listener()
        overrides = metrics.overrides_of(listener.stats) if listener is not None else None
        if overrides is None:
            return None
        return overrides.chosen(Seen(self._entry(metrics, Outcome("grpc", 0), 0.0), self._peer))

    def _row(
        self, metrics: IstioMetrics, outcome: Outcome, chosen: Chosen | None, *, of_messages: bool = False
    ) -> Rows:
        # grpc does not tell which certificate it has shown; to a peer that has proven itself it was the process's own.
        own = metrics.own_principal() if self._principal else ""
        return metrics.received(self._peer, self._principal, own, outcome, of_messages=of_messages, chosen=chosen)


def _request_of(method: str, context: Any) -> InboundRequest:
    """A call that no policy has looked at."""
    headers = [(name.encode("latin-1"), _raw(value)) for name, value in context.invocation_metadata() or ()]
    headers.append((b"content-type", b"application/grpc"))
    family, _, rest = context.peer().partition(":")
    host, _, port = urllib.parse.unquote(rest).rpartition(":")
    is_ip = family in ("ipv4", "ipv6") and port.isdecimal()
    connection = Connection(
        source_ip=host.strip("[]") if is_ip else "", source_port=int(port) if is_ip else 0, protocol="HTTP/2"
    )
    return InboundRequest(RequestHead("POST", "http", "", method, headers), connection)


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1", "replace")


def _peer_of(context: Any) -> str:
    """The peer's SPIFFE ID, as grpc's handshake has verified it; empty where it has proven none."""
    known = context.auth_context() if hasattr(context, "auth_context") else {}
    if known.get(_SECURITY, [b""])[0] not in (b"ssl", "ssl"):
        return ""
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in known.get(_URIS, ())]
    uris = [name for name in names if "://" in name]
    return uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else ""
