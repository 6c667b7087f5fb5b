"""Real gRPC servers that access logs are sent to: Envoy's AccessLogService, and OpenTelemetry's LogsService."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from envoy.service.accesslog.v3 import als_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from ..patience import PATIENCE

__all__ = ["Collector"]

_ALS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
_OTEL = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


class Collector(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Both services at one port.

    Attributes:
        port: That it listens on.
        messages: What came: StreamAccessLogsMessages and ExportLogsServiceRequests.
        metadata: Of each call.
        hangs: While this is set, calls are answered by nobody.
    """

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.hangs = threading.Event()
        self._released = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, details: Any) -> Any:
        if details.method == _ALS:
            return grpc.stream_unary_rpc_method_handler(
                self._stream,
                als_pb2.StreamAccessLogsMessage.FromString,
                als_pb2.StreamAccessLogsResponse.SerializeToString,
            )
        if details.method == _OTEL:
            return grpc.unary_unary_rpc_method_handler(
                self._export,
                logs_service_pb2.ExportLogsServiceRequest.FromString,
                logs_service_pb2.ExportLogsServiceResponse.SerializeToString,
            )
        return None

    def _stream(self, messages: Iterator[Any], context: Any) -> Any:
        self._begin(context)
        for message in messages:
            self.messages.append(message)
        return als_pb2.StreamAccessLogsResponse()

    def _export(self, message: Any, context: Any) -> Any:
        self._begin(context)
        self.messages.append(message)
        return logs_service_pb2.ExportLogsServiceResponse()

    def _begin(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        while self.hangs.is_set() and not self._released.wait(0.05):
            pass

    @property
    def entries(self) -> list[Any]:
        """All of Envoy's entries."""
        return [entry for message in list(self.messages) for entry in getattr(message, "http_logs", _NONE).log_entry]

    @property
    def records(self) -> list[Any]:
        """All of OpenTelemetry's records."""
        return [
            record
            for message in list(self.messages)
            for logs in getattr(message, "resource_logs", ())
            for scope in second(logs)
            for record in second(scope)
        ]

    def wait_for(self, read: Callable[[Collector], list[Any]], count: int) -> list[Any]:
        """What there is of something, once there is so much."""
        deadline = time.monotonic() + PATIENCE
        while len(found := read(self)) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} came"
            time.sleep(0.02)
        return found

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.stop(0).wait()


def second(message: Any) -> Any:
    """Its field 2, whatever the installed module of it calls that."""
    return getattr(message, message.DESCRIPTOR.fields_by_number[2].name)


_NONE = als_pb2.StreamAccessLogsMessage().http_logs
