"""Istio's access logs: what Telemetry objects and MeshConfig say of them, as connection managers have it.

Sources: istio/api telemetry/v1alpha1/telemetry.proto, mesh/v1alpha1/config.proto; istio/istio
pilot/pkg/model/telemetry.go (levels), telemetry_logging.go (providers and formats).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import json_format
from msgspec import Struct

from ..access_log import ISTIO_TEXT
from .age import UNKNOWN_AGE, Age
from .labels import has_labels
from .metric_rules import PROMETHEUS, Metrics
from .names import cluster_name
from .tracing import NO_TRACING, TraceRule, apply_tracing

__all__ = [
    "BUILTIN",
    "STDOUT",
    "AccessLogging",
    "LogDefaults",
    "LogProvider",
    "LogServer",
    "ManagerTelemetry",
    "Telemetry",
    "access_logs",
    "levels",
]

# The provider that is there without being defined.
BUILTIN = "envoy"
STDOUT = "/dev/stdout"


class LogServer(Struct, frozen=True):
    """A server that is told of requests (envoyHttpAls, envoyOtelAls)."""

    is_otel: bool
    host: str
    port: int
    log_name: str = ""
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    response_trailers: tuple[str, ...] = ()


class LogProvider(Struct, frozen=True):
    """A file that access logs go to (MeshConfig.extensionProviders.envoyFileAccessLog), or a server in its place.

    Attributes:
        text: The format; empty for Istio's.
        labels: A JSON format instead, as JSON.
    """

    path: str = STDOUT
    text: str = ""
    labels: str = ""
    server: LogServer | None = None


class LogDefaults(Struct, frozen=True):
    """What MeshConfig says of access logs.

    Attributes:
        path: accessLogFile; empty writes none where no Telemetry asks for it.
        builtin: What the provider `envoy` is.
        providers: Those that are defined, by name.
        names: Of those that are meant where nobody names any (defaultProviders.accessLogging).
        metrics: The same for metrics.
        prometheus: Those that are Prometheus.
    """

    path: str = ""
    builtin: LogProvider = LogProvider()
    providers: Mapping[str, LogProvider] = {}
    names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = (PROMETHEUS,)
    prometheus: frozenset[str] = frozenset((PROMETHEUS,))


class AccessLogging(Struct, frozen=True):
    """One entry of a Telemetry's accessLogging.

    Attributes:
        expression: CEL; empty takes all requests.
    """

    mode: str = "CLIENT_AND_SERVER"
    providers: tuple[str, ...] = ()
    is_disabled: bool = False
    expression: str = ""


class Telemetry(Struct, frozen=True):
    """A Telemetry object; `selector` None is for the whole namespace."""

    name: str
    namespace: str
    selector: Mapping[str, str] | None
    logging: tuple[AccessLogging, ...]
    tracing: tuple[TraceRule, ...] = ()
    age: Age = UNKNOWN_AGE
    metrics: tuple[Metrics, ...] = ()


class ManagerTelemetry(Struct, frozen=True):
    """What connection managers tell of requests.

    Attributes:
        logs: envoy.config.accesslog.v3.AccessLog, serialized.
        tracing: See `tracing.trace_settings`.
        stats: What is changed of metrics (see `metric_rules.stats_filter`); empty where nothing is.
    """

    logs: tuple[bytes, ...] = ()
    tracing: bytes = NO_TRACING
    stats: bytes = b""

    def add_to(self, manager: http_connection_manager_pb2.HttpConnectionManager) -> None:
        """Have a connection manager tell this."""
        for log in self.logs:
            manager.access_log.add().MergeFromString(log)
        apply_tracing(manager, self.tracing)

    def add_filter_to(self, manager: http_connection_manager_pb2.HttpConnectionManager) -> None:
        """Have the filter of metrics at this place among a connection manager's, where something is changed of them."""
        if self.stats:
            manager.http_filters.add().MergeFromString(self.stats)


