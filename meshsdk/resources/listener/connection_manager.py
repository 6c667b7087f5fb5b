"""What a connection manager says on either side: its routes and its HTTP filters (HttpConnectionManager)."""

from __future__ import annotations

from typing import Any

from ...errors import ResourceError
from .. import protos
from ..config_source import sourced_name
from ..filters.registry import Side, parse_filter
from ..filters.settings import HttpFilter
from ..istio_stats import is_stats
from ..notes import Notes
from ..route import RouteConfiguration, parse_route_configuration
from ..values import config_type, unpack

__all__ = ["parse_filters", "parse_routes"]

_ROUTER_FILTER_TYPE = "envoy.extensions.filters.http.router.v3.Router"


def parse_routes(manager: Any, where: str) -> tuple[str, RouteConfiguration | None]:
    which = manager.WhichOneof("route_specifier")
    if which == "route_config":
        return "", parse_route_configuration(manager.route_config)
    if which == "rds":
        if not manager.rds.route_config_name:
            raise ResourceError(f"{where}.rds.route_config_name", "must be set")
        return sourced_name(
            manager.rds.config_source, manager.rds.route_config_name, f"{where}.rds.config_source"
        ), None
    raise ResourceError(f"{where}.{which}", "scoped routes are refused; use rds or route_config")


def parse_filters(
    manager: Any, where: str, notes: Notes, side: Side, *, unique_names: bool = False
) -> tuple[HttpFilter, ...]:
    """The filters but the router. gRFC A39: an unknown filter that is not optional fails the listener.

    Args:
        manager: The connection manager.
        where: Its path.
        notes: What is not acted on.
        side: Whose filters they are.
        unique_names: gRFC A39's rule. Envoy has none: istiod gives its RBAC filters for AUDIT, DENY and ALLOW one name.
    """
    filters: list[HttpFilter] = []
    names: set[str] = set()
    if side is Side.SERVER and not manager.http_filters:
        # Envoy lets no request through without one.
        raise ResourceError(f"{where}.http_filters", "is empty: the last filter must be the router")
    for index, http_filter in enumerate(manager.http_filters):
        path = f"{where}.http_filters[{index}]"
        if unique_names and http_filter.name in names:
            raise ResourceError(f"{path}.name", f"{http_filter.name!r} stands twice")
        names.add(http_filter.name)
        kind = config_type(http_filter.typed_config)
        is_last = index == len(manager.http_filters) - 1
        if kind == _ROUTER_FILTER_TYPE:
            if not is_last:
                raise ResourceError(path, "the router must be the last filter")
            _check_router(http_filter.typed_config, f"{path}.typed_config", notes, side)
        elif is_last:
            raise ResourceError(path, "the last filter must be the router")
        elif is_stats(http_filter.typed_config):
            continue  # It changes no request; see `istio_stats.parse_stats`.
        elif (parsed := parse_filter(http_filter, path, notes, side)) is not None:
            filters.append(parsed)
        elif kind in _DONE_OTHERWISE or (side is Side.CLIENT and kind == _CORS):
            continue
        elif http_filter.is_optional or (side is Side.CLIENT and kind == _GRPC_WEB):
            notes.add(path, f"{http_filter.name!r} is skipped")
        else:
            raise ResourceError(path, f"{http_filter.name!r} ({kind}) is not known and not optional")
    return tuple(filters)


# These change nothing for one end of a connection.
_ROUTER_FIELDS = frozenset(
    "dynamic_stats start_child_span upstream_log upstream_log_options suppress_envoy_headers"
    " respect_expected_rq_timeout suppress_grpc_request_failure_code_stats".split()
)


def _check_router(container: Any, where: str, notes: Notes, side: Side) -> None:
    router = unpack(container, protos.router_pb2.Router, where)
    if router.upstream_http_filters and side is Side.SERVER:
        raise ResourceError(f"{where}.upstream_http_filters", "is refused: make them filters of the listener")
    notes.unless_acted_on(router, where, _ROUTER_FIELDS)


# Filters that istiod gives everybody. They change no request, or what they do is done in another place.
_DONE_OTHERWISE = frozenset(
    {
        # It only counts.
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        # Names for ALPN: see `http.tls`.
        "envoy.extensions.filters.http.alpn.v3.FilterConfig",
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
        # Headers that tell peers of each other: see `telemetry.peer_metadata`.
        "io.istio.http.peer_metadata.Config",
    }
)

# It would make gRPC of gRPC-Web, which clients of this process do not speak.
_GRPC_WEB = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"

# Browsers' questions are for servers to answer; no browser asks by way of a client of this process.
_CORS = "envoy.extensions.filters.http.cors.v3.Cors"
