"""What spans say of a request that came to a server of this process, in the words of a sidecar's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..inbound import InboundPolicy, InboundRequest
from ..inbound.peer import format_context
from .logged import cluster_of

if TYPE_CHECKING:
    from ..control import Control
    from ..telemetry.http_server import HttpServerObserver, InboundObservation

__all__ = ["announced_size", "end_observation", "observe"]

# HttpConnectionManager.Tracing.max_path_tag_length, where nothing is configured.
_MAX_PATH_LENGTH = 256


def observe(
    observer: HttpServerObserver, request: InboundRequest, policy: InboundPolicy | None
) -> InboundObservation | None:
    """Begin to watch a request, before it is decided on; None where somebody else's instrumentation does already."""
    traced = policy.trace(request) if policy is not None else None
    return observer.start(request.head, request.connection, traced)


def end_observation(
    observation: InboundObservation,
    control: Control,
    request: InboundRequest,
    status: int | None,
    error: BaseException | None,
    flag: str,
    route: str = "",
    size: str | None = None,
) -> None:
    """A request is over.

    Args:
        observation: Of it.
        control: The Mesh's.
        request: As it was decided on.
        status: Of the answer; None where none began.
        error: What the application has raised.
        flag: Envoy's.
        route: The template that a framework has matched.
        size: Of the answer's body, as far as it was announced.
    """
    operation = request.route.route.operation if request.route is not None else ""
    tags = _tags(control, request, status, flag, size) if observation.wants_tags else None
    observation.end(status, error, flag, route, operation, tags)


def announced_size(headers: Iterable[tuple[Any, Any]]) -> str | None:
    """The content-length of an answer, as bytes or, of a WSGI application, as text; None where it has none."""
    if not isinstance(headers, (list, tuple)):
        return None  # It can be read once only, and not here.
    for name, value in headers:
        if len(name) == 14 and name.lower() in ("content-length", b"content-length"):
            return value if isinstance(value, str) else bytes(value).decode("latin-1")
    return None


def _tags(control: Control, request: InboundRequest, status: int | None, flag: str, size: str | None) -> dict[str, str]:
    from ..telemetry.span_tags import outcome_tags, request_tags

    own, head, traced, connection = control.span_tags, request.arrived, request.traced, request.connection
    longest = traced.tracing.max_path_length if traced is not None else _MAX_PATH_LENGTH
    cluster = request.cluster or (cluster_of(request.route, connection.destination_port) if request.route else "")
    return {
        **own.with_configured(traced.tracing.tags(format_context(request)) if traced is not None else None),
        **request_tags(
            head.method,
            f"{request.head.scheme}://{head.authority}{head.target[:longest]}",
            connection.protocol,
            connection.source_ip,
            head.header("content-length"),
            request.head.header,
        ),
        **outcome_tags(status, flag, size, cluster),
    }
