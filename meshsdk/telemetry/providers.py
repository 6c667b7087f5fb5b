"""Whether the application has set OpenTelemetry's providers; imported where its API is, or may be, in use."""

from __future__ import annotations

from opentelemetry import metrics, trace

__all__ = ["is_measured", "is_traced"]


def is_traced() -> bool:
    """Whether there is a tracer provider."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def is_measured() -> bool:
    """Whether there is a meter provider."""
    # The API's own stand-in is what get_meter_provider gives before an SDK is set.
    return type(metrics.get_meter_provider()).__module__ != "opentelemetry.metrics._internal"
