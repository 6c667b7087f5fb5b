"""Spans and metrics of HTTP requests that come in.

One SERVER span for a request, by the HTTP semantic conventions (open-telemetry/semantic-conventions,
docs/http/http-spans.md and http-metrics.md), with `meshsdk.peer` and `meshsdk.response_flag` besides. While the
application runs, the span is the current one and the caller's baggage is there, so both go on in what it sends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import metrics, propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import SpanKind, StatusCode

__all__ = ["HttpServerObserver", "InboundObservation"]

_SCOPE = "meshsdk"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
# http-spans.md: other methods would make labels without number.
_METHODS = frozenset("GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH".split())

Headers = Sequence[tuple[bytes, bytes]]
Attributes = dict[str, str | int]


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

    def start(
        self, method: str, scheme: str, path: str, headers: Headers, peer: str, source_ip: str
    ) -> InboundObservation | None:
        """A request begins; None where somebody else's instrumentation observes it already."""
        current = trace.get_current_span()
        if current.is_recording() and getattr(current, "kind", None) is SpanKind.SERVER:
            return None
        return InboundObservation(self, method, scheme, path, headers, peer, source_ip)


class InboundObservation:
    """One request while it lasts."""

    __slots__ = ("_attributes", "_context", "_observer", "_span", "_started")

    def __init__(
        self,
        observer: HttpServerObserver,
        method: str,
        scheme: str,
        path: str,
        headers: Headers,
        peer: str,
        source_ip: str,
    ) -> None:
        known = method if method in _METHODS else "_OTHER"
        self._attributes: Attributes = {"http.request.method": known, "url.scheme": scheme}
        parent = propagate.extract(headers, getter=_GETTER)
        attributes: Attributes = {**self._attributes, "url.path": path}
        if source_ip:
            attributes["client.address"] = source_ip
        if peer:
            attributes["meshsdk.peer"] = peer
        self._span = observer.tracer.start_span(
            known if known != "_OTHER" else "HTTP", context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
        self._context = trace.set_span_in_context(self._span, parent)
        self._observer = observer
        self._started = time.monotonic()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within this block the request's span is the current one."""
        token = attach(self._context)
        try:
            yield
        finally:
            detach(token)

    def end(self, status: int | None, error: BaseException | None, flag: str = "", route: str = "") -> None:
        """The request is over."""
        outcome: Attributes = {}
        if status is not None:
            outcome["http.response.status_code"] = status
        if error is not None:
            outcome["error.type"] = f"{type(error).__module__}.{type(error).__qualname__}"
        elif status is not None and status >= 500:
            outcome["error.type"] = str(status)
        span = self._span
        if span.is_recording():
            extra = {"meshsdk.response_flag": flag} if flag else {}
            if route:
                extra["http.route"] = route
            span.set_attributes({**outcome, **extra})
            if route:
                span.update_name(f"{self._attributes['http.request.method']} {route}")
            if "error.type" in outcome:
                span.set_status(StatusCode.ERROR, str(error) if error is not None else None)
        span.end()
        self._observer.duration.record(time.monotonic() - self._started, {**self._attributes, **outcome})


class _RawHeaders(Getter[Headers]):
    """Lets propagators look into headers as servers have them; most requests have few of what is looked for."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        """See Getter."""
        wanted = key.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for name, value in carrier if name.lower() == wanted] or None

    def keys(self, carrier: Headers) -> list[str]:
        """See Getter."""
        return [name.decode("latin-1").lower() for name, _ in carrier]


_GETTER = _RawHeaders()
