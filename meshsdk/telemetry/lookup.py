"""Whether the application watches: the observer, where it has set an OpenTelemetry provider.

A provider is set through opentelemetry's API modules, so while nobody has imported those there is none, and a look
costs nothing. Where they are imported and no provider is set (yet), a look costs about what routing a request costs;
then one look holds for a moment.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .http_client import HttpClientObserver

__all__ = ["http_client_observer"]

_LOOK_AGAIN_SECONDS = 0.25

# opentelemetry-api makes a provider by itself where one of these names it.
_VARIABLES = ("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER")


class _Found:
    observer: HttpClientObserver | None = None
    look_again = 0.0


def http_client_observer() -> HttpClientObserver | None:
    """The observer of HTTP requests, or None while the application has set neither a tracer nor a meter provider."""
    if _Found.observer is None:
        now = time.monotonic()
        if now >= _Found.look_again:
            _Found.look_again = now + _LOOK_AGAIN_SECONDS
            _Found.observer = _look()
    return _Found.observer


def _look() -> HttpClientObserver | None:
    imported = "opentelemetry.trace" in sys.modules or "opentelemetry.metrics" in sys.modules
    if not imported and not any(name in os.environ for name in _VARIABLES):
        return None
    from opentelemetry import metrics, trace

    traced = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    # The API's own stand-in is what get_meter_provider gives before an SDK is set.
    measured = type(metrics.get_meter_provider()).__module__ != "opentelemetry.metrics._internal"
    if not traced and not measured:
        return None
    from .http_client import HttpClientObserver

    return HttpClientObserver()
