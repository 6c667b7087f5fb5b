"""OutlierDetection and HealthCheck: protobuf to data."""

from __future__ import annotations

from typing import Any

from ..errors import ResourceError
from .header_mutations import parse_addition
from .health import HealthCheck, HealthCheckKind, OutlierDetection
from .notes import Notes
from .values import optional, seconds

__all__ = ["parse_health_check", "parse_outlier_detection"]

_COUNTS = (
    "consecutive_5xx enforcing_consecutive_5xx consecutive_gateway_failure enforcing_consecutive_gateway_failure"
    " consecutive_local_origin_failure enforcing_consecutive_local_origin_failure max_ejection_percent"
    " enforcing_success_rate enforcing_local_origin_success_rate success_rate_minimum_hosts"
    " success_rate_request_volume success_rate_stdev_factor failure_percentage_threshold"
    " enforcing_failure_percentage enforcing_failure_percentage_local_origin failure_percentage_minimum_hosts"
    " failure_percentage_request_volume"
).split()


def parse_outlier_detection(message: Any, where: str, notes: Notes) -> OutlierDetection:
    """An OutlierDetection; what is not set has Envoy's default."""
    notes.unless_acted_on(message, where, frozenset(field.name for field in message.DESCRIPTOR.fields) - {"monitors"})
    counts: dict[str, Any] = {name: value for name in _COUNTS if (value := optional(message, name)) is not None}
    base = seconds(message, "base_ejection_time")
    base = 30.0 if base is None else base
    longest = seconds(message, "max_ejection_time")
    interval = seconds(message, "interval")
    uneject = optional(message, "successful_active_health_check_uneject_host")
    return OutlierDetection(
        **counts,
        split_external_local_origin_errors=message.split_external_local_origin_errors,
        interval_seconds=10.0 if interval is None else interval,
        base_ejection_time_seconds=base,
        # OutlierDetection.max_ejection_time: 300 s or base_ejection_time, whatever is longer.
        max_ejection_time_seconds=max(300.0, base) if longest is None else longest,
        max_ejection_time_jitter_seconds=seconds(message, "max_ejection_time_jitter") or 0.0,
        always_eject_one_host=bool(optional(message, "always_eject_one_host")),
        successful_active_health_check_uneject_host=uneject is not False,
    )


_NOT_ACTED_ON = frozenset({"tls_options", "transport_socket_match_criteria"})
_LOGGING = frozenset("event_log_path event_logger event_service".split())


def parse_health_check(message: Any, where: str, notes: Notes) -> HealthCheck:
    """A HealthCheck.

    Raises:
        ResourceError: It is of a kind that meshsdk does not have.
    """
    for name in _NOT_ACTED_ON:
        if message.HasField(name):
            notes.add(f"{where}.{name}", "is not acted on")
    which = message.WhichOneof("health_checker")
    common: dict[str, Any] = {
        "timeout": seconds(message, "timeout") or 0.0,
        "interval": seconds(message, "interval") or 0.0,
        "unhealthy_threshold": message.unhealthy_threshold.value,
        "healthy_threshold": message.healthy_threshold.value,
        "initial_jitter": seconds(message, "initial_jitter") or 0.0,
        "interval_jitter": seconds(message, "interval_jitter") or 0.0,
        "interval_jitter_percent": message.interval_jitter_percent,
        "alt_port": optional(message, "alt_port") or 0,
        "reuse_connection": optional(message, "reuse_connection") is not False,
    }
    no_traffic = seconds(message, "no_traffic_interval")
    common["no_traffic_interval"] = 60.0 if no_traffic is None else no_traffic
    for name in (
        "no_traffic_healthy_interval",
        "unhealthy_interval",
        "unhealthy_edge_interval",
        "healthy_edge_interval",
    ):
        common[name] = seconds(message, name)
    if which == "http_health_check":
        return _parse_http(message.http_health_check, f"{where}.http_health_check", common, notes)
    if which == "tcp_health_check":
        tcp = message.tcp_health_check
        return HealthCheck(
            HealthCheckKind.TCP,
            send=_payload(tcp.send, f"{where}.tcp_health_check.send"),
            receive=tuple(_payload(part, f"{where}.tcp_health_check.receive") for part in tcp.receive),
            **common,
        )
    if which == "grpc_health_check":
        grpc = message.grpc_health_check
        return HealthCheck(
            HealthCheckKind.GRPC, service_name=grpc.service_name, authority=grpc.authority, http2=True, **common
        )
    raise ResourceError(f"{where}.{which}", "is a health check that meshsdk does not have")


_HTTP_FIELDS = frozenset(
    "host path request_headers_to_add request_headers_to_remove expected_statuses retriable_statuses"
    " codec_client_type method".split()
)
_METHODS = {0: "GET", 1: "GET", 2: "HEAD", 3: "POST", 4: "PUT", 5: "DELETE", 7: "OPTIONS", 8: "TRACE", 9: "PATCH"}


def _parse_http(message: Any, where: str, common: dict[str, Any], notes: Notes) -> HealthCheck:
    notes.unless_acted_on(message, where, _HTTP_FIELDS)
    method = _METHODS.get(message.method)
    if method is None:
        raise ResourceError(f"{where}.method", "CONNECT is not a method of health checks")
    return HealthCheck(
        HealthCheckKind.HTTP,
        host=message.host,
        path=message.path,
        method=method,
        headers=tuple(
            parse_addition(option, f"{where}.request_headers_to_add[{index}]")
            for index, option in enumerate(message.request_headers_to_add)
        ),
        removed_headers=tuple(name.lower() for name in message.request_headers_to_remove),
        expected_statuses=_ranges(message.expected_statuses, f"{where}.expected_statuses") or ((200, 201),),
        retriable_statuses=_ranges(message.retriable_statuses, f"{where}.retriable_statuses"),
        http2=message.codec_client_type == 1,
        **common,
    )


def _ranges(ranges: Any, where: str) -> tuple[tuple[int, int], ...]:
    for index, one in enumerate(ranges):
        if not 100 <= one.start < one.end <= 600:
            raise ResourceError(f"{where}[{index}]", f"[{one.start}, {one.end}) is not within [100, 600)")
    return tuple((one.start, one.end) for one in ranges)


def _payload(message: Any, where: str) -> bytes:
    if message.WhichOneof("payload") == "binary":
        return bytes(message.binary)
    try:
        return bytes.fromhex(message.text)
    except ValueError:
        raise ResourceError(f"{where}.text", f"{message.text!r} is not hexadecimal") from None
