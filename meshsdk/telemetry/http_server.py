"""Spans and metrics of HTTP requests that come in.

One SERVER span for a request, by the HTTP semantic conventions (open-telemetry/semantic-conventions,
docs/http/http-spans.md and http-metrics.md), with `meshsdk.peer` and `meshsdk.response_flag` besides. While the
application runs, the span is the current one and the caller's baggage is there, so both go on in what it sends. Beside
the semantic conventions' attributes it has the tags of `span_tags`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from opentelemetry import metrics, trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind, StatusCode

from .spans import Traced, start_span
from .trace_context import extracted, injected

__all__ = ["HttpServerObserver", "InboundObservation"]

_SCOPE = "meshsdk"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
# http-spans.md: other methods would make labels without number.
_METHODS = frozenset("GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH".split())

Attributes = dict[str, str | int]


class Head(Protocol):
    """A request's head."""

    method: str
    scheme: str
    path: str

    def header(self, name: str) -> str | None:
        """A header's value, by its lower-case name."""


class ChangeableHead(Head, Protocol):
    """A head that can be passed on with other headers."""

    def replacing(self: H, name: bytes, value: bytes) -> H:
        """The same with a header, by its lower-case name, that has this value only."""


H = TypeVar("H", bound=ChangeableHead)


class Caller(Protocol):
    """A connection's other side."""

    @property
    def source_ip(self) -> str:
        """Its address; empty where it has none."""

    @property
    def principal(self) -> str:
        """Its SPIFFE ID; empty where it proved none."""


class HttpServerObserver:
    """Observes requests that come in."""

    def __init__(self) -> None:
        self.tracer = trace.get_tracer(_SCOPE)
        meter = metrics.get_meter(_SCOPE)
        self.duration = meter.create_histogram(
            "http.server.request.duration",
            unit="s",
            description="Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        denials = meter.create_counter(
            "meshsdk.server.denials", unit="{request}", description="Requests that policy refused, by its details."
        )
        self.count_denial: Callable[[str, int], None] = lambda details, status: denials.add(
            1, {"meshsdk.details": details, "http.response.status_code": status}
        )

    def start(self, head: Head, caller: Caller, traced: Traced | None = None) -> InboundObservation | None:
        """A request begins; None where somebody else's instrumentation observes it already.

        Args:
            head: The request.
            caller: Whose it is.
            traced: What configuration has decided of its trace.
        """
        current = trace.get_current_span()
        if current.is_recording() and getattr(current, "kind", None) is SpanKind.SERVER:
            return None
        return InboundObservation(self, head, caller, traced)


class InboundObservation:
    """One request while it lasts."""

    __slots__ = ("_context", "_method", "_observer", "_scheme", "_span", "_started", "_token")

    def __init__(self, observer: HttpServerObserver, head: Head, caller: Caller, traced: Traced | None) -> None:
        method = head.method if head.method in _METHODS else "_OTHER"
        attributes = {"http.request.method": method, "url.scheme": head.scheme, "url.path": head.path}
        if caller.source_ip:
            attributes["client.address"] = caller.source_ip
        principal = caller.principal
        if principal:
            attributes["meshsdk.peer"] = principal
        parent = extracted(head.header)
        name = method if method != "_OTHER" else "HTTP"
        if traced is not None and traced.tracing.is_off:
            self._span, self._context = trace.get_current_span(parent), parent
        else:
            self._span = start_span(observer.tracer, name, SpanKind.SERVER, parent, attributes, traced)
            self._context = trace.set_span_in_context(self._span, parent)
        self._observer = observer
        self._method = method
        self._scheme = head.scheme
        self._started = time.monotonic()

    def passed_on(self, head: H) -> H:
        """The request as the application gets it: this span is its parent, as a sidecar's would be.

        Frameworks that make spans of their own, and applications that pass the caller's headers on by hand, take the
        parent from there.
        """
        for name, value in injected(self._context).items():
            if value:
                head = head.replacing(name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        return head

    @property
    def wants_tags(self) -> bool:
        """Whether the span records what it is told."""
        return self._span.is_recording()

    def enter(self) -> None:
        """From here on the request's span is the current one, until `exit`."""
        self._token = attach(self._context)

    def exit(self) -> None:
        """In the same context as `enter`."""
        detach(self._token)

    def end(
        self,
        status: int | None,
        error: BaseException | None,
        flag: str = "",
        route: str = "",
        operation: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """The request is over.

        Args:
            status: Of the answer; None where none began.
            error: What the application has raised.
            flag: Envoy's.
            route: The template that a framework has matched.
            operation: What the mesh's route calls such requests.
            tags: More of the span.
        """
        outcome: Attributes = {}
        if status is not None:
            outcome["http.response.status_code"] = status
        if error is not None:
            outcome["error.type"] = f"{type(error).__module__}.{type(error).__qualname__}"
        elif status is not None and status >= 500:
            outcome["error.type"] = str(status)
        span = self._span
        if span.is_recording():
            told: Attributes = {**(tags or {}), **outcome}
            if flag:
                told["meshsdk.response_flag"] = flag
            if route:
                told["http.route"] = route
                span.update_name(f"{self._method} {route}")
            elif operation:
                span.update_name(operation)
            span.set_attributes(told)
            if "error.type" in outcome:
                span.set_status(StatusCode.ERROR, str(error) if error is not None else None)
        span.end()
        outcome["http.request.method"] = self._method
        outcome["url.scheme"] = self._scheme
        self._observer.duration.record(time.monotonic() - self._started, outcome)
