"""HTTP filters, and what routes say of them (typed_per_filter_config).

A listener names its filters in order; a route configuration, a virtual host, a route and a cluster of a split may each
have settings for a filter of that name. The most specific one holds (Envoy docs, http_filters, route specific config).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2

from ..errors import ResourceError
from .buffer import Buffer
from .fault import Fault
from .header_mutations import HeaderMutations, check_name, parse_addition
from .local_rate_limit import LocalRateLimit
from .notes import Notes
from .stateful_session import StatefulSession
from .values import unpack

if TYPE_CHECKING:
    from .browser_policy import Cors, CorsPolicy, Csrf
    from .ext_authz import ExtAuthz, ExtAuthzPerRoute
    from .filter_state import SetFilterState
    from .jwt import JwtAuthentication, JwtPerRoute
    from .load_shedding import AdaptiveConcurrency, AdmissionControl
    from .rate_limit import RateLimit, RateLimitPerRoute
    from .rbac import Rbac

__all__ = [
    "FilterHeaderMutations",
    "FilterSetting",
    "FilterSettings",
    "FilterSwitch",
    "HttpFilter",
    "Side",
    "parse_filter",
    "parse_filter_settings",
    "settings_of",
]


class FilterSwitch(Enum):
    """A filter that a route switches off, or on as the listener has it."""

    DISABLED = "disabled"
    ENABLED = "enabled"


@dataclass(frozen=True, slots=True)
class FilterHeaderMutations:
    """What the filter header_mutation does (envoy.extensions.filters.http.header_mutation.v3).

    Each mutation is a level of its own, since this filter carries them out one after the other.
    """

    request: tuple[HeaderMutations, ...] = ()
    response: tuple[HeaderMutations, ...] = ()
    most_specific_wins: bool = False


FilterSetting: TypeAlias = (
    "AdaptiveConcurrency "
    "| AdmissionControl "
    "| Buffer "
    "| Cors "
    "| CorsPolicy "
    "| Csrf "
    "| ExtAuthz "
    "| ExtAuthzPerRoute "
    "| Fault "
    "| FilterHeaderMutations "
    "| JwtAuthentication "
    "| JwtPerRoute "
    "| LocalRateLimit "
    "| RateLimit "
    "| RateLimitPerRoute "
    "| Rbac "
    "| SetFilterState "
    "| StatefulSession "
    "| FilterSwitch"
)


@dataclass(frozen=True, slots=True)
class HttpFilter:
    """A filter: the name that routes know it by, and its settings, the listener's or some route's.

    Attributes:
        is_disabled: It does nothing but for routes that say something of it (HttpFilter.disabled).
        package: Of its protobufs, by which settings are known to be for this kind of filter; empty for all kinds.
    """

    name: str
    setting: FilterSetting
    is_disabled: bool = False
    package: str = ""


FilterSettings = tuple[HttpFilter, ...]


def settings_of(http_filter: HttpFilter, levels: Sequence[FilterSettings]) -> list[FilterSetting]:
    """What is said of a filter.

    Args:
        http_filter: The listener's.
        levels: Where something may be said, the most specific first.
    """
    said = [one for level in levels for one in level if one.name == http_filter.name]
    fitting = [one.setting for one in said if one.package in ("", http_filter.package)]
    if said and said[0].package not in ("", http_filter.package):
        # Envoy: another filter's settings under this one's name hide those of other levels, and change nothing.
        return [FilterSwitch.ENABLED]
    return fitting


def _parse_header_mutation(container: Any, where: str, notes: Notes) -> FilterHeaderMutations:
    message = unpack(container, header_mutation_pb2.HeaderMutation, where)
    return _mutations(message.mutations, where, notes, message.most_specific_header_mutations_wins)


def _parse_header_mutation_per_route(container: Any, where: str, notes: Notes) -> FilterHeaderMutations:
    message = unpack(container, header_mutation_pb2.HeaderMutationPerRoute, where)
    return _mutations(message.mutations, where, notes, False)


_MUTATION_FIELDS = frozenset({"request_mutations", "response_mutations"})


def _mutations(message: Any, where: str, notes: Notes, most_specific_wins: bool) -> FilterHeaderMutations:
    notes.unless_acted_on(message, f"{where}.mutations", _MUTATION_FIELDS)
    return FilterHeaderMutations(
        request=_steps(message.request_mutations, f"{where}.mutations.request_mutations"),
        response=_steps(message.response_mutations, f"{where}.mutations.response_mutations"),
        most_specific_wins=most_specific_wins,
    )


def _steps(mutations: Any, where: str) -> tuple[HeaderMutations, ...]:
    steps = []
    for index, mutation in enumerate(mutations):
        path = f"{where}[{index}]"
        which = mutation.WhichOneof("action")
        if which == "remove":
            check_name(mutation.remove, f"{path}.remove", "removed")
            steps.append(HeaderMutations(remove=(mutation.remove.lower(),)))
        elif which == "append":
            steps.append(HeaderMutations(add=(parse_addition(mutation.append, f"{path}.append"),)))
        else:
            raise ResourceError(f"{path}.{which}", "is a mutation that meshsdk does not know")
    return tuple(steps)


Parse = Callable[[Any, str, Notes], "FilterSetting | None"]

_FILTERS = "envoy.extensions.filters.http"
_HEADER_MUTATION_TYPE = header_mutation_pb2.HeaderMutation.DESCRIPTOR.full_name


def _by(module: str, function: str) -> Parse:
    """A parser whose module, with its protobufs, is loaded when the first such filter comes."""

    def parse(container: Any, where: str, notes: Notes) -> FilterSetting | None:
        parser: Parse = getattr(importlib.import_module(f".{module}", __package__), function)
        return parser(container, where, notes)

    return parse


_ON_BOTH_SIDES: dict[str, Parse] = {
    f"{_FILTERS}.buffer.v3.Buffer": _by("buffer", "parse_buffer"),
    f"{_FILTERS}.fault.v3.HTTPFault": _by("fault", "parse_fault"),
    _HEADER_MUTATION_TYPE: _parse_header_mutation,
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
    f"{_FILTERS}.cors.v3.Cors": _by("browser_policy", "parse_cors"),
    f"{_FILTERS}.csrf.v3.CsrfPolicy": _by("browser_policy", "parse_csrf"),
    f"{_FILTERS}.ext_authz.v3.ExtAuthz": _by("ext_authz", "parse_ext_authz"),
    f"{_FILTERS}.jwt_authn.v3.JwtAuthentication": _by("jwt", "parse_jwt_authentication"),
    f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit": _by("local_rate_limit", "parse_local_rate_limit"),
    f"{_FILTERS}.ratelimit.v3.RateLimit": _by("rate_limit", "parse_rate_limit"),
    f"{_FILTERS}.rbac.v3.RBAC": _by("rbac", "parse_rbac"),
    f"{_FILTERS}.set_filter_state.v3.Config": _by("filter_state", "parse_set_filter_state"),
}
# None from one of these switches the filter off for the route.
_PER_ROUTE: dict[str, Parse] = {
    f"{_FILTERS}.buffer.v3.BufferPerRoute": _by("buffer", "parse_buffer_per_route"),
    f"{_FILTERS}.cors.v3.CorsPolicy": _by("browser_policy", "parse_cors_policy"),
    f"{_FILTERS}.csrf.v3.CsrfPolicy": _by("browser_policy", "parse_csrf"),
    f"{_FILTERS}.ext_authz.v3.ExtAuthzPerRoute": _by("ext_authz", "parse_ext_authz_per_route"),
    f"{_FILTERS}.fault.v3.HTTPFault": _by("fault", "parse_fault"),
    f"{_FILTERS}.jwt_authn.v3.PerRouteConfig": _by("jwt", "parse_jwt_per_route"),
    f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit": _by("local_rate_limit", "parse_local_rate_limit_per_route"),
    f"{_FILTERS}.ratelimit.v3.RateLimitPerRoute": _by("rate_limit", "parse_rate_limit_per_route"),
    f"{_FILTERS}.rbac.v3.RBACPerRoute": _by("rbac", "parse_rbac_per_route"),
    f"{_FILTERS}.set_filter_state.v3.Config": _by("filter_state", "parse_set_filter_state"),
    f"{_FILTERS}.stateful_session.v3.StatefulSessionPerRoute": _by(
        "stateful_session", "parse_stateful_session_per_route"
    ),
    header_mutation_pb2.HeaderMutationPerRoute.DESCRIPTOR.full_name: _parse_header_mutation_per_route,
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


_WRAPPER = route_components_pb2.FilterConfig.DESCRIPTOR.full_name


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
        wrapper = unpack(container, route_components_pb2.FilterConfig, where)
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
