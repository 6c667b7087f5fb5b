"""What a collector of OpenTelemetry's is told of a request: records whose texts are formats of Envoy's.

Source: Envoy source/extensions/access_loggers/open_telemetry/access_log_impl.cc, grpc_access_log_impl.cc.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from ..access_log import Entry, compile_text
from ..node import Node
from ..resources.log_service import LogService
from .log_messages import shown

__all__ = ["make_otel_message", "make_otel_record"]

# They come without types.
_PROTO = "opentelemetry.proto"
logs_service_pb2: Any = importlib.import_module(f"{_PROTO}.collector.logs.v1.logs_service_pb2")
common_pb2: Any = importlib.import_module(f"{_PROTO}.common.v1.common_pb2")
logs_pb2: Any = importlib.import_module(f"{_PROTO}.logs.v1.logs_pb2")

_NANOSECONDS = 1_000_000_000

Format = Callable[[Entry], str]


def make_otel_record(service: LogService) -> Callable[[Entry], Any]:
    """A function that makes a record of a request.

    Raises:
        ResourceError: A format has an operator that is not known.
    """
    body = _compile(json.loads(service.body), "body") if service.body else None
    attributes = [(name, _compile(json.loads(value), f"attributes[{name!r}]")) for name, value in service.attributes]

    def record(entry: Entry) -> Any:
        message = logs_pb2.LogRecord(time_unix_nano=int((entry.ended - entry.seconds) * _NANOSECONDS))
        if body is not None:
            message.body.CopyFrom(body(entry))
        for name, value in attributes:
            message.attributes.add(key=name).value.CopyFrom(value(entry))
        return message

    return record


def _compile(tree: Any, where: str) -> Callable[[Entry], Any]:
    if isinstance(tree, str):
        line: Format = compile_text(tree, where)
        return lambda entry: common_pb2.AnyValue(string_value=shown(line(entry)))
    if isinstance(tree, list):
        items = [_compile(one, f"{where}[{index}]") for index, one in enumerate(tree)]
        return lambda entry: common_pb2.AnyValue(
            array_value=common_pb2.ArrayValue(values=[one(entry) for one in items])
        )
    fields = [(name, _compile(one, f"{where}[{name!r}]")) for name, one in tree.items()]
    return lambda entry: common_pb2.AnyValue(
        kvlist_value=common_pb2.KeyValueList(
            values=[common_pb2.KeyValue(key=name, value=one(entry)) for name, one in fields]
        )
    )


def make_otel_message(records: Iterable[Any], service: LogService, node: Node) -> bytes:
    """An ExportLogsServiceRequest."""
    message = logs_service_pb2.ExportLogsServiceRequest()
    logs = message.resource_logs.add()
    told = {}
    if service.has_own_labels:
        # In Envoy's order.
        told = {
            "log_name": service.log_name,
            "zone_name": node.locality.zone,
            "cluster_name": node.cluster,
            "node_name": node.id,
        }
    for name, value in told.items():
        logs.resource.attributes.add(key=name).value.string_value = value
    for name, value in service.resource_attributes:
        logs.resource.attributes.add(key=name).value.CopyFrom(_constant(json.loads(value)))
    _second(_second(logs).add()).extend(records)
    packed: bytes = message.SerializeToString()
    return packed


def _second(message: Any) -> Any:
    """The field 2 of a message: `scope_logs` or `log_records`, which older modules of the same messages call otherwise.

    xds-protos brings such ones, and opentelemetry-proto in the same place newer ones.
    """
    return getattr(message, message.DESCRIPTOR.fields_by_number[2].name)


def _constant(tree: Any) -> Any:
    if isinstance(tree, str):
        return common_pb2.AnyValue(string_value=tree)
    if isinstance(tree, list):
        return common_pb2.AnyValue(array_value=common_pb2.ArrayValue(values=map(_constant, tree)))
    pairs = [common_pb2.KeyValue(key=name, value=_constant(one)) for name, one in tree.items()]
    return common_pb2.AnyValue(kvlist_value=common_pb2.KeyValueList(values=pairs))
