"""Servers that access logs go to: gRPC's access log service, and OpenTelemetry's collectors, as data.

Sources: envoy.extensions.access_loggers.grpc.v3 (HttpGrpcAccessLogConfig), open_telemetry.v3
(OpenTelemetryAccessLogConfig).
"""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

from ..errors import ResourceError
from ..xdstp import normalised
from . import protos
from .notes import Notes
from .values import seconds, unpack

__all__ = ["LOG_SERVICE_TYPES", "LogService", "parse_log_service"]

_GRPC = "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
_OTEL = "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig"
LOG_SERVICE_TYPES = (_GRPC, _OTEL)

# CommonGrpcAccessLogConfig: defaults.
_FLUSH_SECONDS = 1.0
_BUFFER_BYTES = 16384
# A stream of Envoy's may stand as long as it likes; here each batch is a call, which must end.
_TIMEOUT_SECONDS = 10.0

_MAX_DEPTH = 16


class LogService(Struct, frozen=True, gc=False):
    """A server, and what it is told.

    Attributes:
        is_otel: It is a collector of OpenTelemetry's; else an AccessLogService.
        cluster: Where it is.
        authority: Of calls; empty is the cluster's name.
        metadata: Of calls.
        timeout_seconds: Of one call.
        flush_seconds, buffer_bytes: After so long or so much entries are sent.
        request_headers, response_headers, response_trailers: That are told besides, by lower-case names.
        body: Of OpenTelemetry's records, as JSON with formats in it; empty where there is none.
        attributes, resource_attributes: Of records, and of what they come from, likewise, by name.
        has_own_labels: The resource says log, node, cluster and zone.
    """

    is_otel: bool
    cluster: str
    log_name: str = ""
    authority: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    timeout_seconds: float = _TIMEOUT_SECONDS
    flush_seconds: float = _FLUSH_SECONDS
    buffer_bytes: int = _BUFFER_BYTES
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    response_trailers: tuple[str, ...] = ()
    body: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    resource_attributes: tuple[tuple[str, str], ...] = ()
    has_own_labels: bool = True

    @property
    def name(self) -> str:
        """For people."""
        return f"{'OpenTelemetry' if self.is_otel else 'gRPC'} {self.log_name} at {self.cluster}"


def parse_log_service(container: Any, where: str, notes: Notes) -> LogService:
    """The service inside a google.protobuf.Any.

    Raises:
        ResourceError: It names no cluster, or its format is none.
    """
    if container.type_url.rpartition("/")[2] == _GRPC:
        message = unpack(container, protos.als_pb2.HttpGrpcAccessLogConfig, where)
        return LogService(
            is_otel=False,
            request_headers=_lower(message.additional_request_headers_to_log),
            response_headers=_lower(message.additional_response_headers_to_log),
            response_trailers=_lower(message.additional_response_trailers_to_log),
            **_common(message.common_config, f"{where}.common_config", notes),
        )
    message = unpack(container, protos.otel_log_pb2.OpenTelemetryAccessLogConfig, where)
    return LogService(
        is_otel=True,
        body=json.dumps(_value(message.body, f"{where}.body")) if message.body.WhichOneof("value") else "",
        attributes=_named(message.attributes, f"{where}.attributes"),
        resource_attributes=_named(message.resource_attributes, f"{where}.resource_attributes"),
        has_own_labels=not message.disable_builtin_labels,
        **_common(message.common_config, f"{where}.common_config", notes),
    )


def _common(message: Any, where: str, notes: Notes) -> dict[str, Any]:
    service = message.grpc_service
    if service.WhichOneof("target_specifier") != "envoy_grpc":
        raise ResourceError(f"{where}.grpc_service", "must name a cluster (envoy_grpc); google_grpc is refused")
    if message.custom_tags:
        notes.add(f"{where}.custom_tags", "are not told")
    metadata = tuple((one.key.lower(), one.value) for one in service.initial_metadata)
    flush = seconds(message, "buffer_flush_interval")
    return {
        "cluster": normalised(service.envoy_grpc.cluster_name),
        "authority": service.envoy_grpc.authority,
        "log_name": message.log_name,
        "metadata": metadata,
        "timeout_seconds": seconds(service, "timeout") or _TIMEOUT_SECONDS,
        "flush_seconds": _FLUSH_SECONDS if flush is None else flush,
        "buffer_bytes": message.buffer_size_bytes.value if message.HasField("buffer_size_bytes") else _BUFFER_BYTES,
    }


def _lower(names: Any) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


def _named(message: Any, where: str) -> tuple[tuple[str, str], ...]:
    return tuple((one.key, json.dumps(_value(one.value, f"{where}[{one.key!r}]"))) for one in message.values)


def _value(message: Any, where: str, depth: int = 0) -> Any:
    """An AnyValue of OpenTelemetry's; Envoy takes texts, lists and maps (substitution_formatter.cc)."""
    if depth > _MAX_DEPTH:
        raise ResourceError(where, f"is nested deeper than {_MAX_DEPTH}")
    kind = message.WhichOneof("value")
    if kind == "string_value":
        return message.string_value
    if kind == "kvlist_value":
        return {one.key: _value(one.value, f"{where}[{one.key!r}]", depth + 1) for one in message.kvlist_value.values}
    if kind == "array_value":
        return [_value(one, f"{where}[{index}]", depth + 1) for index, one in enumerate(message.array_value.values)]
    raise ResourceError(where, "must be a text, a list or a map")
