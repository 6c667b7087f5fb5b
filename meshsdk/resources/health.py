"""How endpoints' health is found out: outlier detection and active health checks, as data.

Sources: envoy.config.cluster.v3.OutlierDetection, envoy.config.core.v3.HealthCheck.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .header_mutations import HeaderAddition

__all__ = ["HealthCheck", "HealthCheckKind", "OutlierDetection"]


@dataclass(frozen=True, slots=True)
class OutlierDetection:
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


@dataclass(frozen=True, slots=True)
class HealthCheck:
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
