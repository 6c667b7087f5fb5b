"""Spans and metrics of gRPC calls, out and in.

One span a call, CLIENT or SERVER, that ends when the call ends, also where messages stream (open-telemetry/
semantic-conventions, docs/rpc/rpc-spans.md, rpc-metrics.md and grpc.md), with what a mesh knows besides:
`meshsdk.cluster`, `meshsdk.endpoint`, `meshsdk.response_flag`. Messages make no events.

Beside them gRPC's own metrics of calls (gRFC A66). Those of attempts are left out: grpc-core does not tell which there
were.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import metrics, trace
from opentelemetry.context import Context, attach, detach, get_current, set_value
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from .spans import Traced, start_span
from .trace_context import extracted, injected

__all__ = ["CallObservation", "GrpcClientObserver", "GrpcServerObserver", "without_other_instrumentation"]

_SCOPE = "meshsdk"
# rpc-metrics.md: the advised bucket boundaries, in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

# gRFC A66: the buckets of latencies, in seconds.
_GRPC_BUCKETS = (
    *(0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01),
    *(0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8),
    *(1, 2, 5, 10, 20, 50, 100),
)

# grpc.md: of a server's statuses, only these are its own errors.
_SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

Attributes = dict[str, str | int]
Metadata = Iterable[tuple[str, str | bytes]]


class _Observer:
    """What both sides share: a tracer, and the histogram of durations."""

    kind = SpanKind.INTERNAL
    metric = ""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer(_SCOPE)
        meter = metrics.get_meter(_SCOPE)
        self._duration = meter.create_histogram(
            self.metric,
            unit="s",
            description="Duration of gRPC calls, from the first byte to the status.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._calls = meter.create_counter(
            f"meshsdk.{self.kind.name.lower()}.calls",
            unit="{call}",
            description="gRPC calls by cluster and Envoy response flag.",
        )
        self._grpc_duration = meter.create_histogram(
            f"grpc.{self.kind.name.lower()}.call.duration",
            unit="s",
            description="Duration of gRPC calls as the application sees them (gRFC A66).",
            explicit_bucket_boundaries_advisory=_GRPC_BUCKETS,
        )

    def record(self, seconds: float, attributes: Attributes, cluster: str, flag: str) -> None:
        """A call ended."""
        self._duration.record(seconds, attributes)
        self._calls.add(1, {"meshsdk.cluster": cluster, "meshsdk.response_flag": flag or "-"})
        told: Attributes = {
            "grpc.method": attributes["rpc.method"],
            "grpc.status": attributes["rpc.response.status_code"],
        }
        if "server.address" in attributes:
            told["grpc.target"] = f"xds:///{attributes['server.address']}:{attributes['server.port']}"
        self._grpc_duration.record(seconds, told)

    def is_error(self, code: str) -> bool:
        """Whether a status counts as an error on this side."""
        return code != "OK"


class GrpcClientObserver(_Observer):
    """Observes calls that go out."""

    kind = SpanKind.CLIENT
    metric = "rpc.client.call.duration"

    def start(
        self,
        method: str,
        host: str,
        port: int,
        metadata: Metadata | None = None,
        *,
        name: str = "",
        traced: Traced | None = None,
    ) -> CallObservation:
        """A call begins.

        Args:
            method: `package.Service/Method`.
            host, port: Of the channel's target; empty where it is not known.
            metadata: The caller's: the parent, where no span is the current one.
            name: Of the span; empty is the method.
            traced: What configuration has decided of its trace.
        """
        attributes: Attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        if host:
            attributes["server.address"], attributes["server.port"] = host, port
        context = get_current()
        if metadata and not trace.get_current_span(context).get_span_context().is_valid:
            context = _extracted(metadata, context)
        if traced is not None and traced.tracing.is_off:
            return CallObservation(self, trace.get_current_span(context), attributes, context, is_own=False)
        span = start_span(self._tracer, name or method, SpanKind.CLIENT, context, attributes, traced)
        return CallObservation(self, span, attributes, context)


class GrpcServerObserver(_Observer):
    """Observes calls that come in."""

    kind = SpanKind.SERVER
    metric = "rpc.server.call.duration"

    def __init__(self) -> None:
        super().__init__()
        self._started = metrics.get_meter(_SCOPE).create_counter(
            "grpc.server.call.started", unit="{call}", description="gRPC calls that have begun (gRFC A66)."
        )

    def start(self, method: str, metadata: Metadata, peer: str, traced: Traced | None = None) -> CallObservation | None:
        """A call begins; None where somebody else's instrumentation observes it already.

        Args:
            method: `package.Service/Method`.
            metadata: The call's; the trace goes on from it.
            peer: As the server's context has it, such as `ipv4:127.0.0.1:4711`.
            traced: What configuration has decided of its trace.
        """
        if self._is_observed():
            return None
        attributes: Attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        self._started.add(1, {"grpc.method": method})
        parent = _extracted(metadata)
        if traced is not None and traced.tracing.is_off:
            return CallObservation(self, trace.get_current_span(parent), attributes, parent, is_own=False)
        told = {**attributes, **_peer(peer)}
        span = start_span(self._tracer, method, SpanKind.SERVER, parent, told, traced)
        return CallObservation(self, span, attributes, parent)

    def is_error(self, code: str) -> bool:
        """See `_Observer`."""
        return code in _SERVER_ERRORS

    @staticmethod
    def _is_observed() -> bool:
        span = trace.get_current_span()
        return span.is_recording() and getattr(span, "kind", None) is SpanKind.SERVER


class CallObservation:
    """One call while it lasts."""

    __slots__ = ("_attributes", "_is_own", "_observer", "_parent", "_span", "_started")

    def __init__(
        self, observer: _Observer, span: Span, attributes: Attributes, parent: Context, *, is_own: bool = True
    ) -> None:
        self._parent = parent
        self._is_own = is_own
        self._observer = observer
        self._span = span
        self._attributes = attributes
        self._started = time.monotonic()

    @property
    def context(self) -> Context:
        """The context whose current span is the call's; on a server it also holds the caller's baggage."""
        return trace.set_span_in_context(self._span, self._parent)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within this block the call's span is the current one."""
        token = attach(self.context)
        try:
            yield
        finally:
            detach(token)

    def injected(self, metadata: Metadata | None) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata with the propagators' fields set, W3C traceparent by default; old ones are replaced."""
        told = injected(self.context)
        kept = tuple(entry for entry in metadata or () if entry[0] not in told)
        return (*kept, *((name, value) for name, value in told.items() if value))

    @property
    def wants_tags(self) -> bool:
        """Whether the span records what it is told."""
        return self._is_own and self._span.is_recording()

    def end(
        self,
        code: str,
        details: str,
        cluster: str = "",
        endpoint: str = "",
        flag: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """The call is over.

        Args:
            code: Name of its status, such as `OK`.
            details: The status's message.
            cluster, endpoint, flag: As far as they are known.
            tags: More of the span.
        """
        span, observer = self._span, self._observer
        outcome: Attributes = {"rpc.response.status_code": code}
        if observer.is_error(code):
            outcome["error.type"] = code
        if self.wants_tags:
            span.set_attributes(
                {
                    **(tags or {}),
                    **outcome,
                    **({"meshsdk.cluster": cluster} if cluster else {}),
                    **({"meshsdk.endpoint": endpoint} if endpoint else {}),
                    **({"meshsdk.response_flag": flag} if flag else {}),
                }
            )
            if "error.type" in outcome:
                span.set_status(Status(StatusCode.ERROR, details or None))
        if self._is_own:
            span.end()
        observer.record(time.monotonic() - self._started, {**self._attributes, **outcome}, cluster, flag)


@contextmanager
def without_other_instrumentation() -> Iterator[None]:
    """Within this block opentelemetry-instrumentation-… makes no spans of its own."""
    token = attach(set_value("suppress_instrumentation", True))
    try:
        yield
    finally:
        detach(token)


def _extracted(metadata: Metadata, context: Context | None = None) -> Context:
    carrier: dict[str, str] = {}
    for name, value in metadata:
        if isinstance(value, str):
            carrier[name] = f"{carrier[name]},{value}" if name in carrier else value
    return extracted(carrier.get, context)


def _peer(peer: str) -> Mapping[str, str | int]:
    family, _, rest = peer.partition(":")
    host, _, port = rest.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdecimal():
        return {"network.transport": "unix"} if family == "unix" else {}
    return {
        "network.peer.address": host.strip("[]").replace("%5B", "").replace("%5D", ""),
        "network.peer.port": int(port),
    }
