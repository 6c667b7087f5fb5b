"""Whether the application watches: the observers, where it has set an OpenTelemetry provider.

A provider is set through opentelemetry's API modules, so while nobody has imported those there is none, and a look
costs nothing. Where they are imported and no provider is set (yet), a look costs about what routing a request costs;
then one look holds for a moment.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .grpc_calls import GrpcClientObserver, GrpcServerObserver
    from .http_client import HttpClientObserver
    from .http_server import HttpServerObserver
    from .identities import IdentityObserver, Renewed
    from .istio_observer import Counted, IstioObserver

__all__ = [
    "denial_counter",
    "grpc_client_observer",
    "grpc_server_observer",
    "http_client_observer",
    "http_server_observer",
    "identity_alarm",
    "watch_identity",
    "watch_istio",
]

_LOOK_AGAIN_SECONDS = 0.25

# opentelemetry-api makes a provider by itself where one of these names it.
_VARIABLES = ("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER")


class _Found:
    http_client: HttpClientObserver | None = None
    http_server: HttpServerObserver | None = None
    grpc_client: GrpcClientObserver | None = None
    grpc_server: GrpcServerObserver | None = None
    identities: IdentityObserver | None = None
    istio: IstioObserver | None = None
    look_again = 0.0


def http_client_observer() -> HttpClientObserver | None:
    """The observer of HTTP requests, or None while the application has set neither a tracer nor a meter provider."""
    if _Found.http_client is None:
        _look()
    return _Found.http_client


def http_server_observer() -> HttpServerObserver | None:
    """The observer of HTTP requests that come in, or None as for those that go out."""
    if _Found.http_server is None:
        _look()
    return _Found.http_server


def denial_counter() -> Callable[[str, int], None] | None:
    """Counts a request that policy refused, by its details and status; None as for the observers."""
    observer = http_server_observer()
    return observer.count_denial if observer is not None else None


_identities: weakref.WeakSet[Renewed] = weakref.WeakSet()


def watch_identity(identity: Renewed) -> None:
    """Tell of an identity in metrics, as long as it lives."""
    _identities.add(identity)


_counted: weakref.WeakSet[Counted] = weakref.WeakSet()


def watch_istio(counted: Counted) -> None:
    """Tell of Istio's metrics through OpenTelemetry, as long as they are counted."""
    _counted.add(counted)
    if _Found.istio is None:
        _look()
    else:
        _Found.istio.attach(counted)


def identity_alarm() -> Callable[[str], None] | None:
    """Counts a certificate that could not be renewed, by its source; None as for the observers."""
    if _Found.identities is None:
        _look()
    return _Found.identities.count_failure if _Found.identities is not None else None


def grpc_client_observer() -> GrpcClientObserver | None:
    """The observer of outgoing gRPC calls, or None as for HTTP."""
    if _Found.grpc_client is None:
        _look()
    return _Found.grpc_client


def grpc_server_observer() -> GrpcServerObserver | None:
    """The observer of incoming gRPC calls, or None as for HTTP."""
    if _Found.grpc_server is None:
        _look()
    return _Found.grpc_server


def _look() -> None:
    now = time.monotonic()
    if now < _Found.look_again:
        return
    _Found.look_again = now + _LOOK_AGAIN_SECONDS
    if not _is_watched():
        return
    from .grpc_calls import GrpcClientObserver, GrpcServerObserver
    from .http_client import HttpClientObserver
    from .http_server import HttpServerObserver
    from .identities import IdentityObserver
    from .istio_observer import IstioObserver

    _Found.istio = IstioObserver(lambda: list(_counted))
    _Found.identities = IdentityObserver(lambda: list(_identities))
    _Found.http_client = HttpClientObserver()
    _Found.http_server = HttpServerObserver()
    _Found.grpc_client = GrpcClientObserver()
    _Found.grpc_server = GrpcServerObserver()


def _is_watched() -> bool:
    imported = "opentelemetry.trace" in sys.modules or "opentelemetry.metrics" in sys.modules
    if not imported and not any(name in os.environ for name in _VARIABLES):
        return False
    from .providers import is_measured, is_traced

    return is_traced() or is_measured()