def access_logs(rules: Iterable[Telemetry], defaults: LogDefaults, *, is_server: bool) -> tuple[bytes, ...]:
    """The access logs of a workload's connection managers (envoy.config.accesslog.v3.AccessLog), serialized.

    Args:
        rules: Those for the workload, the widest first.
        defaults: MeshConfig's.
        is_server: Whether it is about requests that come to it.
    """
    names = defaults.names or ((BUILTIN,) if defaults.path else ())
    chosen = dict.fromkeys(names, "")
    wrong_mode = "CLIENT" if is_server else "SERVER"
    for rule in rules:
        for entry in rule.logging:
            if entry.mode == wrong_mode:
                continue
            names = entry.providers or names
            for name in names:
                if entry.is_disabled:
                    chosen.pop(name, None)
                else:
                    chosen[name] = entry.expression
    found = []
    for name, expression in chosen.items():
        provider = defaults.providers.get(name) or (defaults.builtin if name == BUILTIN else None)
        if provider is not None:
            found.append(_message(name, provider, expression).SerializeToString(deterministic=True))
    return tuple(found)


def levels(rules: list[Telemetry], root_namespace: str, namespace: str, labels: Mapping[str, str]) -> list[Telemetry]:
    """The Telemetry of the mesh and of the namespace, of several the oldest one, and those for the workload's labels.

    Source: telemetry.go, applicableTelemetries; what else stands in an object has no say in which one holds.
    """
    every = sorted(rules, key=lambda one: one.age)
    own = [one for one in every if one.namespace == namespace]
    selecting = [one for one in own if one.selector is not None and has_labels(labels, one.selector)]
    of_mesh = [one for one in every if one.namespace == root_namespace and one.selector is None]
    of_namespace = [one for one in own if one.selector is None] if namespace != root_namespace else []
    return [*of_mesh[:1], *of_namespace[:1], *selecting]


def _message(name: str, provider: LogProvider, expression: str) -> accesslog_pb2.AccessLog:
    server = provider.server
    if server is not None:
        message = _of_otel(server, provider) if server.is_otel else _of_grpc(server)
    else:
        message = _of_file(name, provider)
    if expression:
        chosen = message.filter.extension_filter
        chosen.name = "envoy.access_loggers.extension_filters.cel"
        chosen.typed_config.Pack(cel_pb2.ExpressionFilter(expression=expression))
    return message


# telemetry_logging.go: what of the filter state is told besides.
_FILTER_STATE = ("upstream_peer", "downstream_peer")


def _fill(common: als_pb2.CommonGrpcAccessLogConfig, server: LogServer, log_name: str) -> None:
    common.log_name = server.log_name or log_name
    common.transport_api_version = 2  # V3
    common.filter_state_objects_to_log.extend(_FILTER_STATE)
    common.grpc_service.envoy_grpc.cluster_name = cluster_name(server.port, "", server.host)
    common.grpc_service.envoy_grpc.authority = server.host


def _of_grpc(server: LogServer) -> accesslog_pb2.AccessLog:
    config = als_pb2.HttpGrpcAccessLogConfig(
        additional_request_headers_to_log=server.request_headers,
        additional_response_headers_to_log=server.response_headers,
        additional_response_trailers_to_log=server.response_trailers,
    )
    _fill(config.common_config, server, "http_envoy_accesslog")
    message = accesslog_pb2.AccessLog(name="envoy.access_loggers.http_grpc")
    message.typed_config.Pack(config)
    return message


def _of_otel(server: LogServer, provider: LogProvider) -> accesslog_pb2.AccessLog:
    config = logs_service_pb2.OpenTelemetryAccessLogConfig(disable_builtin_labels=True)
    _fill(config.common_config, server, "otel_envoy_accesslog")
    config.body.string_value = provider.text or ISTIO_TEXT
    labels = json.loads(provider.labels) if provider.labels else {}
    for label in sorted(labels):
        # ConvertStructToAttributeKeyValues: what is no text is an empty one.
        value = labels[label]
        config.attributes.values.add(key=label).value.string_value = value if isinstance(value, str) else ""
    message = accesslog_pb2.AccessLog(name="envoy.access_loggers.open_telemetry")
    message.typed_config.Pack(config)
    return message


def _of_file(name: str, provider: LogProvider) -> accesslog_pb2.AccessLog:
    config = file_pb2.FileAccessLog(path=provider.path)
    if provider.labels:
        json_format.ParseDict(json.loads(provider.labels), config.log_format.json_format)
    else:
        text = provider.text or ISTIO_TEXT
        # telemetry_logging.go, fileAccessLogFormat.
        config.log_format.text_format_source.inline_string = text if text.endswith("\n") else f"{text}\n"
    message = accesslog_pb2.AccessLog(name=f"envoy.access_loggers.file.{name}")
    message.typed_config.Pack(config)
    return message
