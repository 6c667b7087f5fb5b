"""How spans begin, of clients and servers alike: who decides whether they are told, and who else has one.

Theory of operation. A parent's decision stands, wherever it was made. Where there is none, the mesh's configuration
decides (`Traced`), if it says anything, and then the SDK's own sampler, which can only leave out more. A span that
configuration does not want is one that records nothing and whose context goes on as not sampled.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

from opentelemetry import trace
from opentelemetry.context import Context, get_value
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer

from .trace_context import is_denied

__all__ = ["Traced", "is_suppressed", "span_of_others", "start_span"]

AttributeValue = str | int


class Tracing(Protocol):
    """What configuration says of traces."""

    @property
    def is_off(self) -> bool:
        """No span is made at all."""


class Traced(Protocol):
    """What was decided of one request's trace."""

    @property
    def is_sampled(self) -> bool:
        """Its spans are told, where no parent has decided that already."""

    @property
    def tracing(self) -> Tracing:
        """That has decided it."""


def is_suppressed(context: Context | None = None) -> bool:
    """Whether the application wants no spans here, as exporters do of what they send themselves."""
    return bool(get_value("suppress_instrumentation", context))


def start_span(
    tracer: Tracer,
    name: str,
    kind: SpanKind,
    context: Context,
    attributes: Mapping[str, AttributeValue],
    traced: Traced | None,
) -> Span:
    """A span; where nobody wants it, one that records nothing."""
    parent = trace.get_current_span(context).get_span_context()
    if not parent.is_valid:
        denied = is_denied(context)
        if denied or (denied is None and traced is not None and not traced.is_sampled):
            return NonRecordingSpan(_not_sampled())
    return tracer.start_span(name, context=context, kind=kind, attributes=attributes)


def _not_sampled() -> SpanContext:
    return SpanContext(random.getrandbits(128) or 1, random.getrandbits(64) or 1, False, TraceFlags(TraceFlags.DEFAULT))


def span_of_others(kind: SpanKind, scope: str) -> Span | None:
    """The current span, where it is that of the same request by an instrumentation of this scope; else None."""
    span = trace.get_current_span()
    if not span.is_recording() or getattr(span, "kind", None) is not kind:
        return None
    name = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    return span if name == scope else None
