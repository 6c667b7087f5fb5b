"""Client listeners: an api_listener with an HttpConnectionManager (gRFC A27, envoy.config.listener.v3.Listener)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from .. import constraints, protos
from ..access_log import AccessLogConfig, parse_access_logs
from ..filters.registry import Side
from ..filters.settings import HttpFilter
from ..istio_stats import StatsConfig, parse_stats
from ..notes import Notes
from ..route import RouteConfiguration
from ..tracing import RequestIds, Tracing, parse_request_ids, parse_tracing
from ..values import seconds, unpack
from .connection_manager import parse_filters, parse_routes
from .path_normalization import KEEP_PATHS, PathNormalization, parse_path_normalization

__all__ = ["Listener", "parse_listener", "parse_manager"]

# An address says nothing to a client that asks by name; istiod puts the service's there.
_LISTENER_FIELDS = frozenset(
    "name api_listener metadata traffic_direction stat_prefix address additional_addresses".split()
)
_MANAGER_FIELDS = frozenset(
    "codec_type stat_prefix rds route_config http_filters common_http_protocol_options server_name access_log"
    " generate_request_id use_remote_address xff_num_trusted_hops tracing normalize_path merge_slashes"
    " path_with_escaped_slashes_action stream_idle_timeout strip_matching_host_port strip_any_host_port"
    " strip_trailing_host_dot server_header_transformation always_set_request_id_in_response request_id_extension"
    # There is no outside from where a client's requests could come, and a client of HTTP upgrades no connection.
    " preserve_external_request_id proxy_100_continue upgrade_configs".split()
)


class Listener(Struct, frozen=True, gc=False):
    """What a client does for one target: its routes, by name or inline, and its HTTP filters.

    Attributes:
        route_name: RouteConfiguration to ask for by RDS; empty where `route_configuration` is inline.
        max_stream_duration_seconds: Longest time of a request whose route sets none; None is no limit.
        stream_idle_timeout_seconds: Longest time without a byte of a request whose route sets none; None is no limit.
        filters: In order, without the router.
        paths: How paths are made uniform before they are matched.
        strip_port: Whether and which ports are taken off the authority: empty, `matching` or `any`.
        strip_trailing_dot: Whether a dot at the end of the host is taken off.
        access_logs: Where its requests are told.
        request_ids: What is done about x-request-id.
        tracing: Which requests are traced; None leaves it to the application's OpenTelemetry.
        stats: What is changed of the metrics that they are counted in; None where nothing is.
    """

    name: str
    route_name: str = ""
    route_configuration: RouteConfiguration | None = None
    max_stream_duration_seconds: float | None = None
    stream_idle_timeout_seconds: float | None = None
    filters: tuple[HttpFilter, ...] = ()
    paths: PathNormalization = KEEP_PATHS
    strip_port: str = ""
    strip_trailing_dot: bool = False
    access_logs: tuple[AccessLogConfig, ...] = ()
    request_ids: RequestIds = RequestIds()
    tracing: Tracing | None = None
    stats: StatsConfig | None = None
    notes: tuple[str, ...] = ()

    @property
    def log_clusters(self) -> frozenset[str]:
        """Clusters that its requests are told to."""
        return frozenset(log.service.cluster for log in self.access_logs if log.service is not None)


def parse_listener(message: Any) -> Listener:
    """A validated client listener.

    Raises:
        ResourceError: A rule does not hold, or it is a listener for a server's socket.
    """
    where = "Listener"
    constraints.check(message)
    notes = Notes()
    if not message.HasField("api_listener"):
        raise ResourceError(f"{where}.api_listener", "must be set: this is a listener for a server, not for a client")
    notes.unless_acted_on(message, where, _LISTENER_FIELDS)
    path = f"{where}.api_listener.api_listener"
    return parse_manager(message.name, message.api_listener.api_listener, path, notes, unique_names=True)


def parse_manager(name: str, container: Any, path: str, notes: Notes, *, unique_names: bool = False) -> Listener:
    """A client's connection manager, as a listener of this name.

    Raises:
        ResourceError: A rule does not hold.
    """
    manager = unpack(container, protos.http_connection_manager_pb2.HttpConnectionManager, path)
    notes.unless_acted_on(manager, path, _MANAGER_FIELDS)
    route_name, configuration = parse_routes(manager, path)
    idle = seconds(manager, "stream_idle_timeout")
    return Listener(
        name=name,
        route_name=route_name,
        route_configuration=configuration,
        max_stream_duration_seconds=seconds(manager.common_http_protocol_options, "max_stream_duration") or None,
        # HttpConnectionManager.stream_idle_timeout: 5 minutes where unset; zero disables it.
        stream_idle_timeout_seconds=300.0 if idle is None else idle or None,
        filters=parse_filters(manager, path, notes, Side.CLIENT, unique_names=unique_names),
        paths=parse_path_normalization(manager, path),
        strip_port="any" if manager.strip_any_host_port else "matching" if manager.strip_matching_host_port else "",
        strip_trailing_dot=manager.strip_trailing_host_dot,
        access_logs=parse_access_logs(manager.access_log, f"{path}.access_log", notes),
        request_ids=parse_request_ids(manager, path, notes),
        tracing=parse_tracing(manager, path, notes),
        stats=parse_stats(manager.http_filters, f"{path}.http_filters", notes),
        notes=tuple(notes) + (configuration.notes if configuration else ()),
    )
