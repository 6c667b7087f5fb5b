"""Spans and metrics of HTTP requests that go out.

One CLIENT span for the logical request and a child for each attempt, by the HTTP semantic conventions
(open-telemetry/semantic-conventions, docs/http/http-spans.md and http-metrics.md), with what a mesh knows besides:
`meshsdk.cluster`, `meshsdk.endpoint`, `meshsdk.attempts`, `meshsdk.response_flag`, and the tags of `span_tags`. Where
opentelemetry-instrumentation-httpx has a span of the request already, that is the logical one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from opentelemetry import metrics, trace
from opentelemetry.context import Context, attach, detach, get_current, set_value
from opentelemetry.trace import Span, SpanKind, StatusCode

from .spans import Traced, is_suppressed, span_of_others, start_span
from .trace_context import extracted, injected, may_be_told

__all__ = ["AttemptObservation", "HttpClientObserver", "RequestObservation"]

_SCOPE = "meshsdk"
_SCOPE_OF_HTTPX = "opentelemetry.instrumentation.httpx"
# http-metrics.md, http.client.request.duration: the advised bucket boundaries, in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

Headers = Sequence[tuple[bytes, bytes]]
Attributes = dict[str, str | int]


class Head(Protocol):
    """A request's head."""

    def header(self, name: str) -> str | None:
        """A header's value, by its lower-case name."""

    def by_name(self) -> dict[bytes, bytes]:
        """The headers by their lower-case names."""


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

    def start(
        self,
        method: str,
        url: str,
        host: str,
        port: int,
        head: Head,
        *,
        name: str = "",
        traced: Traced | None = None,
    ) -> RequestObservation | None:
        """A request begins; None where the application wants nobody to look.

        Args:
            method: Upper case.
            url: Without credentials.
            host, port: Of the URL.
            head: The request; its headers tell the parent, where no span is the current one.
            name: Of the span; empty is the method.
            traced: What configuration has decided of its trace.
        """
        context = get_current()
        if is_suppressed(context):
            return None
        attributes: Attributes = {"http.request.method": method, "server.address": host, "server.port": port}
        of_httpx = span_of_others(SpanKind.CLIENT, _SCOPE_OF_HTTPX)
        if of_httpx is not None:
            return RequestObservation(self, of_httpx, attributes, context, is_own=False)
        if not trace.get_current_span(context).get_span_context().is_valid and may_be_told(head.by_name()):
            context = extracted(head.header, context)
        if traced is not None and traced.tracing.is_off:
            span = trace.get_current_span(context)
            return RequestObservation(self, span, attributes, context, is_own=False, has_attempts=False)
        told = {**attributes, "url.full": url}
        span = start_span(self._tracer, name or method, SpanKind.CLIENT, context, told, traced)
        return RequestObservation(self, span, attributes, trace.set_span_in_context(span, context))

    def start_attempt(self, context: Context, attributes: Attributes) -> Span:
        """A child span of the one in `context`."""
        return self._tracer.start_span(
            str(attributes["http.request.method"]), context=context, kind=SpanKind.CLIENT, attributes=attributes
        )

    def record(self, seconds: float, attributes: Attributes, cluster: str, flag: str) -> None:
        """A request ended."""
        self._duration.record(seconds, attributes)
        self._requests.add(1, {"meshsdk.cluster": cluster, "meshsdk.response_flag": flag or "-"})


class RequestObservation:
    """One request while it lasts. Every method is called by the transport's loop; hedged attempts last side by side.

    Args:
        observer: That made it.
        span: The request's.
        attributes: Of its metrics.
        context: With the span in it.
        is_own: The span is ours to end.
        has_attempts: Attempts have spans, if the request's records anything.
    """

    __slots__ = ("_attributes", "_context", "_has_attempts", "_is_own", "_observer", "_span", "_started", "attempts")

    def __init__(
        self,
        observer: HttpClientObserver,
        span: Span,
        attributes: Attributes,
        context: Context,
        *,
        is_own: bool = True,
        has_attempts: bool = True,
    ) -> None:
        self._observer = observer
        self._span = span
        self._attributes = attributes
        self._context = context
        self._is_own = is_own
        self._has_attempts = has_attempts and span.is_recording()
        self._started = time.monotonic()
        self.attempts = 0

    @property
    def wants_tags(self) -> bool:
        """Whether the span records what it is told."""
        return self._has_attempts

    def begin_attempt(self, address: str, port: int, cluster: str, headers: Headers) -> AttemptObservation:
        """An attempt begins."""
        self.attempts += 1
        if not self._has_attempts:
            return AttemptObservation(None, with_trace_context(headers, self._context))
        attributes: Attributes = {
            **self._attributes,
            "network.peer.address": address,
            "network.peer.port": port,
            "meshsdk.cluster": cluster,
        }
        if self.attempts > 1:
            attributes["http.request.resend_count"] = self.attempts - 1
        span = self._observer.start_attempt(self._context, attributes)
        return AttemptObservation(span, with_trace_context(headers, trace.set_span_in_context(span, self._context)))

    def pass_on(self) -> tuple[dict[str, str], Callable[[], None]]:
        """Somebody else's transport sends the request: headers that carry the trace on, and what to call when it has.

        Until then no instrumentation makes a second span of it.
        """
        token = attach(set_value("suppress_instrumentation", True))
        return injected(self._context), lambda: detach(token)

    def end(
        self,
        status: int | None,
        error: BaseException | None,
        cluster: str,
        endpoint: str,
        flag: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """The request is over: its response begins, or it failed."""
        span = self._span
        if self._has_attempts:
            told: Attributes = {**(tags or {}), "meshsdk.attempts": self.attempts}
            for name, value in (("cluster", cluster), ("endpoint", endpoint), ("response_flag", flag)):
                if value:
                    told[f"meshsdk.{name}"] = value
            span.set_attributes(told)
        if self._is_own:
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

    def __init__(self, span: Span | None, headers: Headers) -> None:
        self._span = span
        self.headers = headers

    def end(self, status: int | None, error: BaseException | None) -> None:
        """The attempt brought a response, failed, or was given up."""
        if self._span is not None:
            _finish(self._span, status, error)


def with_trace_context(headers: Headers, context: Context) -> Headers:
    """The headers with the propagators' fields set, W3C traceparent by default; old ones are replaced."""
    told = injected(context)
    if not told:
        return headers
    replaced = {name.encode("latin-1") for name in told}
    kept = [header for header in headers if header[0].lower() not in replaced]
    return kept + [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told.items() if value]


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
