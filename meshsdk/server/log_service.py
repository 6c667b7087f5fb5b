"""Tells servers of access logs of requests: each batch is one call, to the cluster that configuration names.

Only a writer's own thread comes here. Envoy keeps a stream open; here each batch has one of its own, so that it is
known of each whether it arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import httpx

from ..access_log import Entry
from ..http.cluster_client import ClusterClient
from ..http.grpc_unary import read_call, write_call
from ..log_lines import logger_of
from ..node import Node
from ..resources.log_service import LogService
from .log_messages import grpc_message, make_grpc_entry

if TYPE_CHECKING:
    from ..control import Control

__all__ = ["ServiceSink"]

logger = logger_of("meshsdk.access_log")

_GRPC_METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
_OTEL_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

_MAX_ANSWER_BYTES = 1 << 20
# gRPC's servers take 4 MB at the most unless they are told otherwise.
_MESSAGE_BYTES = 1 << 20


Pack = Callable[[list[Any], LogService, Node], bytes]


class ServiceSink:
    """One server.

    Args:
        control: Knows the cluster, and who this process is.
        service: The server, and what it is told.

    Raises:
        ResourceError: A format has an operator that is not known.
    """

    def __init__(self, control: Control, service: LogService) -> None:
        self._service = service
        self._node = control.bootstrap.node
        self._client = ClusterClient(control)
        self._pack: Pack = grpc_message
        self._make: Callable[[Entry], Any] = lambda entry: make_grpc_entry(entry, service)
        self._method = _GRPC_METHOD
        if service.is_otel:
            # Its messages take a while to load.
            from .otel_messages import make_otel_message, make_otel_record

            self._pack, self._make, self._method = make_otel_message, make_otel_record(service), _OTEL_METHOD

    def write(self, lines: Sequence[Entry]) -> int:
        """See `access_log.sinks.Sink`."""
        written = 0
        for batch in _batches(list(self._made(lines))):
            try:
                self._send(batch)
            except (httpx.HTTPError, OSError, ValueError) as error:
                if written:
                    return written
                raise OSError(f"{self._service.cluster} does not take them: {error}") from error
            written += len(batch)
        return written

    def _made(self, lines: Sequence[Entry]) -> Iterator[Any]:
        """Messages; what cannot be told of one request must not keep those of others back."""
        for entry in lines:
            try:
                yield self._make(entry)
            except Exception:
                logger.exception("a request cannot be told to %s", self._service.cluster)

    def _send(self, batch: list[Any]) -> None:
        service = self._service
        message = self._pack(batch, service, self._node)
        cluster = service.authority or service.cluster
        request = write_call(cluster, self._method, message, service.timeout_seconds, service.metadata)
        read_call(self._client.send(service.cluster, request, service.timeout_seconds, _MAX_ANSWER_BYTES))

    def close(self) -> None:
        """See `access_log.sinks.Sink`."""
        self._client.close()


def _batches(messages: list[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    size = 0
    for message in messages:
        own = message.ByteSize()
        if batch and size + own > _MESSAGE_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += own
    if batch:
        yield batch
