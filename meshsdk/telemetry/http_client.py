"""Spans and metrics of HTTP requests that go out.

One CLIENT span for the logical request and a child for each attempt, by the HTTP semantic conventions
(open-telemetry/semantic-conventions, docs/http/http-spans.md and http-metrics.md), with what a mesh knows besides:
`meshsdk.cluster`, `meshsdk.endpoint`, `meshsdk.attempts`, `meshsdk.response_flag`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode

__all__ = ["AttemptObservation", "HttpClientObserver", "RequestObservation"]

_SCOPE = "meshsdk"
# http-metrics.md, http.client.request.duration: the advised bucket boundaries, in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

Headers = Sequence[tuple[bytes, bytes]]
Attributes = dict[str, str | int]


class HttpClientObserver:
    """Makes an observation of each request. Spans and instruments of an absent SDK are the API's no-ops."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer(_SCOPE)
        meter = metrics.get_meter(_SCOPE)
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests, retries included.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._requests = meter.create_counter(
            "meshsdk.client.requests", unit="{request}", description="Requests by cluster and Envoy response flag."
        )

    def start(self, method: str, url: str, host: str, port: int) -> RequestObservation:
        """A request begins. `url` must hold no credentials."""
        attributes: Attributes = {"http.request.method": method, "server.address": host, "server.port": port}
        span = self._tracer.start_span(method, kind=SpanKind.CLIENT, attributes={**attributes, "url.full": url})
        return RequestObservation(self, span, attributes)

    def start_attempt(self, parent: Span, attributes: Attributes) -> Span:
        """A child span of `parent`."""
        return self._tracer.start_span(
            str(attributes["http.request.method"]),
            context=trace.set_span_in_context(parent),
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )

    def record(self, seconds: float, attributes: Attributes, cluster: str, flag: str) -> None:
        """A request ended."""
        self._duration.record(seconds, attributes)
        self._requests.add(1, {"meshsdk.cluster": cluster, "meshsdk.response_flag": flag or "-"})


class RequestObservation:
    """One request while it lasts. Every method is called by the transport's loop; hedged attempts last side by side."""

    __slots__ = ("_attributes", "_observer", "_span", "_started", "attempts")

    def __init__(self, observer: HttpClientObserver, span: Span, attributes: Attributes) -> None:
        self._observer = observer
        self._span = span
        self._attributes = attributes
        self._started = time.monotonic()
        self.attempts = 0

    def begin_attempt(self, address: str, port: int, cluster: str, headers: Headers) -> AttemptObservation:
        """An attempt begins."""
        self.attempts += 1
        attributes: Attributes = {
            **self._attributes,
            "network.peer.address": address,
            "network.peer.port": port,
            "meshsdk.cluster": cluster,
        }
        if self.attempts > 1:
            attributes["http.request.resend_count"] = self.attempts - 1
        span = self._observer.start_attempt(self._span, attributes)
        return AttemptObservation(span, with_trace_context(headers, trace.set_span_in_context(span)))

    def end(self, status: int | None, error: BaseException | None, cluster: str, endpoint: str, flag: str) -> None:
        """The request is over: its response begins, or it failed."""
        span = self._span
        span.set_attribute("meshsdk.attempts", self.attempts)
        for name, value in (("cluster", cluster), ("endpoint", endpoint), ("response_flag", flag)):
            if value:
                span.set_attribute(f"meshsdk.{name}", value)
        _finish(span, status, error)
        attributes = dict(self._attributes)
        if status is not None:
            attributes["http.response.status_code"] = status
        error_type = _error_type(status, error)
        if error_type:
            attributes["error.type"] = error_type
        self._observer.record(time.monotonic() - self._started, attributes, cluster, flag)


class AttemptObservation:
    """One attempt while it lasts.

    Attributes:
        headers: The attempt's, with the trace context in them.
    """

    __slots__ = ("_span", "headers")

    def __init__(self, span: Span, headers: Headers) -> None:
        self._span = span
        self.headers = headers

    def end(self, status: int | None, error: BaseException | None) -> None:
        """The attempt brought a response, failed, or was given up."""
        _finish(self._span, status, error)


def with_trace_context(headers: Headers, context: Context) -> Headers:
    """The headers with the propagators' fields set, W3C traceparent by default; old ones are replaced."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    if not carrier:
        return headers
    replaced = {name.lower().encode("latin-1") for name in carrier}
    kept = [header for header in headers if header[0].lower() not in replaced]
    return kept + [(name.encode("latin-1"), value.encode("latin-1")) for name, value in carrier.items()]


def _finish(span: Span, status: int | None, error: BaseException | None) -> None:
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    error_type = _error_type(status, error)
    if error_type:
        span.set_attribute("error.type", error_type)
        span.set_status(StatusCode.ERROR, str(error) if error is not None else None)
    span.end()


def _error_type(status: int | None, error: BaseException | None) -> str:
    """http-spans.md: for a client, 4xx and 5xx are errors; an exception is named by its type."""
    if error is not None:
        return f"{type(error).__module__}.{type(error).__qualname__}"
    return str(status) if status is not None and status >= 400 else ""
