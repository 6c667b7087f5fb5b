"""The trace's context in headers: what the application's propagators read and write, and B3 where that came.

The propagators are OpenTelemetry's global ones, W3C's by default. Meshes that trace with Zipkin speak B3 instead, in
one header or in several. A request with B3, and nothing that the propagators take, has its parent by that; what is
sent on its behalf then carries B3 in the form that came, beside what the propagators write.

Sources: openzipkin/b3-propagation; Envoy source/extensions/tracers/zipkin/span_context_extractor.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from opentelemetry import propagate, trace
from opentelemetry.context import Context, get_current, get_value, set_value
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

__all__ = ["extracted", "injected", "is_denied", "may_be_told"]

Read = Callable[[str], str | None]

# The context has B3 in this form, `single` or `multi`.
_FORM = "meshsdk-b3-form"
# The caller has decided, and told nothing else.
_DECISION = "meshsdk-b3-sampled"

_PARTS = ("x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags")
_CONTEXT_HEADERS = frozenset(("b3", *_PARTS, "traceparent", "tracestate", "baggage"))

_HEX = frozenset("0123456789abcdefABCDEF")
_DECISIONS = {"1": True, "d": True, "true": True, "0": False, "false": False}


class _Reader(Getter[Read]):
    """Lets propagators look headers up by a function."""

    def get(self, carrier: Read, key: str) -> list[str] | None:
        """See Getter."""
        value = carrier(key.lower())
        return [value] if value is not None else None

    def keys(self, carrier: Read) -> list[str]:
        """See Getter."""
        return [name for name in _CONTEXT_HEADERS if carrier(name) is not None]


_READER = _Reader()


class _Fields:
    """What the propagators write, as they were when they were last looked at."""

    propagator: object = None
    names: frozenset[bytes] = frozenset()


def may_be_told(names: Collection[bytes]) -> bool:
    """Whether headers of these lower-case names may tell a context; a quick look."""
    propagator = propagate.get_global_textmap()
    if propagator is not _Fields.propagator:
        fields = {name.lower() for name in propagator.fields}
        _Fields.names = frozenset(name.encode("latin-1", "replace") for name in fields | _CONTEXT_HEADERS)
        _Fields.propagator = propagator
    return not _Fields.names.isdisjoint(names)


def extracted(read: Read, context: Context | None = None) -> Context:
    """The context that headers tell.

    Args:
        read: The value of a header by its lower-case name, several joined with commas.
        context: To add to; None is the current one.
    """
    found = propagate.extract(read, context, _READER)
    if trace.get_current_span(found).get_span_context().is_valid:
        return found
    single = read("b3")
    if single is not None:
        return _from_parts(found, "single", *_split(single))
    decision = "d" if read("x-b3-flags") == "1" else read("x-b3-sampled")
    trace_id, span_id = read("x-b3-traceid"), read("x-b3-spanid")
    if trace_id is None and decision is None:
        return found
    return _from_parts(found, "multi", trace_id or "", span_id or "", decision or "")


def _split(value: str) -> tuple[str, str, str]:
    """Trace, span and decision of a `b3` header; any may be empty."""
    parts = value.split("-")
    return ("", "", parts[0]) if len(parts) == 1 else (parts[0], parts[1], parts[2] if len(parts) > 2 else "")


def _from_parts(context: Context, form: str, trace_id: str, span_id: str, decision: str) -> Context:
    sampled = _DECISIONS.get(decision.lower())
    if _is_id(trace_id, 16, 32) and _is_id(span_id, 16):
        flags = TraceFlags(TraceFlags.DEFAULT if sampled is False else TraceFlags.SAMPLED)
        parent = SpanContext(int(trace_id, 16), int(span_id, 16), True, flags)
        context = trace.set_span_in_context(NonRecordingSpan(parent), context)
    elif sampled is None or trace_id or span_id:
        return context  # Neither a parent nor a decision.
    else:
        context = set_value(_DECISION, sampled, context)
    return set_value(_FORM, form, context)


def _is_id(text: str, *lengths: int) -> bool:
    return len(text) in lengths and _HEX.issuperset(text) and int(text, 16) != 0


def is_denied(context: Context | None) -> bool | None:
    """Whether a caller without a trace has said that none is to be sampled; None where it has said nothing."""
    decision = get_value(_DECISION, context)
    return None if decision is None else not decision


def injected(context: Context | None = None) -> dict[str, str]:
    """Headers that carry a context on, by their lower-case names.

    An empty value takes a header away that speaks of the parent of another span.
    """
    context = get_current() if context is None else context
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    told = {name.lower(): value for name, value in carrier.items()}
    form = get_value(_FORM, context)
    if form is None or "b3" in told or "x-b3-traceid" in told:
        return told
    span = trace.get_current_span(context)
    own = span.get_span_context()
    if own.is_valid:
        told.update(_as_b3(form, own, getattr(span, "parent", None)))
    return told


def _as_b3(form: object, own: SpanContext, parent: SpanContext | None) -> Mapping[str, str]:
    trace_id, span_id = trace.format_trace_id(own.trace_id), trace.format_span_id(own.span_id)
    sampled = "1" if own.trace_flags.sampled else "0"
    parent_id = trace.format_span_id(parent.span_id) if parent is not None else ""
    if form == "single":
        return {"b3": "-".join(filter(None, (trace_id, span_id, sampled, parent_id)))}
    return {
        "x-b3-traceid": trace_id,
        "x-b3-spanid": span_id,
        "x-b3-sampled": sampled,
        "x-b3-parentspanid": parent_id,
        "x-b3-flags": "",
    }
