"""What a server says of its load, for clients that weigh endpoints by it (ORCA).

Per call, in the trailer `endpoint-load-metrics-bin`, and out of band, by the service OpenRcaService, which a client
asks from time to time whatever its calls are. Sources: gRFC A51; xds.data.orca.v3.OrcaLoadReport,
xds.service.orca.v3.OpenRcaService.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from xds.data.orca.v3 import orca_load_report_pb2
from xds.service.orca.v3 import orca_pb2

__all__ = ["LOAD_TRAILER", "LoadReport", "LoadReports", "current_load_report"]

LOAD_TRAILER = "endpoint-load-metrics-bin"
_SERVICE = orca_pb2.DESCRIPTOR.services_by_name["OpenRcaService"].full_name


@dataclass(slots=True)
class LoadReport:
    """A load report; what is 0 or empty is not said.

    Attributes:
        cpu_utilization, application_utilization: 1 is one machine at full load; more is possible.
        mem_utilization: Between 0 and 1.
        qps, eps: Queries and errors a second.
        request_cost: What this call has cost, by name. Per call only.
        utilization: Of other resources, between 0 and 1, by name.
        named_metrics: Whatever else, by name.
    """

    cpu_utilization: float = 0.0
    application_utilization: float = 0.0
    mem_utilization: float = 0.0
    qps: float = 0.0
    eps: float = 0.0
    request_cost: dict[str, float] = field(default_factory=dict)
    utilization: dict[str, float] = field(default_factory=dict)
    named_metrics: dict[str, float] = field(default_factory=dict)

    def over(self, below: LoadReport) -> LoadReport:
        """This report, with what another one says where this one says nothing.

        Args:
            below: The other one.
        """
        return LoadReport(
            self.cpu_utilization or below.cpu_utilization,
            self.application_utilization or below.application_utilization,
            self.mem_utilization or below.mem_utilization,
            self.qps or below.qps,
            self.eps or below.eps,
            dict(self.request_cost),
            {**below.utilization, **self.utilization},
            {**below.named_metrics, **self.named_metrics},
        )

    def message(self) -> orca_load_report_pb2.OrcaLoadReport:
        """As xds.data.orca.v3.OrcaLoadReport."""
        return orca_load_report_pb2.OrcaLoadReport(
            cpu_utilization=self.cpu_utilization,
            application_utilization=self.application_utilization,
            mem_utilization=self.mem_utilization,
            rps_fractional=self.qps,
            eps=self.eps,
            request_cost=self.request_cost,
            utilization=self.utilization,
            named_metrics=self.named_metrics,
        )


_of_call: ContextVar[LoadReport | None] = ContextVar("meshsdk_load_report", default=None)


def current_load_report() -> LoadReport:
    """The report of the call that is being handled; what is set in it goes into the call's trailer.

    Raises:
        RuntimeError: No call is being handled, or the server has no interceptor with load reports.
    """
    report = _of_call.get()
    if report is None:
        raise RuntimeError(
            "there is no call to report on: use this in a handler of a server that was made with"
            " mesh.server_interceptor(load_reports=…)"
        )
    return report


class LoadReports:
    """A server's load: set `server` whenever there is news, and give this to the server's interceptor.

    Args:
        minimum_interval_seconds: Out of band, a client that asks for shorter intervals gets this one (gRPC's default).

    Attributes:
        server: What holds for the whole server; each call's own report says more, or otherwise.
    """

    def __init__(self, minimum_interval_seconds: float = 30.0) -> None:
        self.server = LoadReport()
        self._minimum = minimum_interval_seconds

    def begin(self) -> Any:
        """A call begins: `current_load_report` is its report until `trailer` is called with what this returns."""
        return _of_call.set(LoadReport())

    def trailer(self, token: Any) -> tuple[str, bytes] | None:
        """A call ends: its trailer, where there is something to say.

        Args:
            token: What `begin` has given for the call.
        """
        report = _of_call.get()
        # A generator may be closed in another context than it ran in; there is nothing to undo there.
        with suppress(ValueError):
            _of_call.reset(token)
        message = (report or LoadReport()).over(self.server).message()
        packed: bytes = message.SerializeToString()
        return (LOAD_TRAILER, packed) if packed else None

    def add_to_server(self, server: Any) -> None:
        """Serve reports out of band.

        Args:
            server: A grpc.Server, where each client that asks takes a thread, or a grpc.aio one; not started yet.
        """
        stream = self._stream_async if isinstance(server, grpc.aio.Server) else self._stream
        handler = grpc.unary_stream_rpc_method_handler(
            stream,
            request_deserializer=orca_pb2.OrcaLoadReportRequest.FromString,
            response_serializer=orca_load_report_pb2.OrcaLoadReport.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"StreamCoreMetrics": handler}),)
        )

    def _stream(self, request: Any, context: Any) -> Iterator[Any]:
        over = threading.Event()
        if not context.add_callback(over.set):
            return
        while True:
            yield self.server.message()
            if over.wait(self._interval(request)):
                return

    async def _stream_async(self, request: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            yield self.server.message()
            await asyncio.sleep(self._interval(request))

    def _interval(self, request: Any) -> float:
        asked = request.report_interval.seconds + request.report_interval.nanos / 1e9
        return max(float(asked), self._minimum)
