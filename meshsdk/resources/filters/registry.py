"""Which HTTP filters there are: each has a file of its own here, and its rows in these tables."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from enum import Enum
from typing import Any

from .. import protos
from ..notes import Notes
from ..values import unpack
from .settings import FilterSetting, FilterSettings, FilterSwitch, HttpFilter

__all__ = ["Side", "parse_filter", "parse_filter_settings"]

Parse = Callable[[Any, str, Notes], FilterSetting | None]

_FILTERS = "envoy.extensions.filters.http"


def _by(module: str, function: str) -> Parse:
    """A parser whose module, with its protobufs, is loaded when the first such filter comes."""

    def parse(container: Any, where: str, notes: Notes) -> FilterSetting | None:
        parser: Parse = getattr(importlib.import_module(f".{module}", __package__), function)
        return parser(container, where, notes)

    return parse


_ON_BOTH_SIDES: dict[str, Parse] = {
    f"{_FILTERS}.buffer.v3.Buffer": _by("buffer", "parse_buffer"),
    f"{_FILTERS}.fault.v3.HTTPFault": _by("fault", "parse_fault"),
    f"{_FILTERS}.header_mutation.v3.HeaderMutation": _by("header_mutation", "parse_header_mutation"),
}
_OF_CLIENTS: dict[str, Parse] = {
    **_ON_BOTH_SIDES,
    f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit": _by("local_rate_limit", "parse_client_rate_limit"),
    f"{_FILTERS}.stateful_session.v3.StatefulSession": _by("stateful_session", "parse_stateful_session"),
}
_OF_SERVERS: dict[str, Parse] = {
    **_ON_BOTH_SIDES,
    f"{_FILTERS}.adaptive_concurrency.v3.AdaptiveConcurrency": _by("load_shedding", "parse_adaptive_concurrency"),
    f"{_FILTERS}.admission_control.v3.AdmissionControl": _by("load_shedding", "parse_admission_control"),
    f"{_FILTERS}.cors.v3.Cors": _by("browser", "parse_cors"),
    f"{_FILTERS}.csrf.v3.CsrfPolicy": _by("browser", "parse_csrf"),
    f"{_FILTERS}.ext_authz.v3.ExtAuthz": _by("ext_authz", "parse_ext_authz"),
    f"{_FILTERS}.jwt_authn.v3.JwtAuthentication": _by("jwt", "parse_jwt_authentication"),
    f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit": _by("local_rate_limit", "parse_local_rate_limit"),
    f"{_FILTERS}.ratelimit.v3.RateLimit": _by("rate_limit", "parse_rate_limit"),
    f"{_FILTERS}.rbac.v3.RBAC": _by("rbac", "parse_rbac"),
    f"{_FILTERS}.set_filter_state.v3.Config": _by("set_filter_state", "parse_set_filter_state"),
}
# None from one of these switches the filter off for the route.
_PER_ROUTE: dict[str, Parse] = {
    f"{_FILTERS}.buffer.v3.BufferPerRoute": _by("buffer", "parse_buffer_per_route"),
    f"{_FILTERS}.cors.v3.CorsPolicy": _by("browser", "parse_cors_policy"),
    f"{_FILTERS}.csrf.v3.CsrfPolicy": _by("browser", "parse_csrf"),
    f"{_FILTERS}.ext_authz.v3.ExtAuthzPerRoute": _by("ext_authz", "parse_ext_authz_per_route"),
    f"{_FILTERS}.fault.v3.HTTPFault": _by("fault", "parse_fault"),
    f"{_FILTERS}.jwt_authn.v3.PerRouteConfig": _by("jwt", "parse_jwt_per_route"),
    f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit": _by("local_rate_limit", "parse_local_rate_limit_per_route"),
    f"{_FILTERS}.ratelimit.v3.RateLimitPerRoute": _by("rate_limit", "parse_rate_limit_per_route"),
    f"{_FILTERS}.rbac.v3.RBACPerRoute": _by("rbac", "parse_rbac_per_route"),
    f"{_FILTERS}.set_filter_state.v3.Config": _by("set_filter_state", "parse_set_filter_state"),
    f"{_FILTERS}.stateful_session.v3.StatefulSessionPerRoute": _by(
        "stateful_session", "parse_stateful_session_per_route"
    ),
    f"{_FILTERS}.header_mutation.v3.HeaderMutationPerRoute": _by("header_mutation", "parse_header_mutation_per_route"),
}


class Side(Enum):
    """Whose filters they are: a filter that only servers have is not known to a client (gRFC A39, A41)."""

    CLIENT = "client"
    SERVER = "server"


_OF_SIDE = {Side.CLIENT: _OF_CLIENTS, Side.SERVER: _OF_SERVERS}


def parse_filter(message: Any, where: str, notes: Notes, side: Side) -> HttpFilter | None:
    """A filter of a listener (http_connection_manager.v3.HttpFilter); None where its type is not known on this side."""
    container = message.typed_config
    kind = container.type_url.rpartition("/")[2]
    parse = _OF_SIDE[side].get(kind)
    setting = parse(container, f"{where}.typed_config", notes) if parse is not None else None
    return HttpFilter(message.name, setting, message.disabled, _package(kind)) if setting is not None else None


def _package(kind: str) -> str:
    return kind.rpartition(".")[0]


_WRAPPER = "envoy.config.route.v3.FilterConfig"


def parse_filter_settings(message: Any, where: str, notes: Notes) -> FilterSettings:
    """The typed_per_filter_config of a message.

    Raises:
        ResourceError: One is for a filter that meshsdk does not have, and not optional (gRFC A39).
    """
    settings = []
    for name, container in message.typed_per_filter_config.items():
        setting = _parse_setting(name, container, f"{where}.typed_per_filter_config[{name!r}]", notes)
        if setting is not None:
            settings.append(setting)
    return tuple(settings)


def _parse_setting(name: str, container: Any, where: str, notes: Notes) -> HttpFilter | None:
    kind = container.type_url.rpartition("/")[2]
    if kind == _WRAPPER:
        wrapper = unpack(container, protos.route_components_pb2.FilterConfig, where)
        if wrapper.disabled:
            return HttpFilter(name, FilterSwitch.DISABLED)
        if not wrapper.config.type_url:
            return HttpFilter(name, FilterSwitch.ENABLED)
        container, where = wrapper.config, f"{where}.config"
        kind = container.type_url.rpartition("/")[2]
    parse = _PER_ROUTE.get(kind)
    if parse is not None:
        setting = parse(container, where, notes)
        return HttpFilter(name, FilterSwitch.DISABLED if setting is None else setting, package=_package(kind))
    notes.add(where, "is for a filter that meshsdk does not have")
    return None
