"""What spans say of a request that a transport carries out, in the words of a sidecar's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..errors import BootstrapError
from ..exchange import Exchange, LocalReply
from ..exchange.request_changes import format_context
from ..node import Node
from ..routing.formatter import FormatContext
from ..routing.tracing import Traced
from .dispatcher import MeshResponseInfo, error_flag, head_of
from .runtime import Runtime
from .shapes import Request

if TYPE_CHECKING:
    from ..telemetry.http_client import HttpClientObserver, RequestObservation
    from ..telemetry.span_tags import SpanTags

__all__ = ["ObservedRequest", "observe", "span_tags_of"]

# HttpConnectionManager.Tracing.max_path_tag_length, where nothing is configured.
_MAX_PATH_LENGTH = 256


def span_tags_of(node: Node) -> SpanTags:
    """What spans say of this process."""
    from ..istio_pod import told_metadata
    from ..telemetry.span_tags import own_span_tags

    try:
        metadata = {**told_metadata(os.environ), **node.metadata}
    except BootstrapError:
        metadata = dict(node.metadata)  # Of a pod whose labels cannot be read.
    return own_span_tags(node.id, node.locality.zone, metadata, node.namespace)


def observe(
    observer: HttpClientObserver, runtime: Runtime, request: Request, begun: Exchange | LocalReply
) -> ObservedRequest | None:
    """Begin to watch a request; None where the application wants nobody to."""
    url = request.url
    shown = str(url.copy_with(username=None, password=None) if url.userinfo else url)
    port = url.port or (443 if url.scheme == "https" else 80)
    if isinstance(begun, Exchange):
        operation = begun.route.route.operation if begun.route is not None else ""
    else:
        operation = begun.operation
    head = begun.head if begun.head is not None else head_of(request, url.scheme)
    observation = observer.start(request.method, shown, url.host, port, head, name=operation, traced=begun.traced)
    return ObservedRequest(observation, runtime, request, begun) if observation is not None else None


class ObservedRequest:
    """One request that is watched.

    Args:
        observation: Its span and metrics.
        runtime: The mesh.
        request: As the application has made it.
        begun: What it came to.
    """

    __slots__ = ("_begun", "_request", "_runtime", "observation")

    def __init__(
        self, observation: RequestObservation, runtime: Runtime, request: Request, begun: Exchange | LocalReply
    ) -> None:
        self.observation = observation
        self._runtime = runtime
        self._request = request
        self._begun = begun

    def failed(self, error: BaseException) -> None:
        """It brought no response."""
        cluster = self._begun.cluster.name if isinstance(self._begun, Exchange) else ""
        flag = error_flag(error)
        tags = self._tags(None, flag, cluster, None) if self.observation.wants_tags else None
        self.observation.end(None, error, cluster, "", flag, tags)

    def answered(self, response: Any) -> None:
        """Its response begins."""
        info: MeshResponseInfo = response.extensions["mesh"]
        tags = None
        if self.observation.wants_tags:
            tags = self._tags(response.status_code, info.flag, info.cluster, response)
        self.observation.end(response.status_code, None, info.cluster, info.endpoint, info.flag, tags)

    def _tags(self, status: int | None, flag: str, cluster: str, response: Any | None) -> dict[str, str]:
        from ..telemetry.span_tags import outcome_tags, request_tags
        from .measured import flags_before

        begun, request, own = self._begun, self._request, self._runtime.span_tags
        traced: Traced | None = begun.traced
        head = begun.head if begun.head is not None else head_of(request, request.url.scheme)
        authority, address, flags = head.authority, "", flag
        if isinstance(begun, Exchange):
            if begun.attempts:
                authority, address = begun.outgoing_head.authority, begun.own_address.rpartition(":")[0]
            flags = ",".join(filter(None, (flags_before(begun), flag)))
        longest = traced.tracing.max_path_length if traced is not None else _MAX_PATH_LENGTH
        version = response.extensions.get("http_version", b"HTTP/1.1") if response is not None else b"HTTP/1.1"
        size = response.headers.get("content-length") if response is not None else None
        return {
            **own.with_configured(traced.tracing.tags(self._context()) if traced is not None else None),
            **request_tags(
                head.method,
                f"{head.scheme}://{authority}{head.target[:longest]}",
                version.decode("ascii", "replace"),
                address.strip("[]"),
                head.header("content-length"),
                head.header,
            ),
            **outcome_tags(status, flags, size, cluster),
        }

    def _context(self) -> FormatContext:
        """What tags of configuration are filled in from."""
        begun = self._begun
        if isinstance(begun, Exchange):
            context = format_context(begun.head, begun.cluster, begun.route, begun.attempts, begun.endpoint)
            context.route_metadata = begun.route.route.metadata if begun.route is not None else None
            return context
        return FormatContext(begun.head or head_of(self._request, self._request.url.scheme), begun.cluster)
