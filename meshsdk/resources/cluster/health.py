"""How endpoints' health is found out: outlier detection and active health checks, as data.

Sources: envoy.config.cluster.v3.OutlierDetection, envoy.config.core.v3.HealthCheck.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from ..header_mutations import HeaderAddition, parse_addition
from ..notes import Notes
from ..values import optional, seconds

__all__ = ["HealthCheck", "HealthCheckKind", "OutlierDetection", "parse_health_check", "parse_outlier_detection"]


class OutlierDetection(Struct, frozen=True, gc=False):
    """When an endpoint that fails is taken out for a while. `enforcing_…` and `…_percent` are percentages.

    Attributes:
        base_ejection_time_seconds: Times the number of ejections so far is how long an endpoint stays out.
        max_ejection_time_jitter_seconds: Up to this much more, by chance.
        split_external_local_origin_errors: Count failures to connect apart from what servers answer.
        always_eject_one_host: Even where max_ejection_percent allows none.
    """

    consecutive_5xx: int = 5
    enforcing_consecutive_5xx: int = 100
    consecutive_gateway_failure: int = 5
    enforcing_consecutive_gateway_failure: int = 0
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failure: int = 5
    enforcing_consecutive_local_origin_failure: int = 100
    interval_seconds: float = 10.0
    base_ejection_time_seconds: float = 30.0
    max_ejection_time_seconds: float = 300.0
    max_ejection_time_jitter_seconds: float = 0.0
    max_ejection_percent: int = 10
    always_eject_one_host: bool = False
    enforcing_success_rate: int = 100
    enforcing_local_origin_success_rate: int = 100
    success_rate_minimum_hosts: int = 5
    success_rate_request_volume: int = 100
    success_rate_stdev_factor: int = 1900
    failure_percentage_threshold: int = 85
    enforcing_failure_percentage: int = 0
    enforcing_failure_percentage_local_origin: int = 0
    failure_percentage_minimum_hosts: int = 5
    failure_percentage_request_volume: int = 50
    successful_active_health_check_uneject_host: bool = True


class HealthCheckKind(Enum):
    """The alternatives of HealthCheck.health_checker."""

    HTTP = "http_health_check"
    TCP = "tcp_health_check"
    GRPC = "grpc_health_check"


class HealthCheck(Struct, frozen=True, gc=False):
    """How endpoints are asked whether they are well. Times are in seconds.

    Attributes:
        unhealthy_threshold, healthy_threshold: So many failures (successes) in a row change an endpoint's health; the
            first success after the start is enough.
        no_traffic_interval: Between checks while the cluster has had no request.
        alt_port: Asked in place of the endpoint's; 0 is the endpoint's own.
        host, path, method, headers: Of the HTTP request.
        expected_statuses: Ranges [start, end) of healthy answers.
        retriable_statuses: Ranges that count against unhealthy_threshold; other failures count at once.
        http2: Speak HTTP/2.
        send, receive: Bytes sent over TCP, and parts that the answer must hold in order.
        service_name, authority: Of the gRPC health service.
    """

    kind: HealthCheckKind
    timeout: float
    interval: float
    unhealthy_threshold: int
    healthy_threshold: int
    initial_jitter: float = 0.0
    interval_jitter: float = 0.0
    interval_jitter_percent: int = 0
    no_traffic_interval: float = 60.0
    no_traffic_healthy_interval: float | None = None
    unhealthy_interval: float | None = None
    unhealthy_edge_interval: float | None = None
    healthy_edge_interval: float | None = None
    alt_port: int = 0
    reuse_connection: bool = True
    host: str = ""
    path: str = ""
    method: str = "GET"
    headers: tuple[HeaderAddition, ...] = ()
    removed_headers: tuple[str, ...] = ()
    expected_statuses: tuple[tuple[int, int], ...] = ((200, 201),)
    retriable_statuses: tuple[tuple[int, int], ...] = ()
    http2: bool = False
    send: bytes = b""
    receive: tuple[bytes, ...] = ()
    service_name: str = ""
    authority: str = ""


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
