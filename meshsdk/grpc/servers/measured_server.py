"""What Istio's metrics say of a call that has come to a server of this process."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...inbound import Connection, InboundRequest
from ...inbound.request import ROUTER
from ...routing import RequestHead
from ...telemetry.istio_metrics import IstioMetrics, Outcome
from ...telemetry.peer_metadata import METADATA_HEADER, METADATA_ID_HEADER, OVER_GRPC_HEADER
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
    """The record of a call; None where nothing is counted."""
    metrics = control.metrics if control is not None else None
    return InboundCallRecord(metrics, method, context) if metrics is not None else None


class InboundCallRecord:
    """One call while its handler runs.

    Args:
        metrics: Where it is counted.
        method: `/package.Service/Method`.
        context: grpc's.

    Attributes:
        tally: Of its messages.
        flag: Of an answer in the handler's place.
    """

    __slots__ = (
        "_answer",
        "_is_told",
        "_method",
        "_metrics",
        "_peer",
        "_principal",
        "_started",
        "_tell_at",
        "_told",
        "flag",
        "tally",
    )

    def __init__(self, metrics: IstioMetrics, method: str, context: Any) -> None:
        self._started = time.monotonic()
        self._tell_at = self._started + _TELL_SECONDS
        self._told = (0, 0)
        self._metrics = metrics
        self._method = method
        self.flag = ""
        self.tally = MessageTally()
        metadata = tuple(context.invocation_metadata() or ())
        self.tally.request_bytes = REQUEST_LINE + len(method) + size_of_metadata(metadata)
        self._principal = _peer_of(context)
        found = {name: value for name, value in metadata if name in OF_MESH}
        told = [_raw(found.get(name, b"")) for name in OF_MESH]
        self._is_told = bool(found)
        self._peer = metrics.callers.find(self._principal, told[0], told[2] or told[1]) if self._is_told else None
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
            headers = [(name.encode("latin-1"), _raw(value)) for name, value in context.invocation_metadata() or ()]
            request = InboundRequest(RequestHead("POST", "http", "", method, headers), Connection())
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
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + _TELL_SECONDS
            self._count_messages()

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
            outcome = Outcome("grpc", 200, str(code), self.flag)
        metrics = self._metrics
        key = (self._principal, self._peer, outcome)
        row: int | None = metrics.known.get(key)
        if row is None:
            row = metrics.remember(key, self._row(outcome))
        milliseconds = int((time.monotonic() - self._started) * 1000)
        metrics.cells.count_request(row, milliseconds, tally.request_bytes, tally.response_bytes + STATUS_LINE)
        if metrics.recent is not None:
            head = RequestHead("POST", "http", "", self._method)
            ending = (outcome.status, outcome.grpc_status, outcome.flags)
            metrics.recent.received(head, self._principal, self._peer, ending, milliseconds)
        self._count_messages()

    def _count_messages(self) -> None:
        metrics, tally, told = self._metrics, self.tally, self._told
        self._told = (tally.requests, tally.responses)
        key = (self._principal, self._peer, "messages")
        row: int | None = metrics.known.get(key)
        if row is None:
            row = metrics.remember(key, self._row(Outcome("grpc", 0), of_messages=True))
        metrics.cells.count_messages(row, tally.requests - told[0], tally.responses - told[1])

    def _row(self, outcome: Outcome, *, of_messages: bool = False) -> int:
        metrics = self._metrics
        # grpc does not tell which certificate it has shown; to a peer that has proven itself it was the process's own.
        own = metrics.own_principal() if self._principal else ""
        return metrics.received(self._peer, self._principal, own, outcome, of_messages=of_messages)


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
